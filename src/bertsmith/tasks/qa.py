"""Extractive question answering (sections 4.2, 4.3): which part of a context answers a question, if any?

A start and an end vector score every token; an answer is the best pair of a start and an end over all windows. Of
questions that may have no answer, [CLS] stands for "no answer", and a threshold chosen on the dev rows decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertsmith.batch import Batch
from bertsmith.config import ModelConfig
from bertsmith.errors import InputError
from bertsmith.model.heads import SpanModel
from bertsmith.task_config import QaSettings
from bertsmith.tasks.qa_files import COLUMNS, ROLES, QuestionRows, read_inputs, read_questions
from bertsmith.tasks.qa_metrics import best_threshold, detect_language, score_answers
from bertsmith.tasks.qa_windows import DEFAULTS, QuestionExamples, encode, max_context
from bertsmith.tasks.scores import WORST, Mistake, Scores, ScoreTable
from bertsmith.tasks.task import Facts, Outputs, Source, Task, per_sequence

_AROUND = 200
_NONE = "(no answer)"


@dataclass(frozen=True)
class Span:
    """A piece of a context.

    Attributes:
        text: ``context[start:end]``; empty for "no answer".
        start, end: in characters.
        score: its probability among the best answers.
    """

    text: str
    start: int
    end: int
    score: float


@dataclass(frozen=True)
class Answer:
    """What a model answers to a question.

    Attributes:
        question: as it was given.
        context: as it was given.
        text: ``context[start:end]``; empty if the question is taken to be impossible.
        start, end: in characters; 0 and 0 for no answer.
        score: the probability of this answer (or of there being none) among the best ones.
        impossible: whether the context is taken to have no answer.
        n_best: the best answers of different text, best first; "no answer" is among them if the model knows it.
        null_difference: logit of "no answer" minus that of the best span; infinite if there is no span.
        truncated: tokens of the question that were not seen; of the context, all are.
        id: the question's name in its file, if it has one.
    """

    question: str
    context: str
    text: str
    start: int
    end: int
    score: float
    impossible: bool
    n_best: tuple[Span, ...]
    null_difference: float
    truncated: int = 0
    id: str = ""

    @property
    def best_span(self) -> Span | None:
        """The best answer that is a piece of the context, whether it was given or not."""
        return next((span for span in self.n_best if span.text), None)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        found: dict[str, Any] = {"id": self.id} if self.id else {}
        for name in ("question", "context", "text", "start", "end", "score", "impossible", "truncated"):
            found[name] = getattr(self, name)
        return found | {"n_best": [vars(span).copy() for span in self.n_best]}


def best_spans(
    start: np.ndarray, end: np.ndarray, longest: int, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the best spans of a window, exactly, over all pairs.

    Args:
        start: (c,) float64 logits of its context tokens; -inf where no answer may begin.
        end: (c,) float64 logits; -inf where none may end.
        longest: tokens of the longest span.
        count: how many spans are wanted.

    Returns:
        Scores, first and last tokens (k,), k at most ``count``, in no order.
    """
    firsts = np.flatnonzero(start > -np.inf)
    width = min(longest, len(end))
    if width == 0 or len(firsts) == 0:
        none = np.empty(0, dtype=np.int64)
        return np.empty(0), none, none
    padded = np.concatenate([end, np.full(width - 1, -np.inf)])
    band = (start[firsts, None] + np.lib.stride_tricks.sliding_window_view(padded, width)[firsts]).ravel()
    top = np.argpartition(band, len(band) - count)[-count:] if len(band) > count else np.arange(len(band))
    top = top[band[top] > -np.inf]
    chosen = firsts[top // width]
    return band[top], chosen, chosen + top % width


def predict(outputs: Outputs, examples: QuestionExamples, rows: QuestionRows, facts: Facts) -> list[Answer]:
    """Return an answer for each question.

    A question is taken to be impossible if the model knows such questions (``facts["impossible"]``) and the logits
    of [CLS], the lowest over its windows, exceed those of the best span by more than ``facts["threshold"]``.

    Args:
        outputs: for each window (length, 2) float32 logits of being the first and the last token.
        examples: the windows, W of R questions.
        rows: the questions.
        facts: limits, and the threshold (0 if there is none).
    """
    facts = DEFAULTS | facts
    starts = examples.context_starts
    answers = []
    for row in range(len(rows)):
        windows = range(examples.window_starts[row], examples.window_starts[row + 1])
        pieces = [(int(examples.firsts[n]), int(examples.counts[n])) for n in windows]
        owner = max_context(pieces)
        null, found = np.inf, []
        for number, (first, count) in enumerate(pieces):
            logits = outputs[windows[number]].astype(np.float64)
            logits[~np.isfinite(logits)] = -np.inf
            null = min(null, float(logits[0].sum()))
            inside = logits[starts[windows[number]] :][:count]
            begin = np.where(owner[first : first + count] == number, inside[:, 0], -np.inf)
            scores, firsts, lasts = best_spans(begin, inside[:, 1], facts["max_answer_length"], facts["n_best"])
            found.append((scores, firsts + first, lasts + first))
        scores, firsts, lasts = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.lexsort((lasts, firsts, -scores))
        spans = examples.char_spans[examples.context_of[row]]
        places = zip(
            scores[order].tolist(), spans[firsts[order], 0].tolist(), spans[lasts[order], 1].tolist(), strict=True
        )
        best = _distinct(rows.contexts[row], places, facts["n_best"])
        answers.append(_answer(rows, row, best, null, int(examples.cut[row]), facts))
    return answers


def _distinct(context: str, places: Iterable[tuple[float, int, int]], count: int) -> list[tuple[float, int, int]]:
    """Keep the best place of each text, so that the list of answers shows different ones."""
    found: dict[str, tuple[float, int, int]] = {}
    for score, start, end in places:
        if start < end:
            found.setdefault(context[start:end], (score, start, end))
        if len(found) == count:
            break
    return list(found.values())


def _answer(
    rows: QuestionRows, row: int, best: list[tuple[float, int, int]], null: float, cut: int, facts: Facts
) -> Answer:
    context = rows.contexts[row]
    difference = null - best[0][0] if best else np.inf
    if not best:
        best = [(0.0, 0, 0)]
    elif facts["impossible"]:
        best = sorted([*best, (null, 0, 0)], key=lambda place: -place[0])
    scores = np.array([score for score, _, _ in best])
    shares = np.exp(scores - scores.max())
    shares /= shares.sum()
    n_best = tuple(Span(context[a:b], a, b, p) for (_, a, b), p in zip(best, shares.tolist(), strict=True))
    undecided = Answer(rows.questions[row], context, "", 0, 0, 0.0, True, n_best, difference, cut, rows.ids[row])
    return decide(undecided, facts.get("threshold", 0.0) if facts["impossible"] else np.inf)


def decide(answer: Answer, threshold: float) -> Answer:
    """Return the same answer with another threshold: empty if ``null_difference`` exceeds it or there is no span."""
    impossible = answer.best_span is None or answer.null_difference > threshold
    given = next(span for span in answer.n_best if bool(span.text) != impossible)
    return replace(answer, text=given.text, start=given.start, end=given.end, score=given.score, impossible=impossible)


def tune_threshold(predictions: Sequence[Answer], rows: QuestionRows, language: str) -> float:
    """Return the threshold that gives these rows the best F1 (see :func:`best_threshold`).

    Args:
        predictions: of a model that knows impossible questions, with any threshold.
        rows: the same questions, with right answers.
        language: "en" or "ko".
    """
    answered = score_answers([_best_text(p) for p in predictions], rows, language)
    empty = score_answers([""] * len(rows), rows, language)
    return best_threshold(_differences(predictions), answered[:, 1], empty[:, 1])[0]


def score(outputs: Outputs, examples: QuestionExamples, rows: QuestionRows, facts: Facts) -> Scores:
    """Return exact match and F1; where questions are impossible, of both kinds, and with the best threshold.

    Of a model that knows impossible questions, ``tuned`` holds the threshold that is best on these rows. Without a
    threshold in ``facts`` it decides here too.
    """
    facts = DEFAULTS | facts
    language, predictions = facts["language"], predict(outputs, examples, rows, facts)
    tuned: dict[str, Any] = {}
    best: dict[str, float] = {}
    if facts["impossible"]:
        answered = score_answers([_best_text(p) for p in predictions], rows, language)
        empty = score_answers([""] * len(rows), rows, language)
        # F1 comes last: its threshold is the one to remember.
        for column, name in enumerate(("best_exact_match", "best_f1")):
            tuned["threshold"], best[name] = best_threshold(
                _differences(predictions), answered[:, column], empty[:, column]
            )
        if "threshold" not in facts:
            predictions = [decide(p, tuned["threshold"]) for p in predictions]
    figures = score_answers([p.text for p in predictions], rows, language)
    impossible = np.array(rows.impossible)
    kinds = [("", np.ones(len(rows), dtype=bool))]
    if impossible.any():
        kinds += [("has_answer_", ~impossible), ("no_answer_", impossible)]
    metrics: dict[str, float] = {}
    table: list[tuple[str | int | float, ...]] = []
    for prefix, chosen in kinds:
        if chosen.any():
            exact, f1 = figures[chosen].mean(0).tolist()
            metrics |= {f"{prefix}exact_match": exact, f"{prefix}f1": f1}
            table.append((prefix.replace("_", " ").strip() or "all", exact, f1, int(chosen.sum())))
    wrong = np.flatnonzero(figures[:, 0] == 0)
    worst = sorted(wrong.tolist(), key=lambda n: -predictions[n].score)[:WORST]
    return Scores(
        metrics=metrics | best,
        tables=(ScoreTable("Questions", ("", "exact match", "F1", "number"), table),),
        collapsed=len({p.text for p in predictions}) == 1 and len(set(rows.answers)) > 1,
        mistakes=tuple(_mistake(predictions[n], rows, n) for n in worst),
        tuned=tuned,
    )


def _best_text(prediction: Answer) -> str:
    return prediction.best_span.text if prediction.best_span else ""


def _differences(predictions: Sequence[Answer]) -> np.ndarray:
    return np.array([p.null_difference for p in predictions], dtype=np.float64)


def _mistake(answer: Answer, rows: QuestionRows, row: int) -> Mistake:
    """Return a wrong answer with the part of the context around it and around the right one, where they are near."""
    golds = rows.answers[row]
    gold = next((found.span for found in golds if found.span), None)
    begin, end = gold or (answer.start, answer.end)
    low, high = max(0, begin - _AROUND), min(len(answer.context), end + _AROUND)
    text = f"{answer.question} ‖ "
    spans = []
    for span, kind in ((gold, "gold"), ((answer.start, answer.end), "predicted")):
        if span and low <= span[0] < span[1] <= high:
            spans.append((span[0] - low + len(text), span[1] - low + len(text), kind))
    shown = tuple(sorted(spans))
    right = golds[0].text if golds else _NONE
    return Mistake(text + answer.context[low:high], right, answer.text or _NONE, answer.score, rows.lines[row], shown)


def read(source: Source) -> QuestionRows:
    """Read labelled questions.

    Raises:
        InputError: as :func:`read_questions` says.
    """
    return read_questions(
        source.path, source.columns, encoding=source.encoding, quoting=source.quoting, limit=source.limit
    )


def find_facts(train: QuestionRows, dev: QuestionRows, settings: QaSettings) -> Facts:
    """Return columns, limits, the language that scores are counted in, and whether questions may be impossible.

    Args:
        train: training rows.
        dev: dev rows.
        settings: has the limits of :data:`DEFAULTS`, ``language`` ("auto", "en" or "ko") and a column by role.

    Raises:
        InputError: no training question has an answer.
    """
    if all(train.impossible):
        raise InputError("no question has an answer; expected some that have", path=train.source)
    facts: Facts = {"columns": {r: name for r in ROLES if (name := getattr(settings, r)) is not None}}
    facts |= {name: getattr(settings, name) for name in DEFAULTS if name not in ("impossible", "language")}
    facts["language"] = detect_language(train) if settings.language == "auto" else settings.language
    facts["impossible"] = any(train.impossible) or any(dev.impossible)
    return facts


def published_facts(positions: int) -> Facts:
    """Return what there is to know of somebody else's model: what BERT's own code uses, and the usual columns."""
    return DEFAULTS | {"columns": dict(COLUMNS), "max_length": min(DEFAULTS["max_length"], positions)}


def make_model(config: ModelConfig, facts: Facts) -> SpanModel:
    """Return a model with a fresh start and end vector."""
    return SpanModel(config)


def loss_counts(batch: Batch) -> dict[str, int]:
    """Return how many windows a batch holds: one prediction each."""
    return {"loss": batch.num_sequences}


def loss_sums(model: nn.Module, batch: Batch, facts: Facts) -> dict[str, Tensor]:
    """Return the summed cross entropy (nats) over each window's tokens, the mean of start and end."""
    assert batch.labels is not None
    logits = model(batch).float()
    starts = batch.sequence_starts
    window = torch.repeat_interleave(starts[1:] - starts[:-1])
    # (N, longest, 2); tokens that a window does not have get no probability.
    rows = logits.new_full((batch.num_sequences, batch.max_length, 2), -torch.inf)
    rows = rows.index_put((window, batch.position_ids), logits)
    return {"loss": F.cross_entropy(rows, batch.labels, reduction="sum") / 2}


def cut_outputs(logits: Tensor, batch: Batch, facts: Facts) -> Outputs:
    """Cut logits (T, 2) into an array (length, 2) a window."""
    return per_sequence(logits.detach().float().cpu().numpy(), batch)


def inputs(source: Source, facts: Facts) -> Iterator[tuple[int, tuple[str, str]]]:
    """Yield (line, (question, context)) of SQuAD's JSON or a table.

    Raises:
        InputError: as :func:`read_inputs` says.
    """
    return read_inputs(source.path, source.columns, encoding=source.encoding, quoting=source.quoting)


def rows_of(given: Sequence[tuple[int, object]], facts: Facts) -> QuestionRows:
    """Return (question, context) pairs given in Python as rows without labels.

    Raises:
        InputError: something else, or an empty text.
    """
    pairs = []
    for number, pair in given:
        if not (isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise InputError(f"input {number} is {pair!r}; expected a tuple (question, context)")
        for name, text in zip(("question", "context"), pair, strict=True):
            if not text.strip():
                raise InputError(f"the {name} of input {number} is empty; expected a text")
        pairs.append(pair)
    questions, contexts = [q for q, _ in pairs], [c for _, c in pairs]
    return QuestionRows([""] * len(pairs), questions, contexts, [], contexts, [n for n, _ in given], Path("-"))


def keys(rows: QuestionRows) -> list[tuple[str, str]]:
    """Return question and context of each row, to find rows that repeat."""
    return list(zip(rows.questions, rows.contexts, strict=True))


def notes(rows: QuestionRows, examples: QuestionExamples, facts: Facts) -> list[str]:
    """Return what was repaired, left out, cut or cannot be expressed, in sentences."""
    return [*rows.warnings, *examples.warnings()]


TASK = Task(
    name="qa",
    read=read,
    facts=find_facts,
    encode=encode,
    model=make_model,
    counts=loss_counts,
    sums=loss_sums,
    outputs=cut_outputs,
    score=score,
    predict=predict,
    inputs=inputs,
    rows=rows_of,
    roles=ROLES,
    keys=keys,
    answers=lambda rows, facts: (),
    groups=lambda rows: rows.groups,
    notes=notes,
)
