"""Bytes on disk to lines of text: compression, encodings, line ends, control characters.

One rule holds for every reader:

* CRLF, CR and LF end a line; line numbers count these and start at 1.
* Vertical tab, form feed, U+0085, U+2028 and U+2029 break a line without ending it: a corpus gets a line
  break there, line numbers do not move on.
* The other control characters (NUL and the rest of C0 except tab, DEL, C1), a zero-width no-break space
  (U+FEFF, the byte order mark) anywhere and lone surrogates (which only JSON escapes can bring in) are removed
  from a corpus and counted.
* Everything else stays as it is: joiners and emoji are not touched, nothing is normalised.

Rows of a table keep such characters inside their cells, because spans must point into the user's own string;
only a byte order mark at the start of the file and the line ends are taken away there.
"""

from __future__ import annotations

import bz2
import codecs
import contextlib
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import IO, Any

from bertsmith.errors import InputError, nearest
from bertsmith.remote import Source, name_of, open_source

CHUNK = 1 << 20
"""Bytes that are read and decoded at a time."""

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bzip2", ".xz": "xz"}
"""File name endings that are looked through."""

_COMPRESSED_STARTS = {
    "gzip": re.compile(rb"\x1f\x8b\x08"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
    "bzip2": re.compile(rb"BZh[1-9](?:1AY&SY|\x17\x72\x45\x38\x50\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\x00"),
}
_BINARY_STARTS = (
    (b"PK\x03\x04", "a zip archive (also xlsx, docx and PyTorch files)"),
    (b"\x7fELF", "a program"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF-", "a PDF document"),
    (b"\xd0\xcf\x11\xe0", "an old Office or HWP document"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x03", "a Python pickle"),
    (b"\x80\x04\x95", "a Python pickle"),
    (b"\x80\x05\x95", "a Python pickle"),
    (b"PAR1", "a Parquet file (--format parquet reads it)"),
    (b"ARROW1", "an Arrow file"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
)
# UTF-32's little-endian mark begins with UTF-16's, so it is looked for first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_KNOWN_ENCODINGS = ("utf-8", "utf-16", "utf-16-le", "utf-16-be", "cp949", "euc-kr", "latin-1", "cp1252", "ascii")
_CONTROL_BYTES = bytes(b for b in range(32) if b not in b"\t\n\v\f\r\x1b") + b"\x7f"
_KOREAN_PAIR = re.compile(rb"([\xa1-\xfe][\xa1-\xfe])|[\x81-\xfe][A-Za-z\x81-\xfe]")

_REMOVED = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ud800-\udfff]+")
_BREAKS = re.compile("[\x0b\x0c\x85\u2028\u2029]")


def uncompressed_name(path: Source) -> PurePath:
    """Return ``path`` without the ending of a compression: ``a.txt.gz`` gives ``a.txt``."""
    name = name_of(path)
    return name.with_suffix("") if name.suffix.lower() in COMPRESSIONS else name


def read_bytes(path: Source) -> Iterator[bytes]:
    """Yield a file's bytes in chunks of at most 1 MiB, decompressed if they are compressed.

    What a file holds is told by its first bytes, so a compressed file with a plain name is read too.

    Raises:
        InputError: the file cannot be read, or compressed data is cut short or damaged.
    """
    try:
        with open_source(path) as file:
            start = file.read(16)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path=path) from None
    kind = next((kind for kind, pattern in _COMPRESSED_STARTS.items() if pattern.match(start)), None)
    named = COMPRESSIONS.get(path.suffix.lower())
    if named is not None and kind is None:
        seen = "is empty" if not start else f"starts with {start[:6].hex(' ')}"
        raise InputError(f"is named as {named} data but {seen}, so it was cut short or misnamed", path=path)
    done = 0
    try:
        with _open(path, kind) as file:
            while chunk := file.read(CHUNK):
                done += len(chunk)
                yield chunk
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        what = f"is not whole {kind} data" if kind else "cannot be read"
        raise InputError(f"{what}: {error} (after {done:,} bytes of content)", path=path) from None


@contextlib.contextmanager
def _open(path: Source, kind: str | None) -> Iterator[IO[bytes]]:
    with open_source(path) as file:
        if kind is None:
            yield file
            return
        if kind == "zstd":
            import pyarrow as pa

            # pyarrow notices a frame that is cut short; zstandard's reader ends silently there.
            source = pa.OSFile(str(path)) if isinstance(path, Path) else pa.PythonFile(file)
            stream: IO[bytes] = pa.CompressedInputStream(source, "zstd")
        else:
            openers: dict[str, Callable[..., Any]] = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}
            stream = openers[kind](file, "rb")
        with stream:
            yield stream


def open_text(path: Source, encoding: str = "auto") -> tuple[str, Iterator[str]]:
    """Return the encoding of a file and its text in chunks, as decoded (see :func:`clean` for what comes after).

    ``auto`` obeys a byte order mark, else tries UTF-8 strictly over the whole file, then cp949. cp949 also
    decodes some English and German files with typographic quotes or umlauts, so it is taken only when most of
    the two-byte characters are among the 2,350 common syllables or the symbols of KS X 1001.

    Raises:
        InputError: the file is binary, or its bytes do not decode (with the first offset that does not, counted
            in the decompressed content), or ``encoding`` is not known.
    """
    name = encoding if encoding == "auto" else check_encoding(encoding)
    start = next(read_bytes(path), b"")[:65536]
    # UTF-16 and UTF-32 text is half NUL bytes; only their mark or their name tells them from binary data.
    marked = next((codec for mark, codec in _MARKS if start.startswith(mark)), None)
    if not (marked or _is_wide(name)):
        _refuse_binary(path, start)
    if name == "auto":
        name = marked or _try_encodings(path)
    return name, _without_mark(decode(read_bytes(path), name, path=path))


def _without_mark(chunks: Iterator[str]) -> Iterator[str]:
    if first := next(chunks, ""):
        yield first.removeprefix("\ufeff")
    yield from chunks


def check_encoding(encoding: str) -> str:
    """Return the name of a text encoding that Python knows.

    Raises:
        InputError: it is not one.
    """
    try:
        codec = codecs.lookup(encoding)
        codec.incrementaldecoder("strict").decode(b"", final=True).encode("utf-8")
    except (LookupError, TypeError, AttributeError, ValueError, EOFError):
        raise InputError(
            f"{encoding!r} is not a text encoding.{nearest(encoding, _KNOWN_ENCODINGS)} "
            f"Known are auto, {', '.join(_KNOWN_ENCODINGS)} and what else Python knows"
        ) from None
    return {"iso8859-1": "latin-1", "utf-8-sig": "utf-8"}.get(codec.name, codec.name)


def decode(chunks: Iterable[bytes], encoding: str, *, path: Source | str) -> Iterator[str]:
    """Decode chunks of bytes strictly.

    Raises:
        InputError: bytes do not decode; the message gives the first one's offset, the error its line.
    """
    try:
        yield from _decode(chunks, encoding)
    except _UndecodableError as error:
        raise InputError(
            f"{error}; name the encoding it was written in with --encoding", path=path, line=error.line
        ) from None


class _UndecodableError(Exception):
    def __init__(self, message: str, line: int | None) -> None:
        super().__init__(message)
        self.line = line


def _decode(chunks: Iterable[bytes], encoding: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    fed = lines = 0
    for chunk, final in _with_end(chunks):
        fed += len(chunk)
        try:
            text = decoder.decode(chunk, final)
        except UnicodeDecodeError as error:
            # The object is what was left from the last chunk and this one.
            offset = fed - len(error.object) + error.start
            seen = error.object[error.start : error.start + 1].hex()
            line = None if _is_wide(encoding) else lines + error.object[: error.start].count(b"\n") + 1
            raise _UndecodableError(f"byte 0x{seen} at offset {offset:,} is not {encoding}", line) from None
        lines += chunk.count(b"\n")
        if text:
            yield text


def _is_wide(encoding: str) -> bool:
    return encoding.startswith(("utf-16", "utf-32"))


def _with_end(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    for chunk in chunks:
        yield chunk, False
    yield b"", True


def _refuse_binary(path: Source, start: bytes) -> None:
    kind = next((kind for magic, kind in _BINARY_STARTS if start.startswith(magic)), None)
    if kind is None:
        share = (len(start) - len(start.translate(None, _CONTROL_BYTES))) / max(len(start), 1)
        # A few stray control characters are cleaned away; a file full of them, or one that is not UTF-8 either
        # and has some, was never text.
        if share > (0.05 if not _is_utf8(start) else 0.3):
            kind = f"binary data ({share:.0%} of its first bytes are control characters)"
            if start.count(0) >= len(start) // 3:
                kind += ", unless it is UTF-16: then say --encoding utf-16-le or utf-16-be"
    if kind is not None:
        raise InputError(f"expected text, but this is {kind}", path=path)


def _is_utf8(start: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")("strict").decode(start)
    except UnicodeDecodeError:
        return False
    return True


def _try_encodings(path: Source) -> str:
    try:
        for _ in _decode(read_bytes(path), "utf-8"):
            pass
        return "utf-8"
    except _UndecodableError as error:
        not_utf8 = error
    try:
        for _ in _decode(read_bytes(path), "cp949"):
            pass
        if _looks_korean(path):
            return "cp949"
        reason = "as cp949 it would hold few common Korean syllables"
    except _UndecodableError as error:
        reason = str(error)
    raise InputError(
        f"{not_utf8}, and {reason}; name the encoding it was written in, "
        "for example --encoding latin-1 or --encoding cp1252",
        path=path,
        line=not_utf8.line,
    )


def _looks_korean(path: Source) -> bool:
    common = rare = 0
    for chunk in read_bytes(path):
        pairs = _KOREAN_PAIR.findall(chunk)
        found = sum(map(bool, pairs))
        common, rare = common + found, rare + len(pairs) - found
    return common > rare


@dataclass
class Removed:
    """What :func:`clean` took out or changed."""

    control_characters: int = 0
    line_breaks: int = 0
    replacement_characters: int = 0

    def merge(self, other: Removed) -> None:
        """Add what ``other`` counted."""
        self.control_characters += other.control_characters
        self.line_breaks += other.line_breaks
        self.replacement_characters += other.replacement_characters


def clean(text: str, removed: Removed) -> str:
    """Apply this module's rule to ``text`` and count in ``removed``.

    Unusual line breaks come out as a vertical tab, so that the caller can tell them from line ends; U+FFFD
    (somebody else's decoding error) is counted and kept.
    """
    if _REMOVED.search(text):
        short = _REMOVED.sub("", text)
        removed.control_characters += len(text) - len(short)
        text = short
    if _BREAKS.search(text):
        text, count = _BREAKS.subn("\v", text)
        removed.line_breaks += count
    if "\ufffd" in text:
        removed.replacement_characters += text.count("\ufffd")
    return text


def physical_lines(chunks: Iterable[str], longest: int, *, path: Source | str) -> Iterator[str]:
    """Split chunks at CRLF, CR and LF and yield lines without their ends.

    Raises:
        InputError: a line is longer than ``longest`` characters.
    """
    for number, line, ends in line_pieces(chunks, longest):
        if not ends:
            raise InputError(f"line is longer than {longest:,} characters", path=path, line=number)
        yield line


def line_pieces(chunks: Iterable[str], longest: int) -> Iterator[tuple[int, str, bool]]:
    """Split chunks at CRLF, CR and LF; yield (line number, text, whether the line ends here).

    A line of more than ``longest`` characters comes in pieces, cut at whitespace where there is any.
    """
    number, rest = 1, ""
    for text in _unix_ends(chunks):
        # A piece that already holds no line end is only searched again where new text came in.
        parts = text.split("\n")
        parts[0] = rest + parts[0]
        rest = parts.pop()
        for part in parts:
            line = part
            while len(line) > longest:
                cut = cut_point(line, longest)
                yield number, line[:cut], False
                line = line[cut:]
            yield number, line, True
            number += 1
        while len(rest) > longest:
            cut = cut_point(rest, longest)
            yield number, rest[:cut], False
            rest = rest[cut:]
    if rest:
        yield number, rest, True


def _unix_ends(chunks: Iterable[str]) -> Iterator[str]:
    held = ""
    for chunk in chunks:
        text = held + chunk
        # A CR at the end may be the first half of a CRLF.
        held = "\r" if text.endswith("\r") else ""
        if "\r" in text:
            text = text.removesuffix("\r").replace("\r\n", "\n").replace("\r", "\n")
        if text:
            yield text
    if held:
        yield "\n"


def cut_point(text: str, longest: int) -> int:
    """Return where to cut ``text`` so that the first part has at most ``longest`` characters: after whitespace
    in its last tenth, or else exactly there.
    """
    space = max(text.rfind(mark, longest - longest // 10, longest) for mark in " \t\v\u3000")
    return space + 1 if space >= 0 else longest
