"""Tags that mark entities, unit by unit, and the spans they stand for: BIO, IOB1, BIOES, BILOU, BMES; their scores.

A tag is ``O``, or a prefix, a hyphen and a type, which may hold hyphens itself (``B-creative-work``). One rule
reads all schemes, also tags that break their own scheme: a tag goes on with the entity before it if it has the same
type, its prefix is not one that begins an entity, and the entity has not ended yet; **otherwise it begins a new
entity**. So ``I-X`` after ``O``, after another type or after ``E-X`` is taken as ``B-X``, and an entity that never
gets its ``E-X`` ends where it stops.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from bertsmith.errors import InputError

Scheme: TypeAlias = Literal["BIO", "IOB1", "BIOES", "BILOU", "BMES"]
"""How spans are written as tags.

BIO (IOB2): every entity begins with B. IOB1: B only where an entity follows one of its own type, else I. BIOES:
E ends an entity of several units, S is one of a single unit. BILOU: the same with L (last) and U (unit). BMES: BIOES
with M (middle) for I.
"""

SpanTuple: TypeAlias = tuple[int, int, str]
"""(first unit, last unit + 1, type)."""

OUTSIDE = "O"


@dataclass(frozen=True)
class Span:
    """A tagged part of a text.

    Attributes:
        start: its first character in the text as it was given.
        end: the character after its last.
        label: entity type or tag.
        score: the mean probability of its units' tags.
    """

    start: int
    end: int
    label: str
    score: float


@dataclass(frozen=True)
class Tagged:
    """A text with its entities, or with the tag of every word.

    Attributes:
        text: as it was given.
        spans: in their order; without overlaps.
        truncated: always 0; long texts are seen in windows.
        units: (start, end) of what was tagged.
        tags: one a unit, in the scheme of the training file.
    """

    text: str
    spans: tuple[Span, ...]
    truncated: int = 0
    units: tuple[tuple[int, int], ...] = ()
    tags: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; the reader of JSON spans takes them as they are."""
        spans = [
            {"start": s.start, "end": s.end, "label": s.label, "score": s.score, "text": self.text[s.start : s.end]}
            for s in self.spans
        ]
        return {"text": self.text, "spans": spans, "truncated": self.truncated}

    def to_conll(self, source: Scheme | None, target: Scheme | None) -> str:
        """Return a line for each unit, with its tag after a tab, and an empty line.

        Args:
            source: the scheme of ``tags``; None for plain ones.
            target: the scheme to write them in; None for the same.
        """
        tags = self.tags if source is None or target is None else convert(self.tags, source, target)
        # A line break that is a unit (a character) would end the line.
        words = (" ".join(self.text[start:end].splitlines()) or " " for start, end in self.units)
        return "".join(f"{word}\t{tag}\n" for word, tag in zip(words, tags, strict=True)) + "\n"


# first, middle and last unit of an entity of several units; the only unit of one.
_PREFIXES: dict[Scheme, tuple[str, str, str, str]] = {
    "BIO": ("B", "I", "I", "B"),
    "IOB1": ("B", "I", "I", "B"),
    "BIOES": ("B", "I", "E", "S"),
    "BILOU": ("B", "I", "L", "U"),
    "BMES": ("B", "M", "E", "S"),
}
_BEGIN, _END = frozenset("BSU"), frozenset("ELSU")
_KNOWN = frozenset("BIESLUM")


def split_tag(tag: str) -> tuple[str, str]:
    """Return prefix and type of an entity's tag; ("", "") for a tag that has not both."""
    prefix, _, kind = tag.partition("-")
    return (prefix, kind) if prefix and kind else ("", "")


def detect_scheme(sequences: Iterable[Sequence[str]], *, path: Path | None = None) -> Scheme | None:
    """Tell the scheme of tags from their prefixes.

    BIO and IOB1 have the same ones: it is IOB1 if some entity begins with I and B occurs only after an entity of its
    own type. B, E and S without a middle are BIOES.

    Args:
        sequences: the tags of each sentence.
        path: the file they are from, for messages.

    Returns:
        The scheme, or None for tags without prefixes, such as parts of speech. Tags that are all ``O`` say nothing:
        None.

    Raises:
        InputError: the tags look like those of entities (all but ``O`` have a prefix), but the prefixes are of no
            known scheme; or such tags stand beside others.
    """
    sequences = list(sequences)
    tags = {tag for sequence in sequences for tag in sequence}
    prefixed = {tag: split_tag(tag)[0] for tag in tags if split_tag(tag)[0]}
    prefixes = set(prefixed.values())
    others = sorted(tags - set(prefixed) - {OUTSIDE})
    if not prefixes:
        return None
    if others:
        # Positional tag sets ("n-s---fn-") and Brown's ("NN-TL") have hyphens too; so the prefixes must be ours.
        if prefixes <= _KNOWN and "B" in prefixes and (OUTSIDE in tags or len(others) == 1):
            raise InputError(
                f"has tags like {min(prefixed)!r} and also {_listed(others)}; expected {OUTSIDE} for all outside of "
                "entities, or no prefixes at all",
                path=path,
            )
        return None
    if prefixes <= {"B", "I"}:
        return "IOB1" if _is_iob1(sequences) else "BIO"
    if prefixes & {"B", "S", "U"}:
        for scheme in ("BIOES", "BILOU", "BMES"):
            if prefixes <= set(_PREFIXES[scheme]):
                return scheme
    if OUTSIDE not in tags and not prefixes & _KNOWN and any(len(prefix) > 1 for prefix in prefixes):
        return None
    examples = [f"{prefix} ({min(t for t, p in prefixed.items() if p == prefix)})" for prefix in sorted(prefixes)]
    raise InputError(
        f"the tags have the prefixes {_listed(examples)}; expected those of BIO or IOB1 (B, I), BIOES (B, I, E, S), "
        "BILOU (B, I, L, U) or BMES (B, M, E, S)",
        path=path,
    )


def _listed(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def _is_iob1(sequences: Iterable[Sequence[str]]) -> bool:
    inside_begins = False
    for sequence in sequences:
        before = ""
        for tag in sequence:
            prefix, kind = split_tag(tag)
            if prefix == "B" and kind != before:
                return False
            inside_begins = inside_begins or (prefix == "I" and kind != before)
            before = kind
    return inside_begins


def to_spans(tags: Sequence[str], scheme: Scheme) -> list[SpanTuple]:
    """Return the entities that tags stand for, in their order, as this module's rule reads them.

    Raises:
        InputError: a tag is neither ``O`` nor has a prefix of the scheme.
    """
    known = {*_PREFIXES[scheme]}
    spans: list[SpanTuple] = []
    first, open_kind = 0, ""
    for number, tag in enumerate(tags):
        prefix, kind = ("", "") if tag == OUTSIDE else split_tag(tag)
        if prefix not in known and tag != OUTSIDE:
            raise InputError(f"tag {tag!r} is not of the scheme {scheme}; expected {OUTSIDE} or one of {_shown(known)}")
        if kind != open_kind or prefix in _BEGIN:
            if open_kind:
                spans.append((first, number, open_kind))
            first, open_kind = number, kind
        if prefix in _END:
            spans.append((first, number + 1, kind))
            open_kind = ""
    if open_kind:
        spans.append((first, len(tags), open_kind))
    return spans


def _shown(prefixes: Iterable[str]) -> str:
    return ", ".join(f"{prefix}-..." for prefix in sorted(prefixes))


def from_spans(spans: Iterable[SpanTuple], length: int, scheme: Scheme) -> list[str]:
    """Return the tags of ``length`` units for entities given in any order.

    Raises:
        ValueError: spans overlap, are empty or reach beyond the units.
    """
    begin, middle, end, single = _PREFIXES[scheme]
    tags = [OUTSIDE] * length
    done, before = 0, (-1, "")
    for first, last, kind in sorted(spans):
        if not done <= first < last <= length:
            raise ValueError(f"span ({first}, {last}) is empty, overlaps another or is not within {length} units")
        tags[first:last] = [f"{middle}-{kind}"] * (last - first)
        if last - first == 1:
            tags[first] = f"{single}-{kind}"
        else:
            tags[first] = f"{begin}-{kind}"
            tags[last - 1] = f"{end}-{kind}"
        if scheme == "IOB1" and before != (first, kind):
            tags[first] = f"I-{kind}"
        done, before = last, (last, kind)
    return tags


def convert(tags: Sequence[str], source: Scheme, target: Scheme) -> list[str]:
    """Return tags in another scheme; in the same one, what breaks it is repaired.

    Raises:
        InputError: a tag is not of the scheme ``source``.
    """
    return from_spans(to_spans(tags, source), len(tags), target)


def bio_labels(kinds: Iterable[str]) -> list[str]:
    """Return the labels that a model of these types tells apart: ``O``, and B and I of each type, sorted."""
    return [OUTSIDE, *(f"{prefix}-{kind}" for kind in sorted(set(kinds)) for prefix in "BI")]


def finish_numbers(numbers: np.ndarray, covered: np.ndarray, shared: np.ndarray, sentences: np.ndarray) -> np.ndarray:
    """Return label numbers of :func:`bio_labels` that are well-formed BIO, from what was predicted at tokens.

    A unit that shares its token with the one before goes on with that one's entity. A run of units without a token is
    inside an entity if the units on both sides are and it goes on there, else outside. Then this module's rule holds:
    an inside that continues nothing begins.

    Args:
        numbers: (U,) int64; of units without a token whatever.
        covered: (U,) whether a unit has a token.
        shared: (U,) whether it has the same one as the unit before.
        sentences: (U,) the sentence of each unit, rising.
    """
    # 0 is O, then B and I of each type; so even numbers above 0 are inside, and the one before begins.
    numbers = np.where(covered, numbers, 0)
    inside = (numbers + 1) // 2 * 2
    numbers = np.where(shared, inside, numbers)
    units = np.arange(len(numbers))
    before = np.maximum.accumulate(np.where(covered, units, 0))
    after = np.minimum.accumulate(np.where(covered, units, len(units) - 1)[::-1])[::-1]
    goes_on = (numbers[after] > 0) & (numbers[after] % 2 == 0) & (inside[before] == numbers[after])
    goes_on &= (sentences[before] == sentences) & (sentences[after] == sentences)
    numbers = np.where(covered | ~goes_on, numbers, numbers[after])
    continues = np.zeros(len(numbers), dtype=bool)
    continues[1:] = (sentences[1:] == sentences[:-1]) & ((numbers[:-1] + 1) // 2 * 2 == numbers[1:])
    return np.where((numbers > 0) & (numbers % 2 == 0) & ~continues, numbers - 1, numbers)


TypeScores: TypeAlias = tuple[str, float, float, float, int]
"""Type, precision, recall, F1 and number of gold entities."""


def entity_scores(
    gold: Sequence[Sequence[SpanTuple]], predicted: Sequence[Sequence[SpanTuple]], lengths: Sequence[int]
) -> tuple[dict[str, float], list[TypeScores]]:
    """Return precision, recall and F1 over all entities, and the figures of each type.

    An entity is right if both ends and the type are. These are seqeval's figures in its strict mode with IOB2. What is
    not defined is 0.

    Args:
        gold: the entities of each sentence.
        predicted: the same.
        lengths: units of each sentence.
    """
    from seqeval.metrics.v1 import precision_recall_fscore_support
    from seqeval.scheme import IOB2

    kinds = sorted({kind for side in (gold, predicted) for spans in side for _, _, kind in spans})
    # Seqeval takes hyphens off the ends of types; numbers have none.
    numbers = {kind: f"{number:06d}" for number, kind in enumerate(kinds)}
    tags = [
        [
            from_spans([(first, last, numbers[kind]) for first, last, kind in spans], length, "BIO")
            for spans, length in zip(side, lengths, strict=True)
        ]
        for side in (gold, predicted)
    ]
    *shares, support = precision_recall_fscore_support(*tags, average=None, scheme=IOB2, zero_division=0)
    figures = precision_recall_fscore_support(*tags, average="micro", scheme=IOB2, zero_division=0)
    rows = [
        (kind, float(p), float(r), float(f), int(count))
        for kind, p, r, f, count in zip(kinds, *shares, support, strict=True)
    ]
    return {"f1": float(figures[2]), "precision": float(figures[0]), "recall": float(figures[1])}, rows
