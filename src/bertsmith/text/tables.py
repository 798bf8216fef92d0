"""Rows with named columns from csv, tsv, jsonl and parquet: for the fine-tuning tasks and for corpora.

Cells are text, as written: ``NA`` and ``null`` stay words, ``1.50`` keeps its nought. What is missing is the
empty string. Characters inside cells are left alone, because spans point into the user's own string.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bertsmith.errors import InputError, nearest
from bertsmith.remote import Source
from bertsmith.text.decoding import decode, open_text, physical_lines, uncompressed_name
from bertsmith.text.parquet import open_parquet

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
"""What a file name's ending, looked at without that of a compression, says about a table."""

MAX_ROW = 1 << 26
"""Characters in a row; more of them mean an open quote or not a table."""

_TSV_SAMPLE = 1 << 22
_QUOTED_CELL = re.compile(r'(?:^|(?<=\t))"((?:[^"]|"")*)"(?=\t|$)', re.MULTILINE)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Table:
    """A table in memory.

    Attributes:
        columns: names as in the header; for jsonl all keys in the order in which they first appear; of ``only``,
            where it was given, those.
        rows: a cell for every column, "" where there is none.
        lines: where each row starts, counted from 1: lines of the file, or rows for parquet.
        source: the file.
        encoding: how its text was decoded; "parquet" for parquet.
    """

    columns: list[str]
    rows: list[dict[str, str]]
    lines: list[int]
    source: Path
    encoding: str


@dataclass(frozen=True)
class Records:
    """A table as a stream.

    Attributes:
        columns: the names, or None where only the rows tell (jsonl).
        encoding: how its text is decoded; "parquet" for parquet.
        rows: (line, cells by column) of each row; in jsonl the keys that the row has.
    """

    columns: list[str] | None
    encoding: str
    rows: Iterator[tuple[int, dict[str, str]]]


def read_table(
    path: Path,
    *,
    encoding: str = "auto",
    quoting: str = "auto",
    format: str = "auto",  # noqa: A002 - the setting's name everywhere
    only: Sequence[str] | None = None,
) -> Table:
    """Read a table whole.

    Args:
        path: csv, tsv, jsonl or parquet; compressed with gzip, zstd, bzip2 or xz or not.
        encoding: as in :func:`bertsmith.text.decoding.open_text`.
        quoting: "none" takes every quote as a character. "auto": in csv quotes enclose cells; in tsv as
            :func:`tsv_is_quoted` says.
        format: csv, tsv, jsonl or parquet; "auto" goes by the name.
        only: the columns that are needed; others are not looked at. By default all; then a jsonl row may lack
            some, and has "" there.

    Raises:
        InputError: the file cannot be read as such a table, a wanted column is missing, or it has no rows.
    """
    records = open_records(path, encoding=encoding, quoting=quoting, format=format, only=only)
    lines: list[int] = []
    rows: list[dict[str, str]] = []
    keys: dict[str, None] = dict.fromkeys(records.columns or ())
    for line, row in records.rows:
        lines.append(line)
        rows.append(row)
        if records.columns is None:
            keys.update(dict.fromkeys(row))
    if not rows:
        seen = f"has a header ({', '.join(keys)}) but no rows" if keys else "is empty"
        raise InputError(f"{seen}; expected a table with rows", path=path)
    columns = list(keys)
    for name in only or ():
        _require(name, columns, path)
    if records.columns is None:
        rows = [{name: row.get(name, "") for name in columns} for row in rows]
    return Table(columns, rows, lines, path, records.encoding)


def column(table: Table, name: str) -> list[str]:
    """Return the cells of one column.

    Raises:
        InputError: there is no such column; the message lists those there are.
    """
    _require(name, table.columns, table.source)
    return [row[name] for row in table.rows]


def _require(name: str, columns: Iterable[str], path: Source) -> None:
    names = list(columns)
    if name not in names:
        raise InputError(f"has no column {name!r}.{nearest(name, names)} Columns: {', '.join(names)}", path=path)


def read_lines(source: Path | IO[bytes], *, encoding: str = "auto") -> Iterator[str]:
    """Yield one text a line, empty lines too, so that the n-th text is the n-th line.

    Args:
        source: a text file, or an open binary stream such as ``sys.stdin.buffer``; a stream's lines come as
            they arrive.
        encoding: as in :func:`bertsmith.text.decoding.open_text`; but a stream cannot be read twice, so
            "auto" means UTF-8 there.

    Raises:
        InputError: the text cannot be decoded, or a line has more than 64 Mi characters.
    """
    if isinstance(source, Path):
        yield from physical_lines(open_text(source, encoding)[1], MAX_ROW, path=source)
    else:
        chunks = decode(_arriving(source), "utf-8" if encoding == "auto" else encoding, path="standard input")
        first = next(chunks, "").removeprefix("\ufeff")
        yield from physical_lines(itertools.chain([first], chunks), MAX_ROW, path="standard input")


def _arriving(stream: IO[bytes]) -> Iterator[bytes]:
    # read1 returns what is there; read would wait for a full buffer.
    read = getattr(stream, "read1", stream.read)
    while chunk := read(65536):
        yield chunk


def table_format(path: Source, format: str = "auto") -> str:  # noqa: A002
    """Return csv, tsv, jsonl or parquet, by the name if ``format`` is "auto".

    Raises:
        InputError: the name does not tell.
    """
    if format != "auto":
        return format
    found = FORMATS.get(uncompressed_name(path).suffix.lower())
    if found is None:
        raise InputError(
            f"the name does not say what kind of table this is; expected an ending of {', '.join(FORMATS)} "
            "(also with .gz, .zst, .bz2 or .xz)",
            path=path,
        )
    return found


def open_records(
    path: Source,
    *,
    encoding: str = "auto",
    quoting: str = "auto",
    format: str = "auto",  # noqa: A002
    only: Sequence[str] | None = None,
) -> Records:
    """Open a table as a stream; memory holds a row at a time. The arguments are :func:`read_table`'s.

    Raises:
        InputError: at once if the header is wrong or lacks a wanted column, and later as rows are read.
    """
    kind = table_format(path, format)
    if kind == "parquet":
        names, rows = open_parquet(path, only)
        return Records(names, "parquet", rows)
    found, chunks = open_text(path, encoding)
    lines = physical_lines(chunks, MAX_ROW, path=path)
    if kind == "jsonl":
        return Records(None, found, _json_rows(lines, path, only))
    if kind == "csv":
        quoted = quoting == "auto"
    else:
        head = _take(lines, _TSV_SAMPLE)
        quoted = quoting == "auto" and tsv_is_quoted(head)
        lines = itertools.chain(head, lines)
    columns, parsed = _delimited(lines, "," if kind == "csv" else "\t", quoted, path)
    for name in only or ():
        if columns:
            _require(name, columns, path)
    keep = [(i, name) for i, name in enumerate(columns) if only is None or name in only]
    rows = ((line, {name: cells[i] for i, name in keep}) for line, cells in parsed)
    return Records([name for _, name in keep], found, rows)


def _take(lines: Iterator[str], characters: int) -> list[str]:
    head = []
    while characters > 0 and (line := next(lines, None)) is not None:
        head.append(line)
        characters -= len(line) + 1
    return head


def tsv_is_quoted(lines: Sequence[str]) -> bool:
    """Return whether quotes enclose cells in a tsv, judging by its first lines (up to 4 Mi characters).

    Programs that quote a tsv enclose either all cells or those that hold a tab, a line break or a quote
    (doubled then). So quotes are taken to enclose cells if every row then parses with the header's number
    of cells, and either the whole header is quoted, or some cells are and each of them had to be. In most
    tsv files of running text neither holds: their quotes are the text's own.
    """
    text = "\n".join(lines)
    if '"' not in text or not lines:
        return False
    width = 0
    try:
        for cells in csv.reader((line + "\n" for line in lines), delimiter="\t", strict=True):
            width = width or len(cells)
            if cells and len(cells) != width:
                return False
    except csv.Error as error:
        # The sample may end inside a quoted cell.
        if "unexpected end of data" not in str(error) or len(text) < _TSV_SAMPLE:
            return False
    header = lines[0].split("\t")
    if all(len(name) > 1 and name[0] == name[-1] == '"' for name in header):
        return True
    # Where every line has the header's number of cells as it stands, no tab and no line break needs quotes.
    regular = all(line.count("\t") + 1 == width for line in lines if line)
    enclosed = [match[1] for match in _QUOTED_CELL.finditer(text)]
    return bool(enclosed) and all(re.search('"' if regular else r'[\t\n"]', cell) for cell in enclosed)


class _Lines:
    """Lines for the csv reader, counted, with those of the current row kept for an error's sake."""

    def __init__(self, lines: Iterable[str], path: Source) -> None:
        self.count, self.row, self._characters = 0, list[str](), 0
        self._lines, self._path = lines, path

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self.count += 1
            self.row.append(line)
            self._characters += len(line) + 1
            if self._characters > MAX_ROW:
                raise _open_quote(self, self._path, '"')
            yield line + "\n"

    def next_row(self) -> int:
        """Forget the last row; return the line at which the next one starts."""
        self.row.clear()
        self._characters = 0
        return self.count + 1


def _delimited(
    lines: Iterable[str], delimiter: str, quoted: bool, path: Source
) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    rows = _split_rows(_Lines(lines, path), delimiter, quoted, path)
    line, header = next(rows, (1, []))
    for number, name in enumerate(header, start=1):
        if not name.strip():
            raise InputError(
                f"column {number} of the header has no name; every column needs one "
                "(pandas writes its index so: to_csv(..., index=False) leaves it out)",
                path=path,
                line=line,
            )
    if twice := [name for name in header if header.count(name) > 1]:
        raise InputError(f"the header names the column {twice[0]!r} more than once", path=path, line=line)
    return header, _regular(rows, header, quoted, path)


def _regular(
    rows: Iterator[tuple[int, list[str]]], header: list[str], quoted: bool, path: Source
) -> Iterator[tuple[int, list[str]]]:
    for line, cells in rows:
        if len(cells) != len(header):
            lines_in_row = sum(cell.count("\n") for cell in cells) + 1
            hint = (
                f"; the row goes on over {lines_in_row} lines, so if a quote in it is a character, use --quoting none"
                if quoted and lines_in_row > 1
                else ""
            )
            raise InputError(
                f"row has {len(cells)} cells, expected {len(header)} as in the header ({', '.join(header)}){hint}",
                path=path,
                line=line,
            )
        yield line, cells


def _split_rows(lines: _Lines, delimiter: str, quoted: bool, path: Source) -> Iterator[tuple[int, list[str]]]:
    # The module's limit is one for the process; ours is the larger one, and _Lines keeps it.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW + 1))
    quoting: Any = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    reader = csv.reader(lines, delimiter=delimiter, strict=True, quoting=quoting)
    while True:
        line = lines.next_row()
        try:
            cells = next(reader, None)
        except csv.Error:
            raise _open_quote(lines, path, delimiter) from None
        if cells is None:
            return
        if cells:
            yield line, cells


def _open_quote(lines: _Lines, path: Source, delimiter: str) -> InputError:
    """Say where the quote stands that is not closed, or not at the end of its cell."""
    opened, cell, inside, start = 1, True, False, lines.count - len(lines.row) + 1
    for number, line in enumerate(lines.row, start=start):
        at = 0
        while at < len(line):
            if inside:
                at = line.find('"', at)
                if at < 0:
                    break
                if line[at + 1 : at + 2] == '"':
                    at += 2
                    continue
                inside, cell = False, False
                if line[at + 1 : at + 2] not in ("", delimiter):
                    return InputError(
                        f"a quote that opened in line {opened} closes before the end of its cell "
                        f"({line[max(at - 20, 0) : at + 20]!r}); a quote inside a quoted cell is written twice, "
                        "and --quoting none takes quotes as characters",
                        path=path,
                        line=opened,
                    )
            elif cell and line[at] == '"':
                inside, opened = True, number
            cell = line[at] == delimiter and not inside
            at += 1
        cell = not inside
    return InputError(
        "a quote opens a cell in this line and is never closed; --quoting none takes quotes as characters",
        path=path,
        line=opened,
    )


def _json_rows(lines: Iterator[str], path: Source, only: Sequence[str] | None) -> Iterator[tuple[int, dict[str, str]]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            # Numbers keep the digits they were written with.
            row = json.loads(line, parse_int=str, parse_float=str, parse_constant=str)
        except json.JSONDecodeError as error:
            raise InputError(
                f"is not JSON: {error.msg} at character {error.pos + 1}; expected one object a line",
                path=path,
                line=number,
            ) from None
        except RecursionError:
            raise InputError("is nested too deeply; expected one flat object a line", path=path, line=number) from None
        if not isinstance(row, dict):
            raise InputError(f"holds a JSON {type(row).__name__}, expected one object a line", path=path, line=number)
        for name in only or ():
            if name not in row:
                raise InputError(
                    f"has no field {name!r}.{nearest(name, row)} Fields: {', '.join(row)}", path=path, line=number
                )
        yield number, {key: _json_cell(row[key], key, path, number) for key in (row if only is None else only)}


def _json_cell(value: Any, key: str, path: Source, line: int) -> str:
    if isinstance(value, str):
        # A half of a surrogate pair, as in "\ud83d", is not a character and cannot be encoded.
        return value if value.isascii() else _LONE_SURROGATE.sub("\ufffd", value)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    raise InputError(f"{key!r} holds a JSON {type(value).__name__}, expected text", path=path, line=line)
