"""Sentences with a tag for every word or character: CoNLL columns, CoNLL-U, a character a line, and JSON spans."""

from __future__ import annotations

import itertools
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from bertsmith.errors import InputError, nearest
from bertsmith.tasks.tag_columns import (
    CONLLU_COLUMNS,
    Layout,
    character_of,
    check_cells,
    conllu_place,
    layout_of,
    tag_place,
)
from bertsmith.tasks.tag_schemes import SpanTuple, from_spans
from bertsmith.text.decoding import open_text, physical_lines, uncompressed_name
from bertsmith.text.tables import MAX_ROW

Unit: TypeAlias = Literal["word", "character"]

FORMATS = ("conll", "conllu", "characters", "jsonl")
SPAN_FIELDS = ("spans", "entities", "label", "labels")
"""Fields of a JSON row that may hold the spans, if no other is named."""

_COMMENT = re.compile(r"# (?:id|\w+ =) ")
_SAMPLE = 2000
_MANY = 20
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

_Line: TypeAlias = tuple[int, str]
"""Line number, counted from 1, and the line."""


@dataclass(frozen=True)
class TaggedRows:
    """Sentences as they were read; the lists run side by side.

    Attributes:
        texts: words with a space between them, or as the file says that they stood.
        units: (start, end) in the text of each word or character; what has a tag.
        tags: one a unit, as written; empty for rows without tags.
        unit_lines: the line of each unit; empty for texts that are from no tagged file.
        lines: the line of each sentence's first unit.
        source: the file.
        unit: what the units are.
        format: how the file was read.
        warnings: what had to be done with the texts, in sentences.
        layout: how lines are cut into cells; None for JSON and for texts.
    """

    texts: list[str]
    units: list[list[tuple[int, int]]]
    tags: list[list[str]]
    unit_lines: list[list[int]]
    lines: list[int]
    source: Path
    unit: Unit
    format: str
    warnings: tuple[str, ...] = ()
    layout: Layout | None = None

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class _Sentence:
    text: str
    units: list[tuple[int, int]]
    tags: list[str]
    lines: list[int]
    rebuilt: bool = False


def read_tagged(
    path: Path,
    *,
    format: str = "auto",  # noqa: A002 - the setting's name everywhere
    column: str | None = None,
    encoding: str = "auto",
    limit: int | None = None,
    tagged: bool = True,
) -> TaggedRows:
    """Read sentences with their tags.

    Args:
        path: the file; compressed with gzip, zstd, bzip2 or xz or not.
        format: "conll": two or more columns, the word first, with tabs or spaces between them, and a blank line
            between sentences. "conllu": CoNLL-U. "characters": as conll, but every line holds one character, spaces
            too, and lines that begin with ``##`` are comments. "jsonl": an object a line with "text" and "spans",
            each span an object with start, end and label or a list of the three. "auto" goes by the file's ending
            and its first lines.
        column: where the tags are. In columns a number from 2 (by default the last one), in CoNLL-U UPOS (by
            default) or XPOS, in jsonl the field with the spans (by default one of :data:`SPAN_FIELDS`).
        encoding: as in :func:`bertsmith.text.decoding.open_text`.
        limit: read only the first so many sentences.
        tagged: False reads words or characters only: tags are neither needed nor looked at, and one column will do.

    Raises:
        InputError: the file cannot be read in this format, a line has another number of columns, a tag is missing,
            the column is unknown, or spans overlap or reach beyond their text.
    """
    if format not in ("auto", *FORMATS):
        raise InputError(f"{format!r} is no format of tags.{nearest(format, FORMATS)} Known: {', '.join(FORMATS)}")
    numbered: Iterator[_Line] = enumerate(physical_lines(open_text(path, encoding)[1], MAX_ROW, path=path), start=1)
    head = list(itertools.islice(numbered, _SAMPLE))
    sample = [line for _, line in head if line.strip()]
    found = tag_format(path, sample) if format == "auto" else format
    lines = itertools.chain(head, numbered)
    layout = None if found == "jsonl" else layout_of(found, sample)
    if layout is None:
        sentences = _json_sentences(lines, column, path)
    elif found == "conllu":
        sentences = _conllu_sentences(lines, conllu_place(column, path) if tagged else None, path)
    else:
        place = tag_place(layout, column, path) if tagged else None
        split = _character_sentences if found == "characters" else _conll_sentences
        sentences = split(lines, layout, place, path)
    kept = list(itertools.islice(sentences, limit))
    if not kept:
        raise InputError(f"holds no sentences (read as {found})", path=path)
    rebuilt = [s.lines[0] for s in kept if s.rebuilt]
    warning = (
        f"{len(rebuilt):,} of {len(kept):,} sentences have words that do not stand in their '# text' (line "
        f"{rebuilt[0] if rebuilt else 0} is the first); their texts are made of the words"
    )
    return TaggedRows(
        texts=[s.text for s in kept],
        units=[s.units for s in kept],
        tags=[s.tags for s in kept] if tagged else [],
        unit_lines=[s.lines for s in kept],
        lines=[s.lines[0] for s in kept],
        source=path,
        unit="word" if found in ("conll", "conllu") else "character",
        format=found,
        warnings=(warning,) if rebuilt else (),
        layout=layout,
    )


def rows_from_texts(texts: Sequence[str], unit: Unit) -> TaggedRows:
    """Return raw texts as rows without tags.

    Words are what stands between spaces, with every punctuation mark apart, as BERT cuts words too. A model that
    learned other words ("do", "n't") meets them cut differently here.
    """
    if unit == "character":
        units = [[(n, n + 1) for n in range(len(text))] for text in texts]
    else:
        from tokenizers import pre_tokenizers

        split = pre_tokenizers.BertPreTokenizer().pre_tokenize_str
        # A lone surrogate has no UTF-8 form; one character for one keeps the spans right.
        units = [[span for _, span in split(_LONE_SURROGATE.sub("\ufffd", text))] for text in texts]
    return TaggedRows(list(texts), units, [], [], list(range(1, len(texts) + 1)), Path("-"), unit, "text")


def tag_format(path: Path, sample: Sequence[str]) -> str:
    """Tell a file's format from its ending and its first lines that are not blank."""
    ending = uncompressed_name(path).suffix.lower()
    if ending in (".conllu", ".json", ".jsonl", ".ndjson"):
        return "conllu" if ending == ".conllu" else "jsonl"
    if not sample:
        return "conll"
    if sample[0].lstrip().startswith("{") and sample[0].rstrip().endswith("}"):
        return "jsonl"
    rows = [line.split("\t") for line in sample if not line.startswith("#")]
    if rows and all(len(cells) == 10 and re.match("[0-9]+", cells[0]) for cells in rows):
        return "conllu"
    first = [character_of(line, "\t" if "\t" in line else " ")[0] for line in sample if not line.startswith("##")]
    # A short file of one-letter words is no proof.
    proof = len(first) < len(sample) or len(first) >= _MANY or any(mark.isspace() for mark in first)
    single = all(len(unicodedata.normalize("NFC", mark)) == 1 for mark in first)
    return "characters" if proof and single else "conll"


def _blocks(lines: Iterable[_Line]) -> Iterator[list[_Line]]:
    for blank, block in itertools.groupby(lines, key=lambda line: not line[1].strip()):
        if not blank:
            yield list(block)


# Columns


def _conll_sentences(lines: Iterable[_Line], layout: Layout, place: int | None, path: Path) -> Iterator[_Sentence]:
    for block in _blocks(lines):
        words: list[str] = []
        tags: list[str] = []
        numbers: list[int] = []
        for number, line in block:
            cells = layout.cells(line)
            comment = not words and line.startswith("#") and (len(cells) != layout.width or _COMMENT.match(line))
            if comment or line.startswith("-DOCSTART-"):
                continue
            check_cells(cells, layout, place, path, number)
            words.append(cells[0])
            tags.append("" if place is None else cells[place].strip())
            numbers.append(number)
        if words:
            yield _joined(words, [" "] * len(words), tags, numbers)


def _joined(words: Sequence[str], after: Sequence[str], tags: list[str], lines: list[int]) -> _Sentence:
    units, parts, at = [], [], 0
    for word, space in zip(words, after, strict=True):
        units.append((at, at + len(word)))
        parts += [word, space]
        at += len(word) + len(space)
    return _Sentence("".join(parts[:-1]), units, tags, lines)


# A character a line


def _character_sentences(lines: Iterable[_Line], layout: Layout, place: int | None, path: Path) -> Iterator[_Sentence]:
    # In a file of one column a line with a space is that character.
    blank = (lambda line: not line[1]) if layout.width == 1 else (lambda line: not line[1].strip())
    for between, block in itertools.groupby(lines, key=blank):
        rows = [] if between else [(n, layout.cells(line)) for n, line in block if not line.startswith("##")]
        for number, cells in rows:
            check_cells(cells, layout, place, path, number)
        if rows:
            tags = ["" if place is None else cells[place].strip() for _, cells in rows]
            yield _joined([cells[0] for _, cells in rows], [""] * len(rows), tags, [number for number, _ in rows])


# CoNLL-U


def _conllu_sentences(lines: Iterable[_Line], place: int | None, path: Path) -> Iterator[_Sentence]:
    for block in _blocks(lines):
        sentence = _conllu_sentence(block, place, path)
        if sentence.units:
            yield sentence


def _conllu_sentence(block: list[_Line], place: int | None, path: Path) -> _Sentence:
    original: str | None = None
    words: list[str] = []
    tags: list[str] = []
    after: list[str] = []
    lines: list[int] = []
    last, surface, surface_after, first_part = 0, "", " ", 0
    for number, line in block:
        if line.startswith("#"):
            key, equals, value = line[1:].partition("=")
            original = value.strip() if equals and key.strip() == "text" else original
            continue
        cells = line.split("\t")
        if len(cells) != 10:
            raise InputError(f"has {len(cells)} columns, expected the 10 of CoNLL-U", path=path, line=number)
        ident = re.fullmatch(r"([0-9]+)(?:(-|\.)([0-9]+))?", cells[0])
        if ident is None:
            raise InputError(f"{cells[0]!r} is no number of a word as in CoNLL-U", path=path, line=number)
        space = "" if "SpaceAfter=No" in cells[9].split("|") else " "
        if ident[2] == "-":
            last, surface, surface_after, first_part = int(ident[3]), cells[1], space, len(words)
        if ident[2]:
            continue
        tag = "" if place is None else cells[place]
        # "_" alone is how CoNLL-U writes nothing, in the first column the word itself.
        if not cells[1] or (place is not None and tag in ("", "_")):
            what = f"tag in column {'XPOS' if place == CONLLU_COLUMNS['XPOS'] else 'UPOS'}" if cells[1] else "word"
            raise InputError(f"the {what} is missing ({cells[0]} | {cells[1]} | {tag})", path=path, line=number)
        words.append(cells[1])
        tags.append(tag)
        lines.append(number)
        after.append(space)
        if int(ident[1]) == last:
            # "do" and "n't" stand as "don't", but French "de" and "le" do not stand in "du".
            if "".join(words[first_part:]) == surface:
                after[first_part:] = [""] * (len(words) - first_part)
            after[-1] = surface_after
    units = None if original is None else _find(words, original)
    if original is not None and units is not None:
        return _Sentence(original, units, tags, lines)
    return replace(_joined(words, after, tags, lines), rebuilt=original is not None)


def _find(words: Sequence[str], text: str) -> list[tuple[int, int]] | None:
    """Return where words stand in a text one after the other with nothing but spaces between, if they do."""
    units, at = [], 0
    for word in words:
        while text[at : at + 1].isspace() and not text.startswith(word, at):
            at += 1
        if not text.startswith(word, at):
            return None
        units.append((at, at + len(word)))
        at += len(word)
    return None if text[at:].strip() else units


# JSON


def _json_sentences(lines: Iterable[_Line], column: str | None, path: Path) -> Iterator[_Sentence]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # ValueError also for numbers of thousands of digits
            raise InputError(f"is not JSON: {error}; expected one object a line", path=path, line=number) from None
        if not isinstance(row, dict) or not isinstance(row.get("text"), str) or not row["text"]:
            seen = f"an object with {', '.join(row)}" if isinstance(row, dict) else f"a JSON {type(row).__name__}"
            raise InputError(
                f'holds {seen}; expected an object with "text" (not empty) and "spans"', path=path, line=number
            )
        field = column or next((name for name in SPAN_FIELDS if name in row), SPAN_FIELDS[0])
        if not isinstance(row.get(field), list):
            problem = "is not a list." if field in row else f"is missing.{nearest(field, row)}"
            message = f"the field {field!r} {problem} Fields: {', '.join(row)}; expected a list of spans"
            raise InputError(message, path=path, line=number)
        text = _LONE_SURROGATE.sub("\ufffd", row["text"])
        spans = sorted(_span(given, len(text), path, number) for given in row[field])
        for (start, end, kind), (other, until, other_kind) in itertools.pairwise(spans):
            if other < end:
                both = f"({start}, {end}, {kind}) and ({other}, {until}, {other_kind})"
                raise InputError(f"the spans {both} overlap; expected one for a character", path=path, line=number)
        units = [(n, n + 1) for n in range(len(text))]
        yield _Sentence(text, units, from_spans(spans, len(text), "BIO"), [number] * len(text))


def _span(given: Any, length: int, path: Path, line: int) -> SpanTuple:
    values = [given.get(key) for key in ("start", "end", "label")] if isinstance(given, dict) else given
    if isinstance(values, list) and len(values) == 3:
        start, end, label = values
        if type(start) is int and type(end) is int and isinstance(label, str) and label.strip():
            if not 0 <= start < end <= length:
                raise InputError(
                    f"the span ({start}, {end}, {label}) is empty or not within the text's {length:,} characters",
                    path=path,
                    line=line,
                )
            return start, end, _LONE_SURROGATE.sub("\ufffd", label.strip())
    raise InputError(
        f"{json.dumps(given, ensure_ascii=False)} is no span; expected start, end and label, as an object or a list",
        path=path,
        line=line,
    )
