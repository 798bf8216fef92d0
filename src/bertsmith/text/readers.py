"""Files as people have them to documents: txt, jsonl, csv/tsv, parquet, compressed or not."""

from __future__ import annotations

import glob
import itertools
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bertsmith.config import CorpusSettings
from bertsmith.errors import InputError, nearest
from bertsmith.text.decoding import Removed, clean, line_pieces, open_text, uncompressed_name
from bertsmith.text.tables import open_records

MAX_LINE = 1 << 20
"""A longer line is read in parts, cut at a space (characters)."""

MAX_DOCUMENT = 4 << 20
"""A longer document goes on as further documents (characters)."""

SAMPLE_LINES = 4000
SAMPLE_CHARACTERS = 500_000

TEXT_ENDINGS = (".txt", ".text")
TABLE_ENDINGS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}


@dataclass(frozen=True)
class Document:
    """A text that belongs together.

    Attributes:
        text: its paragraphs (or lines) separated by newlines; none is empty.
        source: the file.
        line: where it starts in the file, counted from 1.
    """

    text: str
    source: str
    line: int


@dataclass
class ReadReport:
    """What readers met, over all files.

    Attributes:
        encodings: how each file was decoded, by path.
        document_rules: what counted as a document in each txt file, by path.
        wrapped_files: files whose hard-wrapped lines were joined into paragraphs.
        removed: control characters and unusual line breaks.
        cut_lines: lines that were too long and were read in parts.
        cut_documents: documents that were too long and go on as others.
        empty_rows: rows of tables without text.
    """

    encodings: dict[str, str] = field(default_factory=dict)
    document_rules: dict[str, str] = field(default_factory=dict)
    wrapped_files: list[str] = field(default_factory=list)
    removed: Removed = field(default_factory=Removed)
    cut_lines: int = 0
    cut_documents: int = 0
    empty_rows: int = 0

    def warnings(self) -> list[str]:
        """Return a sentence for everything that a user should know about."""
        found = []
        others: dict[str, list[str]] = {}
        for path, name in self.encodings.items():
            if name not in ("utf-8", "parquet"):
                others.setdefault(name, []).append(path)
        found += [f"{len(paths)} file(s) read as {name}, first {paths[0]}" for name, paths in others.items()]
        counts = (
            (self.removed.control_characters, "control characters removed"),
            (self.removed.line_breaks, "unusual line breaks (U+2028 and its like) read as line breaks"),
            (self.removed.replacement_characters, "replacement characters (U+FFFD): broken before it came here"),
            (self.cut_lines, f"lines longer than {MAX_LINE:,} characters read in parts"),
            (self.cut_documents, f"documents longer than {MAX_DOCUMENT:,} characters split"),
            (self.empty_rows, "rows without text left out"),
        )
        return found + [f"{count:,} {what}" for count, what in counts if count]


def find_files(corpus: Sequence[Path | str], settings: CorpusSettings) -> list[Path]:
    """Return the files of a corpus, each once: named files, folders (recursive, sorted), glob patterns.

    In a folder hidden files and unknown endings are left out, unless ``settings.format`` says what all are.

    Raises:
        InputError: a name matches nothing, or every file is empty.
    """
    found: dict[Path, None] = {}
    for entry in corpus:
        path = Path(entry)
        if path.is_dir():
            below = (p for p in sorted(path.rglob("*")) if p.is_file() and not _hidden(p.relative_to(path)))
            files = [p for p in below if settings.format != "auto" or _known(p)]
            if not files:
                known = ", ".join((*TEXT_ENDINGS, *TABLE_ENDINGS))
                raise InputError(f"no text in this folder; expected files ending in {known}, or --format", path=path)
        elif path.exists():
            files = [path]
        else:
            files = [Path(p) for p in sorted(glob.glob(str(path), recursive=True)) if Path(p).is_file()]  # noqa: PTH207
            if not files:
                raise InputError("no such file or folder, and no match as a pattern", path=path)
        found.update(dict.fromkeys(files))
    if all(path.stat().st_size == 0 for path in found):
        raise InputError(f"the corpus is empty: {len(found)} file(s) of 0 bytes", path=next(iter(found)))
    return list(found)


def read_documents(path: Path, settings: CorpusSettings, report: ReadReport) -> Iterator[Document]:
    """Yield the documents of one file in order; memory holds one at a time.

    Raises:
        InputError: the file cannot be read, decoded or parsed, or has no such column.
    """
    kind = _format(path, settings)
    return _read_text(path, settings, report) if kind == "txt" else _read_table(path, kind, settings, report)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _known(path: Path) -> bool:
    return uncompressed_name(path).suffix.lower() in (*TEXT_ENDINGS, *TABLE_ENDINGS)


def _format(path: Path, settings: CorpusSettings) -> str:
    if settings.format != "auto":
        return settings.format
    return TABLE_ENDINGS.get(uncompressed_name(path).suffix.lower(), "txt")


def _read_table(path: Path, kind: str, settings: CorpusSettings, report: ReadReport) -> Iterator[Document]:
    # jsonl is read whole, so that a missing field can be answered with the fields there are.
    only = None if kind == "jsonl" else [settings.field]
    records = open_records(path, encoding=settings.encoding, format=kind, only=only)
    report.encodings[str(path)] = records.encoding
    for line, cells in records.rows:
        if settings.field not in cells:
            hint = nearest(settings.field, cells)
            message = f"has no field {settings.field!r}.{hint} Fields: {', '.join(cells)} (--field)"
            raise InputError(message, path=path, line=line)
        paragraphs = _paragraphs(cells[settings.field].splitlines(), report)
        if not paragraphs:
            report.empty_rows += 1
        yield from _bounded(paragraphs, path, line, report)


def _paragraphs(lines: Iterable[str], report: ReadReport) -> list[str]:
    cleaned = (part.strip() for line in lines for part in clean(line, report.removed).split("\v"))
    return [part for part in cleaned if part]


def _bounded(paragraphs: list[str], path: Path, line: int, report: ReadReport) -> Iterator[Document]:
    """Yield a document, in several parts if it is too long."""
    part: list[str] = []
    size = 0
    for paragraph in paragraphs:
        if part and size + len(paragraph) > MAX_DOCUMENT:
            report.cut_documents += 1
            yield Document("\n".join(part), str(path), line)
            part, size = [], 0
        part.append(paragraph)
        size += len(paragraph) + 1
    if part:
        yield Document("\n".join(part), str(path), line)


@dataclass(frozen=True)
class Layout:
    """How a txt file is laid out.

    Attributes:
        documents: "file", "blank-line" or "line": what one document is.
        wrap_width: the column at which lines were hard-wrapped, or None.
    """

    documents: str
    wrap_width: int | None


def detect_layout(lines: Sequence[str]) -> Layout:
    """Tell a txt file's layout from its first lines.

    Lines are hard-wrapped if nearly always the next line's first word would not have fitted on the line. Blank
    lines separate paragraphs (and the file is one document) if the text is hard-wrapped or nearly every block
    between them is a single line; otherwise they separate documents.
    """
    blocks: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            blocks[-1].append(line.rstrip())
        elif blocks[-1]:
            blocks.append([])
    blocks = [block for block in blocks if block]
    width = _wrap_width(blocks)
    if len(blocks) < 2 or width is not None:
        return Layout("file", width)
    single = sum(len(block) == 1 for block in blocks) / len(blocks)
    return Layout("file" if single > 0.8 else "blank-line", None)


def _wrap_width(blocks: list[list[str]]) -> int | None:
    pairs = [pair for block in blocks for pair in itertools.pairwise(block)]
    if len(pairs) < 20:
        return None
    lengths = sorted(len(line) for line, _ in pairs)
    width = lengths[int(0.98 * (len(lengths) - 1))]
    if not 40 <= width <= 120 or statistics.median(lengths) < 0.8 * width:
        return None
    full = sum(len(line) + 1 + len(following.split(maxsplit=1)[0]) > 0.95 * width for line, following in pairs)
    return width if full >= 0.85 * len(pairs) else None


def _read_text(path: Path, settings: CorpusSettings, report: ReadReport) -> Iterator[Document]:
    report.encodings[str(path)], chunks = open_text(path, settings.encoding)
    pieces = line_pieces(chunks, MAX_LINE)
    head = _head(pieces)
    layout = detect_layout([text for _, text, _ in head])
    rule = layout.documents if settings.documents == "auto" else settings.documents
    report.document_rules[str(path)] = rule
    joiner = _Joiner(layout.wrap_width) if layout.wrap_width is not None and rule != "line" else None
    if joiner:
        report.wrapped_files.append(str(path))
    paragraphs: list[str] = []
    start, size = 1, 0
    for number, text, ends in _chained(head, pieces):
        report.cut_lines += not ends
        parts = _paragraphs([text], report)
        blank = not parts
        if not blank and not paragraphs and not (joiner and joiner.text):
            start = number
        if joiner:
            parts = joiner.add(parts)
        paragraphs += parts
        size += sum(len(part) + 1 for part in parts)
        if rule == "line" or (rule == "blank-line" and blank) or size > MAX_DOCUMENT:
            report.cut_documents += size > MAX_DOCUMENT
            if paragraphs:
                yield Document("\n".join(paragraphs), str(path), start)
            paragraphs, size = [], 0
    if joiner:
        paragraphs += joiner.flush()
    if paragraphs:
        yield Document("\n".join(paragraphs), str(path), start)


def _head(pieces: Iterator[tuple[int, str, bool]]) -> list[tuple[int, str, bool]]:
    head: list[tuple[int, str, bool]] = []
    size = 0
    while len(head) < SAMPLE_LINES and size < SAMPLE_CHARACTERS and (piece := next(pieces, None)) is not None:
        head.append(piece)
        size += len(piece[1])
    return head


def _chained(
    head: list[tuple[int, str, bool]], rest: Iterator[tuple[int, str, bool]]
) -> Iterator[tuple[int, str, bool]]:
    yield from head
    head.clear()
    yield from rest


@dataclass
class _Joiner:
    """Joins hard-wrapped lines to paragraphs.

    A line that clearly had room for the next word was ended on purpose (verse, headings) and stays a line.
    A hyphen at a line's end keeps standing without a space: "well-" and "known" give "well-known".
    """

    width: int
    text: str = ""
    last_length: int = 0

    def add(self, lines: list[str]) -> list[str]:
        """Take the next lines (none for a blank line) and return the paragraphs that ended."""
        ended = [] if lines else self.flush()
        for line in lines:
            if self.text and self.last_length + 1 + len(line.split(maxsplit=1)[0]) > 0.75 * self.width:
                self.text += line if self.text.endswith("-") and self.text[-2:-1].isalpha() else f" {line}"
            else:
                ended += self.flush()
                self.text = line
            self.last_length = len(line)
        return ended

    def flush(self) -> list[str]:
        """Return the paragraph under way, if there is one, and begin anew."""
        ended, self.text = ([self.text] if self.text else []), ""
        return ended
