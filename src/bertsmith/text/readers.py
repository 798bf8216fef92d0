"""Files as people have them to documents: txt, jsonl, csv/tsv, parquet, compressed or not.

Encodings, line ends and control characters: :mod:`bertsmith.text.decoding`. Rows: :mod:`bertsmith.text.tables`.
What a document is in a txt file, and hard-wrapped lines: :mod:`bertsmith.text.layout`.
"""

from __future__ import annotations

import glob
import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bertsmith.errors import InputError
from bertsmith.locations import Location, Url, as_location
from bertsmith.remote import Source, cache_of, find_remote, size_of
from bertsmith.text.decoding import Removed, clean, cut_point, line_pieces, open_text, uncompressed_name
from bertsmith.text.layout import Line, detect_layout, join_wrapped
from bertsmith.text.tables import FORMATS, open_records

if TYPE_CHECKING:
    from bertsmith.config import CorpusSettings

MAX_LINE = 1 << 20
"""A longer line is read in parts, cut at a space (characters)."""

MAX_DOCUMENT = 1 << 22
"""A longer document goes on as further documents (characters)."""

SAMPLE_CHARACTERS = 1 << 18
"""How much of the start of a txt file its layout is told from."""

ENDINGS = {".txt": "txt", ".text": "txt"} | FORMATS
"""What a file name's ending, looked at without that of a compression, says about its format."""


@dataclass(frozen=True)
class Document:
    """A text that belongs together.

    Attributes:
        text: its paragraphs (or lines) separated by newlines; none is empty.
        source: the file.
        line: where it starts in the file, counted from 1: a line, or for parquet a row.
    """

    text: str
    source: str
    line: int


@dataclass
class ReadReport:
    """What readers met, over all files.

    Attributes:
        documents: documents that were read.
        encodings: how each file was decoded, by path.
        document_rules: what counted as a document in each txt file, by path.
        wrapped_files: files whose hard-wrapped lines were joined into paragraphs.
        skipped_files: files in folders that were left out because of their name's ending, counted by it.
        removed: control characters and unusual line breaks.
        cut_lines: cuts in lines that were too long and were read in parts.
        cut_documents: cuts in documents that were too long and go on as others.
        empty_rows: rows of tables without text.
    """

    documents: int = 0
    encodings: dict[str, str] = field(default_factory=dict)
    document_rules: dict[str, str] = field(default_factory=dict)
    wrapped_files: list[str] = field(default_factory=list)
    skipped_files: dict[str, int] = field(default_factory=dict)
    removed: Removed = field(default_factory=Removed)
    cut_lines: int = 0
    cut_documents: int = 0
    empty_rows: int = 0

    def merge(self, other: ReadReport) -> None:
        """Add what ``other`` counted."""
        self.documents += other.documents
        self.encodings |= other.encodings
        self.document_rules |= other.document_rules
        self.wrapped_files += other.wrapped_files
        self.skipped_files = dict(Counter(self.skipped_files) + Counter(other.skipped_files))
        self.removed.merge(other.removed)
        self.cut_lines += other.cut_lines
        self.cut_documents += other.cut_documents
        self.empty_rows += other.empty_rows

    def choices(self) -> list[str]:
        """Return a line for each way in which files were read."""
        meaning = {
            "file": "a document is a whole file",
            "blank-line": "a document is what stands between blank lines",
            "line": "a document is a line",
        }
        encodings = (f"{_files(group)} read as {name}" for name, group in _grouped(self.encodings))
        rules = (f"{meaning[rule]}: {_files(group)}" for rule, group in _grouped(self.document_rules))
        wrapped = [f"hard-wrapped lines joined: {_files(self.wrapped_files)}"] if self.wrapped_files else []
        return [*encodings, *rules, *wrapped]

    def warnings(self) -> list[str]:
        """Return a line for everything that was guessed, skipped, cut or removed."""
        found = [
            f"{_files(group)} read as {name}"
            for name, group in _grouped(self.encodings)
            if name not in ("utf-8", "parquet")
        ]
        if self.skipped_files:
            endings = ", ".join(f"{ending or 'none'} ({n:,})" for ending, n in sorted(self.skipped_files.items()))
            found.append(f"{sum(self.skipped_files.values()):,} file(s) skipped for their name's ending: {endings}")
        removed = self.removed
        if n := removed.control_characters:
            found.append(f"{n:,} control character(s) removed")
        if n := removed.line_breaks:
            found.append(f"{n:,} unusual line break(s) (U+2028 and its like) read as line breaks")
        if n := removed.replacement_characters:
            found.append(f"{n:,} replacement character(s) (U+FFFD): broken before it came here")
        if n := self.cut_lines:
            found.append(f"{n:,} cut(s) in lines longer than {MAX_LINE:,} characters")
        if n := self.cut_documents:
            found.append(f"{n:,} cut(s) in documents longer than {MAX_DOCUMENT:,} characters")
        if n := self.empty_rows:
            found.append(f"{n:,} row(s) without text left out")
        return found


def _grouped(names: dict[str, str]) -> list[tuple[str, list[str]]]:
    groups: dict[str, list[str]] = {}
    for path, name in names.items():
        groups.setdefault(name, []).append(path)
    return sorted(groups.items())


def _files(paths: list[str]) -> str:
    return paths[0] if len(paths) == 1 else f"{len(paths):,} files (first {paths[0]})"


def find_files(
    corpus: Sequence[Location | str], settings: CorpusSettings, report: ReadReport | None = None
) -> list[Source]:
    """Return the files of a corpus, each once: named files, folders (recursive, sorted), glob patterns, also by URL.

    In folders and from patterns, hidden files and those whose ending is unknown, or tells of another format
    than ``settings.format``, are left out; the latter are counted in ``report``. A format set by hand takes
    unknown endings too.

    Raises:
        InputError: a name matches nothing that can be read, or every file is empty.
    """
    found: dict[Path | str, Source] = {}
    skipped: Counter[str] = Counter()
    for entry in corpus:
        path: Location = as_location(entry)
        candidates, is_named = find_remote(path, cache_of(settings)) if isinstance(path, Url) else _find_here(path)
        if is_named:
            found.setdefault(_identity(candidates[0]), candidates[0])
            continue
        taken = [p for p in candidates if _is_wanted(p, settings.format)]
        skipped.update(uncompressed_name(p).suffix.lower() for p in candidates if not _is_wanted(p, settings.format))
        if not taken:
            raise InputError(
                f"holds no file to read among {len(candidates)}; expected endings {', '.join(ENDINGS)} "
                "(also with .gz, .zst, .bz2 or .xz), or say --format",
                path=path,
            )
        for file in taken:
            found.setdefault(_identity(file), file)
    if report is not None:
        report.skipped_files = dict(Counter(report.skipped_files) + skipped)
    if all(size_of(file) == 0 for file in found.values()):
        raise InputError(f"the corpus is empty: {len(found)} file(s) of 0 bytes", path=next(iter(found.values()), None))
    return list(found.values())


def require_documents(report: ReadReport, corpus: Sequence[Location | str]) -> None:
    """Check, after reading, that there was text.

    Raises:
        InputError: no document was read.
    """
    if not report.documents:
        raise InputError("the corpus is empty: no text in its files", path=corpus[0] if corpus else None)


def _identity(file: Source) -> Path | str:
    return file.resolve() if isinstance(file, Path) else str(file)


def _find_here(path: Path) -> tuple[Sequence[Source], bool]:
    """Return the files that a path or pattern names, and whether it is one file by its own name."""
    if path.is_dir():
        return _walk(path), False
    if path.exists():
        return [path], True
    matches = [Path(p) for p in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207
    if not matches:
        raise InputError("no such file or folder, and nothing matches it as a pattern", path=path)
    return [p for match in matches for p in (_walk(match) if match.is_dir() else [match])], False


def _walk(folder: Path) -> list[Path]:
    files = []
    visited = set()
    for parent, folders, names in os.walk(folder, followlinks=True):
        # Links may lead in circles.
        real = os.path.realpath(parent)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted(path for path in files if path.is_file())


def _is_wanted(path: Source, format: str) -> bool:  # noqa: A002
    known = ENDINGS.get(uncompressed_name(path).suffix.lower())
    return known is not None if format == "auto" else known in (None, format)


def _format(path: Source, settings: CorpusSettings) -> str:
    if settings.format != "auto":
        return settings.format
    ending = uncompressed_name(path).suffix.lower()
    if ending == ".json":
        raise InputError("a .json file may be laid out in many ways; --format jsonl reads one object a line", path=path)
    return ENDINGS.get(ending, "txt")


def read_documents(path: Source, settings: CorpusSettings, report: ReadReport) -> Iterator[Document]:
    """Yield the documents of one file in order; memory holds one at a time, 4 Mi characters at most.

    Raises:
        InputError: the file cannot be read, decoded or parsed, or has no such column.
    """
    kind = _format(path, settings)
    paragraphs = _text_paragraphs(path, settings, report) if kind == "txt" else _cells(path, kind, settings, report)
    return _documents(paragraphs, path, report)


def _documents(paragraphs: Iterable[Line | None], path: Source, report: ReadReport) -> Iterator[Document]:
    """Gather paragraphs up to each None, which ends a document."""
    gathered: list[str] = []
    start = size = 0
    for paragraph in itertools.chain(paragraphs, [None]):
        full = paragraph is not None and size + len(paragraph[1]) > MAX_DOCUMENT
        if gathered and (paragraph is None or full):
            report.documents += 1
            report.cut_documents += full
            yield Document("\n".join(gathered), str(path), start)
            gathered, size = [], 0
        if paragraph is not None:
            if not gathered:
                start = paragraph[0]
            gathered.append(paragraph[1])
            size += len(paragraph[1]) + 1


def _text_paragraphs(path: Source, settings: CorpusSettings, report: ReadReport) -> Iterator[Line | None]:
    report.encodings[str(path)], chunks = open_text(path, settings.encoding)
    lines = _clean_lines(chunks, report)
    head = _take(lines, SAMPLE_CHARACTERS)
    layout = detect_layout([text for _, text in head])
    rule = layout.documents if settings.documents == "auto" else settings.documents
    report.document_rules[str(path)] = rule
    lines = itertools.chain(head, lines)
    if layout.wrap_width is not None and rule != "line":
        report.wrapped_files.append(str(path))
        lines = join_wrapped(lines, layout.wrap_width, MAX_LINE)
    for number, line in lines:
        text = line.strip()
        if text:
            yield number, text
        if rule == "line" or (rule == "blank-line" and not text):
            yield None


def _clean_lines(chunks: Iterable[str], report: ReadReport) -> Iterator[Line]:
    cleaned = (clean(chunk, report.removed) for chunk in chunks)
    for number, line, ends in line_pieces(cleaned, MAX_LINE):
        report.cut_lines += not ends
        if "\v" in line:
            # Breaks inside a line break it, but make no blank line of their own.
            parts = [part for part in line.split("\v") if part.strip()] or [""]
            yield from ((number, part) for part in parts)
        else:
            yield number, line


def _take(lines: Iterator[Line], characters: int) -> list[Line]:
    head = []
    while characters > 0 and (line := next(lines, None)) is not None:
        head.append(line)
        characters -= len(line[1]) + 1
    return head


def _cells(path: Source, kind: str, settings: CorpusSettings, report: ReadReport) -> Iterator[Line | None]:
    records = open_records(
        path, encoding=settings.encoding, quoting=settings.quoting, format=kind, only=[settings.field]
    )
    report.encodings[str(path)] = records.encoding
    for line, row in records.rows:
        empty = True
        for text in clean(row[settings.field], report.removed).replace("\v", "\n").splitlines():
            for part in _parts(text.strip(), report):
                empty = False
                yield line, part
        report.empty_rows += empty
        yield None


def _parts(text: str, report: ReadReport) -> Iterator[str]:
    while len(text) > MAX_LINE:
        cut = cut_point(text, MAX_LINE)
        report.cut_lines += 1
        yield text[:cut].strip()
        text = text[cut:]
    if text:
        yield text
