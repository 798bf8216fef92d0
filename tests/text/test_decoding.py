from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from bertsmith.errors import InputError
from bertsmith.text import decoding
from bertsmith.text.decoding import Removed, clean, line_pieces, open_text, read_bytes

KOREAN = "한국어 문장입니다. 안녕하세요.\n둘째 줄입니다.\n"


def read(path: Path, encoding: str = "auto") -> tuple[str, str]:
    name, chunks = open_text(path, encoding)
    return name, "".join(chunks)


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8"),
        ("utf-16", "utf-16"),
        ("utf-32", "utf-32"),
        ("cp949", "cp949"),
        ("euc-kr", "cp949"),
    ],
)
def test_encodings_are_found(tmp_path: Path, encoding: str, expected: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(KOREAN.encode(encoding))
    assert read(path) == (expected, KOREAN)


def test_a_named_encoding_is_obeyed(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("Café à l'été, naïve".encode("latin-1"))
    assert read(path, "latin-1") == ("latin-1", "Café à l'été, naïve")
    path.write_bytes("ab가".encode("utf-16-le"))
    assert read(path, "UTF_16_LE")[1] == "ab가"


@pytest.mark.parametrize("chunk", [2, 3, 7])
def test_characters_may_lie_across_chunks(tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(KOREAN.encode("cp949"))
    monkeypatch.setattr(decoding, "CHUNK", chunk)
    assert read(path) == ("cp949", KOREAN)


def test_undecodable_bytes_give_offset_line_and_a_hint(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"plain\nline\nCaf\xe9 noir\n")
    with pytest.raises(InputError, match=r"byte 0xe9 at offset 14 .*--encoding latin-1") as error:
        read(path)
    assert error.value.line == 3
    with pytest.raises(InputError, match=r"byte 0xe9 at offset 14 is not utf-8.*--encoding"):
        read(path, "utf-8")


def test_a_character_cut_off_at_the_end_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("한국".encode()[:-1])
    with pytest.raises(InputError, match="offset 3 is not utf-8"):
        read(path, "utf-8")


def test_the_offset_is_right_beyond_the_first_chunk(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * (decoding.CHUNK - 1) + b"\xec" + b"y" * 10)
    with pytest.raises(InputError, match=f"offset {decoding.CHUNK - 1:,} "):
        read(path, "utf-8")


def test_english_with_windows_quotes_is_not_taken_for_korean(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    # Each of these decodes as cp949, to a rare Hangul syllable.
    path.write_bytes("It’s what we don’t know, he’d say.".encode("cp1252"))
    with pytest.raises(InputError, match="few common Korean syllables"):
        read(path)
    assert read(path, "cp1252")[1].startswith("It’s")


@pytest.mark.parametrize("name", ["utf-9", "base64", "rot13", "hex", ""])
def test_an_unknown_encoding_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text("text")
    with pytest.raises(InputError, match="not a text encoding"):
        read(path, name)


def test_an_unknown_encoding_gets_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("text")
    with pytest.raises(InputError, match="Did you mean 'latin-1'"):
        read(path, "latin-one")


def zip_bytes() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", "text")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (zip_bytes(), "zip archive"),
        (pickle.dumps({"a": [1] * 10}), "pickle"),
        (b"\x7fELF\x02\x01\x01" + bytes(100), "program"),
        (b"\x89PNG\r\n\x1a\n" + bytes(20), "PNG"),
        (b"\x00\x01\x02\x03" * 100, "binary data"),
        (bytes(range(256)) * 8, "binary data"),
        ("plain ascii".encode("utf-16-le"), "utf-16-le"),
    ],
)
def test_binary_files_are_refused(tmp_path: Path, data: bytes, kind: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    with pytest.raises(InputError, match=kind):
        read(path)


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor(write_checksum=True).compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


@pytest.mark.parametrize("ending", COMPRESS)
def test_compressed_files_are_looked_through(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.txt{ending}"
    # Two frames one after the other are one file, as "cat a.gz b.gz" makes them.
    path.write_bytes(COMPRESS[ending](KOREAN.encode()) + COMPRESS[ending](KOREAN.encode()))
    assert read(path) == ("utf-8", KOREAN * 2)
    plain = path.rename(tmp_path / "a.txt")
    assert read(plain) == ("utf-8", KOREAN * 2)


@pytest.mark.parametrize("ending", COMPRESS)
def test_compressed_files_cut_short_or_damaged_are_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.txt{ending}"
    whole = COMPRESS[ending]("".join(f"{i * i % 977} " for i in range(20_000)).encode())
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(InputError, match="is not whole"):
        b"".join(read_bytes(path))
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(byte ^ 255 for byte in whole[middle : middle + 8]) + whole[middle + 8 :])
    with pytest.raises(InputError, match="is not whole"):
        b"".join(read_bytes(path))


@pytest.mark.parametrize("ending", COMPRESS)
def test_plain_text_with_a_compressed_name_is_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.txt{ending}"
    path.write_text("plain text")
    with pytest.raises(InputError, match="is named as"):
        b"".join(read_bytes(path))


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            b"".join(read_bytes(path))


def test_cleaning_removes_controls_marks_breaks_and_keeps_joiners() -> None:
    removed = Removed()
    text = "a\x00b\x1b\x7f\x9c\ufeff\ud800c\td\x0b\x0c\x85\u2028\u2029 👨\u200d👩\u200d👧 \u00ad\u200b\ufffd"
    assert clean(text, removed) == "abc\td\v\v\v\v\v 👨\u200d👩\u200d👧 \u00ad\u200b\ufffd"
    assert removed == Removed(control_characters=6, line_breaks=5, replacement_characters=1)


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_crlf_cr_and_lf_end_lines_wherever_chunks_end(size: int) -> None:
    text = "one\r\ntwo\rthree\n\r\n\rlast\r"
    chunks = [text[i : i + size] for i in range(0, len(text), size)]
    found = [(number, line) for number, line, _ in line_pieces(chunks, 100)]
    assert found == list(enumerate(["one", "two", "three", "", "", "last"], start=1))


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_long_lines_come_in_parts_cut_at_spaces(size: int) -> None:
    text = "word " * 50 + "\nshort\n" + "x" * 45
    chunks = [text[i : i + size] for i in range(0, len(text), size)]
    pieces = list(line_pieces(chunks, 20))
    assert "".join(line + "\n" * ends for _, line, ends in pieces) == text + "\n"
    assert all(len(line) <= 20 for _, line, _ in pieces)
    assert all(line.endswith("word ") for number, line, ends in pieces if number == 1 and not ends)
    assert [number for number, _, _ in pieces if number > 1] == [2, 3, 3, 3]
