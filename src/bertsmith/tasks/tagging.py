"""A tag for every word or character (section 5.3): entities and parts of speech.

What is tagged are the *units* of a file, words or characters, whatever the tokenizer makes of the text. The tag of a
unit is learned and predicted at one token: the first that begins inside the unit, or else the first that overlaps
it. So several units may share a token (characters of a longer piece, or "gon" and "na" in "gonna"); the token then
has the tag of the first of them, and the others go on with the same entity. Units without any token (spaces,
characters that the normaliser drops) are outside, unless the units on both sides are of one entity.

Long sentences go through the model in overlapping windows. A unit is learned and predicted in one of them, where
its token has the most tokens on its poorer side; there the others have no target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from bertsmith.batch import Batch, pack
from bertsmith.errors import InputError
from bertsmith.tasks.scores import WORST, Mistake, Scores, ScoreTable, label_scores
from bertsmith.tasks.tag_files import TaggedRows
from bertsmith.tasks.tag_schemes import (
    OUTSIDE,
    Span,
    SpanTuple,
    Tagged,
    bio_labels,
    detect_scheme,
    entity_scores,
    finish_numbers,
    from_spans,
    split_tag,
    to_spans,
)
from bertsmith.tasks.task import Facts, Outputs, not_in_training
from bertsmith.text.tokenizer import Tokenizer

NO_TARGET = -100
"""The label of tokens at which nothing is predicted."""

_SHOWN = 400
_MOST_CONFUSED = 40


@dataclass(frozen=True)
class TagExamples:
    """Windows of sentences as the encoder gets them. W windows of P tokens in total, with [CLS] and [SEP].

    Attributes:
        token_ids: one list a window.
        starts: (W + 1,) int64, where each window begins when all are laid end to end.
        rows: (W,) int64, the sentence of each window.
        places: for each sentence (units,) int64, at which of the P tokens each unit is predicted; -1 without one.
        targets: (P,) int64 label numbers, :data:`NO_TARGET` where there is none; None for rows without tags.
        boundaries: beginnings and ends of gold entities.
        boundaries_inside: those of them that no tags of tokens can say, because they are inside a token or at a
            character without one.
    """

    token_ids: list[list[int]]
    starts: np.ndarray
    rows: np.ndarray
    places: list[np.ndarray]
    targets: np.ndarray | None
    boundaries: int = 0
    boundaries_inside: int = 0

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each window."""
        return [len(ids) for ids in self.token_ids]

    @property
    def segment_ids(self) -> list[list[int]]:
        """All 0: there is one text."""
        return [[0] * len(ids) for ids in self.token_ids]

    @property
    def truncated(self) -> int:
        """Sentences that were cut: none."""
        return 0

    @property
    def boundaries_inside_token(self) -> float:
        """Share of the boundaries of gold entities that no tagger of these tokens can find."""
        return self.boundaries_inside / max(self.boundaries, 1)

    def batch(self, numbers: Sequence[int] | np.ndarray) -> Batch:
        """Return some windows as a batch; its labels are (T,) int64."""
        batch = pack([self.token_ids[int(n)] for n in numbers])
        if self.targets is None:
            return batch
        parts = [self.targets[self.starts[int(n)] : self.starts[int(n) + 1]] for n in numbers]
        return replace(batch, labels=torch.from_numpy(np.concatenate(parts)))


def find_facts(
    train: TaggedRows, dev: TaggedRows, *, max_length: int, stride: int, columns: Mapping[str, str] | None = None
) -> Facts:
    """Return labels, scheme, unit, the commonest tag and the lengths of windows and of their overlap.

    Raises:
        InputError: the files are tagged in different units, all tags are the same, dev has a tag or a type that
            train lacks, tags are of no known scheme, or the overlap leaves no room.
    """
    if stride < 0 or stride >= max_length - 2:
        raise InputError(f"a stride of {stride} tokens does not fit a window of {max_length - 2}; expected less")
    scheme = detect_scheme(train.tags, path=train.source)
    tags = {tag for sentence in train.tags for tag in sentence}
    if len(tags) < 2:
        raise InputError(f"every {train.unit} has the tag {min(tags)!r}; expected at least two", path=train.source)
    labels = sorted(tags) if scheme is None else bio_labels(split_tag(tag)[1] for tag in tags - {OUTSIDE})
    facts: Facts = {
        "labels": labels,
        "scheme": scheme,
        "unit": train.unit,
        "max_length": max_length,
        "stride": stride,
        "columns": dict(columns or {}),
    }
    counts = np.bincount(np.concatenate(gold_numbers(train, facts)), minlength=len(labels))
    facts["commonest"] = labels[int(counts.argmax())]
    gold_numbers(dev, facts)
    return facts


def gold_numbers(rows: TaggedRows, facts: Facts) -> list[np.ndarray]:
    """Return (units,) int64 label numbers of each sentence; entities as BIO, whatever scheme the file has.

    Raises:
        InputError: the rows are tagged in other units than the training rows, or a tag or an entity type is not among
            the labels; the line is named.
    """
    # What somebody else's model was trained on is not known.
    if rows.unit != facts["unit"] and not facts.get("published", False):
        raise InputError(
            f"has a tag for every {rows.unit}, but the training rows for every {facts['unit']}", path=rows.source
        )
    scheme = detect_scheme(rows.tags, path=rows.source) or "BIO" if facts["scheme"] else None
    numbers = {label: n for n, label in enumerate(facts["labels"])}
    # Every type has both B and I among the labels.
    names = [label[2:] for label in facts["labels"][1::2]] if scheme else facts["labels"]
    seen = {tag for tags in rows.tags for tag in tags}
    unknown = {tag for tag in seen if (split_tag(tag)[1] if scheme else tag) not in names} - (
        {OUTSIDE} if scheme else set()
    )
    for row, tags in enumerate(rows.tags if unknown else ()):
        for line, tag in zip(rows.unit_lines[row], tags, strict=True):
            if tag in unknown:
                raise not_in_training(f"tag {tag!r}", names, rows.source, line)
    bio = rows.tags if scheme is None else [from_spans(to_spans(t, scheme), len(t), "BIO") for t in rows.tags]
    return [np.array([numbers[tag] for tag in tags], dtype=np.int64) for tags in bio]


def encode(rows: TaggedRows, facts: Facts, tokenizer: Tokenizer) -> TagExamples:
    """Encode sentences in windows of at most ``facts["max_length"]`` tokens that overlap by ``facts["stride"]``.

    Raises:
        InputError: as :func:`gold_numbers` says, of rows with tags.
    """
    gold = gold_numbers(rows, facts) if rows.tags else None
    token_ids: list[list[int]] = []
    window_rows: list[int] = []
    places: list[np.ndarray] = []
    done = 0
    for row, encoding in enumerate(tokenizer.encode_batch(rows.texts)):
        ids = encoding.ids[1:-1]
        spans = np.array(encoding.char_spans[1:-1], dtype=np.int64).reshape(-1, 2)
        units = np.array(rows.units[row], dtype=np.int64).reshape(-1, 2)
        windows = cut_windows(_word_starts(units, spans), facts["max_length"] - 2, facts["stride"])
        tokens = unit_tokens(units, spans)
        at = np.full(len(ids) + 1, -1)  # the last stands for units without a token
        at[:-1] = _token_places(windows, len(ids)) + done
        places.append(np.where(tokens >= 0, at[tokens], -1))
        for first, last in windows.tolist():
            token_ids.append([tokenizer.cls_id, *ids[first:last], tokenizer.sep_id])
            window_rows.append(row)
            done += last - first + 2
    starts = np.concatenate([[0], np.cumsum([len(ids) for ids in token_ids])]).astype(np.int64)
    examples = TagExamples(token_ids, starts, np.array(window_rows, dtype=np.int64), places, None)
    if gold is None:
        return examples
    targets = np.full(done, NO_TARGET, dtype=np.int64)
    inside = total = 0
    for where, numbers in zip(places, gold, strict=True):
        first = (where >= 0) & ~_shares_token(where)
        targets[where[first]] = numbers[first]
        if facts["scheme"]:
            for begin, end, _ in _entities(numbers, facts):
                lost = not first[begin], where[end - 1] < 0 or (end < len(where) and where[end] == where[end - 1])
                inside, total = inside + sum(lost), total + 2
    return replace(examples, targets=targets, boundaries=total, boundaries_inside=int(inside))


def unit_tokens(units: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """Return (U,) int64, the token of each unit: the first that begins in it, else the first that overlaps it, or -1.

    Args:
        units: (U, 2) characters of each unit, in their order.
        spans: (T, 2) characters of each token, in their order.
    """
    if not len(spans):
        return np.full(len(units), -1)
    own = np.searchsorted(spans[:, 0], units[:, 0])
    overlapping = np.searchsorted(np.maximum.accumulate(spans[:, 1]), units[:, 0], side="right")
    last = len(spans) - 1
    begins = spans[np.minimum(own, last), 0] < units[:, 1]
    tokens = np.where((own <= last) & begins, own, overlapping)
    overlaps = (tokens <= last) & (spans[np.minimum(tokens, last), 0] < units[:, 1])
    return np.where(overlaps, tokens, -1)


def _shares_token(places: np.ndarray) -> np.ndarray:
    """Return (U,) whether a unit is predicted at the token of the unit before it."""
    shared = np.zeros(len(places), dtype=bool)
    shared[1:] = (places[1:] == places[:-1]) & (places[1:] >= 0)
    return shared


def _word_starts(units: np.ndarray, spans: np.ndarray) -> np.ndarray:
    """Return (T,) whether a window may begin at a token: it does not go on with the unit of the token before."""
    unit = np.searchsorted(units[:, 0], spans[:, 0], side="right")
    return np.concatenate([np.ones(min(len(unit), 1), dtype=bool), unit[1:] != unit[:-1]])


def cut_windows(may_begin: np.ndarray, room: int, stride: int) -> np.ndarray:
    """Return (W, 2) int64, first token and last + 1 of windows over T tokens; one window if there are no tokens.

    Windows hold at most ``room`` tokens and share about ``stride`` of them with the next. Where a window of at least
    half the room can, it begins and ends between units.

    Args:
        may_begin: (T,) whether the token begins a unit.
        room: tokens in a window.
        stride: tokens that neighbours share; less than ``room``.
    """
    total = len(may_begin)
    cuts = np.flatnonzero(may_begin)
    windows = []
    start = end = 0
    while True:
        end = _cut_before(cuts, start + room, max(end, start + room // 2)) if start + room < total else total
        windows.append((start, end))
        if end == total:
            return np.array(windows, dtype=np.int64)
        start = _cut_before(cuts, max(end - stride, start + 1), max(start, end - stride - (room - stride) // 2))


def _cut_before(cuts: np.ndarray, wanted: int, above: int) -> int:
    """Return the last cut not after ``wanted`` if it is after ``above``, else ``wanted``."""
    number = int(np.searchsorted(cuts, wanted, side="right"))
    return int(cuts[number - 1]) if number and cuts[number - 1] > above else wanted


def _token_places(windows: np.ndarray, total: int) -> np.ndarray:
    """Return (T,) where each token stands in the windows laid end to end: in the one with most on its poorer side."""
    best = np.full(total, -1, dtype=np.int64)
    places = np.zeros(total, dtype=np.int64)
    done = 0
    for first, last in windows.tolist():
        positions = np.arange(last - first)
        context = np.minimum(positions, positions[::-1])
        better = context > best[first:last]
        best[first:last][better] = context[better]
        places[first:last][better] = positions[better] + done + 1
        done += last - first + 2
    return places


def decode(outputs: Outputs, examples: TagExamples, facts: Facts) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return for each sentence (units,) label numbers, as well-formed BIO, and (units,) probabilities, NaN if none."""
    sizes = [len(places) for places in examples.places]
    if not sizes:
        return [], []
    places = np.concatenate(examples.places)
    covered = places >= 0
    logits = np.concatenate(outputs)[places[covered]]
    numbers = np.full(len(places), facts["labels"].index(OUTSIDE if facts["scheme"] else facts["commonest"]))
    shares = np.full(len(places), np.nan)
    numbers[covered] = logits.argmax(1)
    shares[covered] = 1 / np.exp(logits - logits.max(1, keepdims=True)).sum(1)
    if facts["scheme"]:
        sentences = np.repeat(np.arange(len(sizes)), sizes)
        numbers = finish_numbers(numbers, covered, _shares_token(places), sentences)
    borders = np.cumsum(sizes)[:-1]
    return np.split(numbers, borders), np.split(shares, borders)


def _entities(numbers: np.ndarray, facts: Facts) -> list[SpanTuple]:
    return to_spans([facts["labels"][n] for n in numbers.tolist()], "BIO")


def predict(outputs: Outputs, examples: TagExamples, rows: TaggedRows, facts: Facts) -> list[Tagged]:
    """Return the entities of each sentence, or a span for every unit where tags have no scheme."""
    found = []
    for row, (numbers, shares) in enumerate(zip(*decode(outputs, examples, facts), strict=True)):
        units = rows.units[row]
        # What has no token has no probability: it does not count in an entity's, and alone it has none.
        if facts["scheme"]:
            entities = _entities(numbers, facts)
            tags = from_spans(entities, len(units), facts["scheme"])
            means = [float(np.nanmean(shares[first:last])) for first, last, _ in entities]
        else:
            tags = [facts["labels"][n] for n in numbers.tolist()]
            entities = [(n, n + 1, tag) for n, tag in enumerate(tags)]
            means = np.nan_to_num(shares).tolist()
        spans = tuple(
            Span(units[first][0], units[last - 1][1], kind, mean)
            for (first, last, kind), mean in zip(entities, means, strict=True)
        )
        found.append(Tagged(rows.texts[row], spans, 0, tuple(units), tuple(tags)))
    return found


def score(outputs: Outputs, examples: TagExamples, rows: TaggedRows, facts: Facts) -> Scores:
    """Score predictions against the tags of ``rows``.

    Entities: precision, recall and F1 of spans that are right in both ends and type, over all types together, and the
    share of right tags. Tags without a scheme: accuracy, and the mean F1 of the tags that occur.

    Raises:
        InputError: as :func:`gold_numbers` says.
    """
    gold = gold_numbers(rows, facts)
    found, shares = decode(outputs, examples, facts)
    right, said = np.concatenate(gold), np.concatenate(found)
    accuracy = float((right == said).mean())
    labels: list[str] = facts["labels"]
    present = np.union1d(right, said)
    confusion: list[list[int]] = []
    names: tuple[str, ...] = ()
    if facts["scheme"]:
        expected, entities = ([_entities(numbers, facts) for numbers in side] for side in (gold, found))
        figures, per_type = entity_scores(expected, entities, [len(units) for units in rows.units])
        metrics = {**figures, "accuracy": accuracy}
        table = ScoreTable("Per type", ("type", "precision", "recall", "F1", "entities"), per_type)
    else:
        right_of, said_of = np.searchsorted(present, right), np.searchsorted(present, said)
        every = label_scores(right_of, said_of, [labels[n] for n in present])
        metrics = every.metrics
        units = "words" if rows.unit == "word" else "characters"
        table = ScoreTable("Per tag", ("tag", "precision", "recall", "F1", units), every.tables[0].rows)
        if len(present) <= _MOST_CONFUSED:
            names, confusion = every.labels, every.confusion
    always = float((right == labels.index(facts["commonest"])).mean())
    beside = [("this model", accuracy), (f"always {facts['commonest']!r}", always)]
    tables = [table, ScoreTable("Accuracy", ("", "accuracy"), beside)]
    if examples.boundaries:
        limit = [("at no boundary of tokens", examples.boundaries_inside_token)]
        tables.append(ScoreTable("Ends of entities", ("", "share"), limit))
    return Scores(
        metrics=metrics,
        tables=tuple(tables),
        labels=names,
        confusion=confusion,
        collapsed=len(set(said.tolist())) == 1 and len(set(right.tolist())) > 1,
        mistakes=_mistakes(rows, gold, found, shares, facts),
    )


def _mistakes(
    rows: TaggedRows, gold: list[np.ndarray], found: list[np.ndarray], shares: list[np.ndarray], facts: Facts
) -> tuple[Mistake, ...]:
    """Return the sentences with the most confident wrong tags."""
    both = zip(gold, found, shares, strict=True)
    confidence = np.array([np.nan_to_num(share[right != said]).max(initial=-1.0) for right, said, share in both])
    mistakes = []
    for row in np.argsort(-confidence, kind="stable")[:WORST].tolist():
        wrong = np.flatnonzero(gold[row] != found[row]).tolist()
        if not wrong:
            break
        # Of a long text the part around the first error is shown.
        text, units = rows.texts[row], rows.units[row]
        left = max(0, min(units[wrong[0]][0] - _SHOWN // 4, len(text) - _SHOWN))
        text = text[left : left + _SHOWN]
        kinds: dict[tuple[int, int], str] = {}
        told = []
        for side, numbers in (("gold", gold[row]), ("predicted", found[row])):
            parts = (
                _entities(numbers, facts)
                if facts["scheme"]
                else [(n, n + 1, facts["labels"][numbers[n]]) for n in wrong]
            )
            spans = [(units[a][0] - left, units[b - 1][1] - left, kind) for a, b, kind in parts]
            spans = [(a, b, kind) for a, b, kind in spans if a >= 0 and b <= len(text)]
            kinds.update({(a, b): "both" if (a, b) in kinds else side for a, b, _ in spans})
            told.append(", ".join(f"{text[a:b]} ({kind})" for a, b, kind in spans) or "(none)")
        highlighted = tuple((a, b, kind) for (a, b), kind in sorted(kinds.items()))
        mistakes.append(Mistake(text, told[0], told[1], float(confidence[row]), rows.lines[row], highlighted))
    return tuple(mistakes)
