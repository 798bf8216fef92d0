"""Windows of a question and a piece of its context, and the right answers among their tokens.

A window is ``[CLS] question [SEP] piece [SEP]``. Long contexts are several windows that overlap; a token counts in
the one where it has most context on both sides, as in BERT's own code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import torch

from bertsmith.batch import Batch, pack
from bertsmith.errors import InputError
from bertsmith.tasks.qa_files import SHOWN, QuestionRows
from bertsmith.tasks.task import Facts
from bertsmith.text.tokenizer import Tokenizer

DEFAULTS: Facts = {
    "max_length": 384,
    "stride": 128,
    "max_query_length": 64,
    "max_answer_length": 30,
    "n_best": 20,
    "impossible": False,
    "language": "en",
}
"""What BERT's own code uses, for models that do not remember something else."""

_SPECIAL = 3
_CHUNK = 64


@dataclass(frozen=True)
class QuestionExamples:
    """Questions as the encoder gets them: windows, those of a question one after the other.

    W windows of R questions about C different contexts. Contexts are kept once, windows are cut from them when a
    batch is made.

    Attributes:
        questions: R times (q,) int64 token ids, cut.
        contexts: C times (c,) int64 token ids.
        char_spans: C times (c, 2) int64, where each token stands in its context.
        context_of: (R,) int64, which context a question is about.
        cut: (R,) int64 tokens of the question that were cut.
        rows: (W,) int64, the question of each window.
        firsts: (W,) int64, the context token with which the window's piece begins.
        counts: (W,) int64 context tokens in it.
        window_starts: (R + 1,) int64; question r has the windows ``[starts[r], starts[r + 1])``.
        targets: (W, 2) int64, first and last token of the answer in the window, or 0 and 0; None without labels.
        cls_id, sep_id: special tokens.
        answerable: questions with an answer.
        inexpressible: those of them of which no right answer has its exact characters as a run of tokens.
        inexpressible_shown: up to 5 of them, in words.
    """

    questions: list[np.ndarray]
    contexts: list[np.ndarray]
    char_spans: list[np.ndarray]
    context_of: np.ndarray
    cut: np.ndarray
    rows: np.ndarray
    firsts: np.ndarray
    counts: np.ndarray
    window_starts: np.ndarray
    targets: np.ndarray | None
    cls_id: int
    sep_id: int
    answerable: int = 0
    inexpressible: int = 0
    inexpressible_shown: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    # Trainers ask for these at every step.
    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each window."""
        found: list[int] = (self.context_starts + self.counts + 1).tolist()
        return found

    @cached_property
    def context_starts(self) -> np.ndarray:
        """(W,) int64, where in the window its piece of the context begins."""
        sizes = np.array([len(ids) for ids in self.questions], dtype=np.int64)
        starts: np.ndarray = sizes[self.rows] + _SPECIAL - 1
        return starts

    @property
    def truncated(self) -> int:
        """Questions that were cut; contexts never are."""
        return int(np.count_nonzero(self.cut))

    @property
    def token_ids(self) -> list[list[int]]:
        """The ids of every window, made on each use."""
        return [self._window(n)[0].tolist() for n in range(len(self))]

    @property
    def segment_ids(self) -> list[list[int]]:
        """0 for question and [CLS], 1 for context, made on each use."""
        return [self._window(n)[1].tolist() for n in range(len(self))]

    def batch(self, numbers: Sequence[int] | np.ndarray) -> Batch:
        """Return some windows as a batch; its labels, if there are any, are (N, 2) int64."""
        windows = [self._window(int(n)) for n in numbers]
        batch = pack([ids for ids, _ in windows], [segments for _, segments in windows])
        if self.targets is None:
            return batch
        return replace(batch, labels=torch.from_numpy(self.targets[np.asarray(numbers, dtype=np.int64)]))

    def warnings(self) -> list[str]:
        """Return what the user should know, in sentences."""
        found = []
        if self.truncated:
            found.append(
                f"{self.truncated:,} of {len(self.questions):,} questions are too long and were cut at the end"
            )
        if self.inexpressible:
            share = self.inexpressible / self.answerable
            found.append(
                f"{self.inexpressible:,} of {self.answerable:,} answers ({share:.1%}) begin or end inside a token, so "
                f"that no run of tokens can express them: {'; '.join(self.inexpressible_shown)}"
            )
        return found

    def _window(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        row, first = int(self.rows[number]), int(self.firsts[number])
        question = self.questions[row]
        piece = self.contexts[int(self.context_of[row])][first : first + int(self.counts[number])]
        ids = np.concatenate([[self.cls_id], question, [self.sep_id], piece, [self.sep_id]])
        segments = np.ones(len(ids), dtype=np.int64)
        segments[: len(question) + _SPECIAL - 1] = 0
        return ids, segments


@lru_cache(maxsize=4096)
def cut_windows(tokens: int, room: int, stride: int) -> tuple[tuple[int, int], ...]:
    """Cut a context into windows.

    Args:
        tokens: of the context; without any there is one empty window.
        room: tokens that fit into a window.
        stride: by how many tokens the next window advances, at most ``room``.

    Returns:
        (first token, number of tokens) of each window; together they hold every token.
    """
    found, first = [], 0
    while True:
        count = min(tokens - first, room)
        found.append((first, count))
        if first + count >= tokens:
            return tuple(found)
        first += min(count, stride)


def max_context(windows: Sequence[tuple[int, int]]) -> np.ndarray:
    """Return (tokens,) int64: the window in which each token has most context.

    That is the smaller of the tokens before and after it in the window; of equals the longer window, then the first.
    """
    tokens = max((first + count for first, count in windows), default=0)
    best, chosen = np.full(tokens, -1.0), np.zeros(tokens, dtype=np.int64)
    for number, (first, count) in enumerate(windows):
        place = np.arange(count)
        room = np.minimum(place, count - 1 - place) + 0.01 * count
        better = np.flatnonzero(room > best[first : first + count]) + first
        best[better], chosen[better] = room[better - first], number
    return chosen


def token_span(char_spans: np.ndarray, start: int, end: int) -> tuple[int, int, bool] | None:
    """Return the first and last of the fewest tokens that cover characters [start, end), and if they do so exactly.

    Args:
        char_spans: (tokens, 2) int64.
        start: where the answer begins.
        end: and where it ends.

    Returns:
        None if no token has any of these characters.
    """
    inside = np.flatnonzero((char_spans[:, 1] > start) & (char_spans[:, 0] < end))
    if len(inside) == 0:
        return None
    first, last = int(inside[0]), int(inside[-1])
    return first, last, bool(char_spans[first, 0] == start and char_spans[last, 1] == end)


def encode(rows: QuestionRows, facts: Facts, tokenizer: Tokenizer) -> QuestionExamples:
    """Cut questions and their contexts into windows and find the right answers among their tokens.

    A question keeps at most ``max_query_length`` tokens, and at most half of what ``max_length`` leaves beside the
    special tokens. Of several right answers the first that tokens can express is trained towards. Where none can
    be expressed, because it ends inside a token, the fewest tokens around the first answer are.

    Raises:
        InputError: the lengths leave no room for a context.
    """
    facts = DEFAULTS | facts
    max_length, stride, longest = (int(facts[name]) for name in ("max_length", "stride", "max_query_length"))
    if max_length < _SPECIAL + 2 or stride < 1 or longest < 1:
        raise InputError(
            f"max_length is {max_length}, stride {stride} and max_query_length {longest}; expected at least "
            f"{_SPECIAL + 2}, 1 and 1"
        )
    longest = min(longest, (max_length - _SPECIAL) // 2)
    whole = tokenizer.sentence_ids(rows.questions)
    questions = [ids[:longest] for ids in whole]
    numbers: dict[str, int] = {}
    context_of = np.array([numbers.setdefault(text, len(numbers)) for text in rows.contexts], dtype=np.int64)
    contexts, char_spans = _encode_contexts(list(numbers), tokenizer)
    pieces = [
        cut_windows(len(contexts[context]), max_length - _SPECIAL - len(ids), stride)
        for context, ids in zip(context_of, questions, strict=True)
    ]
    sizes = np.array([len(windows) for windows in pieces], dtype=np.int64)
    places = np.array([place for windows in pieces for place in windows], dtype=np.int64).reshape(-1, 2)
    examples = QuestionExamples(
        questions,
        contexts,
        char_spans,
        context_of,
        cut=np.array([len(a) - len(b) for a, b in zip(whole, questions, strict=True)], dtype=np.int64),
        rows=np.repeat(np.arange(len(sizes)), sizes),
        firsts=places[:, 0],
        counts=places[:, 1],
        window_starts=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        targets=None,
        cls_id=tokenizer.cls_id,
        sep_id=tokenizer.sep_id,
    )
    return _with_targets(examples, rows) if rows.answers else examples


def _encode_contexts(texts: Sequence[str], tokenizer: Tokenizer) -> tuple[list[np.ndarray], list[np.ndarray]]:
    ids, spans = [], []
    for start in range(0, len(texts), _CHUNK):
        for encoding in tokenizer.encode_batch(texts[start : start + _CHUNK]):
            ids.append(np.array(encoding.ids[1:-1], dtype=np.int64))
            spans.append(np.array(encoding.char_spans[1:-1], dtype=np.int64).reshape(-1, 2))
    return ids, spans


def _with_targets(examples: QuestionExamples, rows: QuestionRows) -> QuestionExamples:
    """Add targets and the counts of answers that tokens cannot express."""
    targets = np.zeros((len(examples), 2), dtype=np.int64)
    starts = examples.context_starts
    inexpressible, shown = 0, list[str]()
    for row, golds in enumerate(rows.answers):
        spans = [gold.span for gold in golds if gold.span is not None]
        char_spans = examples.char_spans[examples.context_of[row]]
        found = [token_span(char_spans, *span) for span in spans]
        chosen = next((tokens for tokens in found if tokens and tokens[2]), next(filter(None, found), None))
        if spans and not (chosen and chosen[2]):
            inexpressible += 1
            if len(shown) < SHOWN:
                shown.append(_shown_span(rows.contexts[row], spans[0], chosen, char_spans))
        if chosen is None:
            continue
        first, last, _ = chosen
        for window in range(examples.window_starts[row], examples.window_starts[row + 1]):
            begin = examples.firsts[window]
            if begin <= first and last < begin + examples.counts[window]:
                targets[window] = np.array([first, last]) - begin + starts[window]
    return replace(
        examples,
        targets=targets,
        answerable=sum(map(bool, rows.answers)),
        inexpressible=inexpressible,
        inexpressible_shown=tuple(shown),
    )


def _shown_span(
    context: str, span: tuple[int, int], tokens: tuple[int, int, bool] | None, char_spans: np.ndarray
) -> str:
    if tokens is None:
        return f"{context[slice(*span)]!r} has no token"
    return f"{context[slice(*span)]!r} in {context[char_spans[tokens[0], 0] : char_spans[tokens[1], 1]]!r}"
