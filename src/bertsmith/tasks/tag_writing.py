"""A tagged file written again with other tags: its own lines, and in each line of a word or character the new tag.

Comments, other columns, blank lines and line ends stay as they are; the text becomes UTF-8.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from bertsmith.errors import InputError
from bertsmith.tasks.tag_columns import CONLLU_COLUMNS, Layout, conllu_place
from bertsmith.tasks.tag_files import TaggedRows
from bertsmith.tasks.tag_schemes import OUTSIDE, split_tag
from bertsmith.text.decoding import open_text

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_NOTHING = ("", "_", "-", OUTSIDE)
"""Cells that stand where a tag may come, and say nothing about what the column holds."""


class TaggedFile:
    """The lines of a tagged file, sentence by sentence with other tags.

    Attributes:
        place: the cell that gets the tag, from 0.
        added: whether that is a new column at the end; otherwise a column's tags are replaced.
    """

    def __init__(
        self, rows: TaggedRows, labels: Sequence[str], *, column: str | None = None, encoding: str = "auto"
    ) -> None:
        """Open the file that ``rows`` were read from.

        Args:
            rows: all sentences of a file in the format conll, conllu or characters.
            labels: every tag or entity tag that may be written, in any scheme.
            column: UPOS or XPOS (conllu), or a number from 2 to one more than there are columns. By default UPOS, or
                the last column if it holds tags like ``labels``, else a new one.
            encoding: as in :func:`bertsmith.text.decoding.open_text`.

        Raises:
            InputError: there is no such column, or a label holds what separates cells.
        """
        assert rows.layout is not None
        self._layout: Layout = rows.layout
        self._sentences = iter(rows.unit_lines)
        self._lines = _lines(rows.source, encoding)
        self._done = 0
        width = self._layout.width
        if self._layout.format == "conllu":
            # A number is a column of another format that the model was trained on.
            self.place = conllu_place(None if (column or "").isdecimal() else column, rows.source)
        elif column is not None and column.upper() not in CONLLU_COLUMNS:
            if not (column.isascii() and column.isdigit() and 2 <= int(column) <= width + 1):
                raise InputError(
                    f"has no tag column {column!r}; expected a number from 2 (column 1 is the word) to {width + 1}, "
                    "which is a new one",
                    path=rows.source,
                )
            self.place = int(column) - 1
        else:
            self.place = width - 1 if width > 1 and _holds_tags(rows, encoding, labels) else width
        self.added = self.place == width
        check_labels(labels, spaces=self._layout.separator == "\t" or width == 1, path=rows.source)

    def sentence(self, tags: Sequence[str]) -> str:
        """Return the lines up to the end of the next sentence, with a tag for each of its units."""
        by_line = dict(zip(next(self._sentences), tags, strict=True))
        last = max(by_line)
        written = []
        while self._done < last:
            line = next(self._lines)
            self._done += 1
            if self._done in by_line:
                text = line.rstrip("\r\n")
                line = self._layout.with_tag(text, self.place, by_line[self._done]) + line[len(text) :]
            written.append(line)
        return "".join(written)

    def rest(self) -> str:
        """Return the lines after the last sentence."""
        return "".join(self._lines)


def _lines(path: Path, encoding: str) -> Iterator[str]:
    """Yield lines with their ends as they are in the file; readers count the same ones."""
    rest = ""
    for chunk in open_text(path, encoding)[1]:
        found = _LINE.findall(rest + chunk)
        # The last one may go on in the next chunk, also where a CR is the first half of a CRLF.
        rest = found.pop() if found else ""
        yield from found
    if rest:
        yield rest


def _holds_tags(rows: TaggedRows, encoding: str, labels: Sequence[str]) -> bool:
    """Return whether the last cells are mostly known labels or types, or all of them say nothing."""
    assert rows.layout is not None
    kinds = {split_tag(label)[1] for label in labels} - {""} if OUTSIDE in labels else set()
    numbers = {number for lines in rows.unit_lines for number in lines}
    known = others = 0
    for number, line in enumerate(_lines(rows.source, encoding), start=1):
        cell = rows.layout.cells(line.rstrip("\r\n"))[-1].strip() if number in numbers else OUTSIDE
        if cell in labels or split_tag(cell)[1] in kinds:
            known += cell not in _NOTHING
        else:
            others += cell not in _NOTHING
    return known > others or not others


def check_labels(labels: Sequence[str], *, spaces: bool, path: Path | None = None) -> None:
    """Refuse labels that would be read as something else from a column.

    Args:
        labels: all that may be written.
        spaces: whether a space inside of a cell is one of its characters.
        path: the file whose lines are kept, for messages.

    Raises:
        InputError: a label holds a tab or a line break, or a space where cells have spaces between them.
    """
    for label in labels:
        if re.search(r"[\t\r\n]" if spaces else r"[\t\r\n ]", label):
            what = "a tab or a line break" if spaces else "a space, a tab or a line break"
            raise InputError(
                f"the label {label!r} holds {what}, which ends a column here; --output-format jsonl writes spans",
                path=path,
            )
