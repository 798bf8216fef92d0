"""How a txt file is laid out: what one document is, and whether lines were hard-wrapped."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Line = tuple[int, str]
"""Number in the file (from 1) and text."""

_SENTENCE_END = re.compile(r"[.!?…。！？:;][\"'”’»)\]』」》〉]*$")
_HYPHEN_END = re.compile(r"[^\W\d_]-$|--$|[‐—\u00ad]$")

MIN_PAIRS = 5
"""Neighbouring lines that a file must have before it can be called hard-wrapped."""


@dataclass(frozen=True)
class Layout:
    """How a txt file is laid out.

    Attributes:
        documents: what one document is: the file, or what stands between blank lines.
        wrap_width: the column at which lines were hard-wrapped, or None if they were not.
    """

    documents: Literal["file", "blank-line"]
    wrap_width: int | None


def detect_layout(lines: Sequence[str]) -> Layout:
    """Tell a txt file's layout from its first lines.

    A block is a run of lines that are not blank. Blank lines separate paragraphs, and the file is one document,
    if the lines are hard-wrapped (see :func:`wrap_width`) or at least half of the blocks are a single line.
    Otherwise they separate documents. A file without a blank line is one document.
    """
    blocks = [list(block) for filled, block in itertools.groupby(lines, key=lambda line: bool(line.strip())) if filled]
    width = wrap_width(blocks)
    single = sum(len(block) == 1 for block in blocks)
    if width is not None or len(blocks) < 2 or 2 * single >= len(blocks):
        return Layout("file", width)
    return Layout("blank-line", None)


def wrap_width(blocks: Iterable[Sequence[str]]) -> int | None:
    """Return the column at which lines were hard-wrapped, or None.

    They were if all but 2 % of the lines that another one follows keep within a width W of 40 to 120 columns
    (a Hangul syllable takes two), 70 % of them are full (the next line's first word would not have fitted
    within W, give or take 8 columns), and 60 % end in mid-sentence. One sentence a line fails all three.
    """
    pairs = [pair for block in blocks for pair in itertools.pairwise(block)]
    if len(pairs) < MIN_PAIRS:
        return None
    # The cheapest sign first: measuring columns takes long.
    inside = sum(_SENTENCE_END.search(line.rstrip()) is None for line, _ in pairs)
    if inside < 0.6 * len(pairs):
        return None
    widths = [columns(line.rstrip()) for line, _ in pairs]
    width = sorted(widths)[int(0.98 * (len(widths) - 1))]
    full = sum(
        taken + 1 + columns(following.split(maxsplit=1)[0]) > width - 8
        for taken, (_, following) in zip(widths, pairs, strict=True)
    )
    wrapped = 40 <= width <= 120 and full >= 0.7 * len(pairs)
    return width if wrapped else None


def columns(text: str) -> int:
    """Return how many columns ``text`` takes in a terminal."""
    if text.isascii():
        return len(text)
    return sum(1 + (unicodedata.east_asian_width(character) in "WF") for character in text)


def join_wrapped(lines: Iterable[Line], width: int, longest: int) -> Iterator[Line]:
    """Join hard-wrapped lines to paragraphs; blank lines come through as they are.

    A paragraph also ends where the next line is indented deeper, and at a line that ends a sentence though
    the next word would have fitted with 10 columns to spare. Lines are joined by a space, but by nothing
    after a hyphen or dash, which stays: "well-" and "known" give "well-known". A soft hyphen is dropped. A
    paragraph of more than ``longest`` characters is ended.
    """
    parts: list[str] = []
    start = size = indent = 0
    last = ""
    for number, raw in lines:
        line = raw.strip()
        deep = len(raw) - len(raw.lstrip())
        if parts and (not line or deep > indent or size > longest or _ends_paragraph(last, line, width - indent)):
            yield start, "".join(parts)
            parts.clear()
        indent = deep
        if not line:
            yield number, ""
            continue
        if parts:
            if parts[-1].endswith("\u00ad"):
                parts[-1] = parts[-1][:-1]
            elif not _HYPHEN_END.search(parts[-1]):
                parts.append(" ")
            size += len(line) + 1
        else:
            start, size = number, len(line)
        parts.append(line)
        last = line
    if parts:
        yield start, "".join(parts)


def _ends_paragraph(line: str, following: str, width: int) -> bool:
    room = width - columns(line) - 1 - columns(following.split(maxsplit=1)[0])
    return room >= 10 and _SENTENCE_END.search(line) is not None
