"""Lines of a tagged file: cutting them into cells, and writing another tag into them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bertsmith.errors import InputError, nearest

CONLLU_COLUMNS = {"UPOS": 3, "XPOS": 4}
"""Columns of CoNLL-U that may hold the tag, and their places from 0."""

_CONLLU_WIDTH = 10
_RUN = re.compile("[ \t]+")
_CELL = re.compile("[^ \t]+")


@dataclass(frozen=True)
class Layout:
    """How the lines of a file are cut into cells.

    Attributes:
        format: conll, conllu or characters.
        separator: what stands between cells: a tab, or a space (in conll any run of spaces and tabs).
        width: cells in a line, as most lines have them.
    """

    format: str
    separator: str
    width: int

    def cells(self, line: str) -> list[str]:
        """Return the cells of a line, the word or character first; of CoNLL-U all cells."""
        if self.format == "conllu":
            return line.split("\t")
        if self.format == "characters":
            return _character_cells(line, self.separator)
        return _conll_cells(line, self.separator)

    def with_tag(self, line: str, place: int, tag: str) -> str:
        """Return a line with a tag in the cell at ``place`` (from 0), or as a new last cell; the rest stays."""
        if self.format == "conllu":
            cells = self.cells(line)
            return "\t".join([*cells[:place], tag, *cells[place + 1 :]])
        body = line.rstrip(" \t") or line
        if self.width == 1:
            return f"{body}\t{tag}"
        if self.separator == " " and self.format == "conll":
            found = list(_CELL.finditer(line))
            if place < len(found):
                return line[: found[place].start()] + tag + line[found[place].end() :]
            return body + line[found[-2].end() : found[-1].start()] + tag
        # The first cell stays as it stands, with the spaces around it that reading takes away.
        first = body.split("\t")[:1] if self.format == "conll" else self.cells(body)[:1]
        cells = first + self.cells(body)[1:]
        if place == len(cells):
            return self.separator.join([*cells, tag])
        return self.separator.join([*cells[:place], tag, *cells[place + 1 :]]) + line[len(body) :]


def layout_of(format: str, sample: Sequence[str]) -> Layout:  # noqa: A002 - the setting's name everywhere
    """Tell how lines are cut from the first ones that are not blank."""
    if format == "conllu":
        return Layout(format, "\t", _CONLLU_WIDTH)
    # One separator for the file: with tabs, words may hold spaces.
    if format == "characters":
        rows = [line for line in sample if not line.startswith("##")]
        # A tab that comes first is the character itself.
        separator = "\t" if sum("\t" in line[1:] for line in rows) * 2 > len(rows) else " "
        return Layout(format, separator, _width(len(_character_cells(row, separator)) for row in rows))
    separator = "\t" if sum("\t" in line.rstrip() for line in sample) * 2 > len(sample) else " "
    return Layout(format, separator, _width(len(_conll_cells(line, separator)) for line in sample))


def _conll_cells(line: str, separator: str) -> list[str]:
    if separator == "\t":
        cells = line.rstrip(" \t").split("\t")
        return [cells[0].strip(" ") or cells[0], *cells[1:]]
    return _RUN.split(line.strip(" \t"))


def character_of(line: str, separator: str) -> tuple[str, str]:
    """Return the character of a line and what follows it; the character itself may be the separator."""
    at = line.find(separator, 1)
    return (line[:at], line[at + 1 :]) if at > 0 else (line, "")


def _character_cells(line: str, separator: str) -> list[str]:
    # A line of one space alone is that character.
    character, rest = character_of(line.rstrip(" \t") or line, separator)
    return [character, *rest.split(separator)] if rest else [character]


def _width(widths: Iterable[int]) -> int:
    counts = Counter(widths)
    # Of as frequent ones the wider: what is missing is likelier than what is too much.
    return max(counts, key=lambda width: (counts[width], width), default=2)


def tag_place(layout: Layout, column: str | None, path: Path) -> int:
    """Return the place of the tag among the cells, from 0: the column that is named, by default the last one.

    Raises:
        InputError: there is no such column, or no column but that of the words.
    """
    if layout.format == "conllu":
        return conllu_place(column, path)
    if layout.width < 2:
        raise InputError("has one column; expected a word and its tag with a tab or spaces between them", path=path)
    if column is None:
        return layout.width - 1
    if not (column.isascii() and column.isdigit() and 2 <= int(column) <= layout.width):
        raise InputError(
            f"has no tag column {column!r}; expected a number from 2 to {layout.width} (the word is column 1)",
            path=path,
        )
    return int(column) - 1


def conllu_place(column: str | None, path: Path) -> int:
    """Return the place of UPOS (by default) or XPOS.

    Raises:
        InputError: another column is named.
    """
    name = (column or "UPOS").upper()
    if name not in CONLLU_COLUMNS:
        raise InputError(
            f"{column!r} is no tag column of CoNLL-U.{nearest(name, CONLLU_COLUMNS)} "
            f"Known: {', '.join(CONLLU_COLUMNS)}",
            path=path,
        )
    return CONLLU_COLUMNS[name]


def check_cells(cells: Sequence[str], layout: Layout, place: int | None, path: Path, line: int) -> None:
    """Refuse a line with too many or too few cells, or without its word or (where ``place`` is given) its tag.

    Raises:
        InputError: it is such a line; the message names it.
    """
    if len(cells) != layout.width:
        seen = f"{len(cells)} columns" if len(cells) > 1 else "one column"
        raise InputError(f"{cells[0]!r} has {seen}, expected {layout.width} as in most lines", path=path, line=line)
    needed = [(cells[0], "word")] + ([] if place is None else [(cells[place].strip(), "tag")])
    for cell, what in needed:
        if not cell:
            raise InputError(f"the {what} is missing ({' | '.join(cells)})", path=path, line=line)
