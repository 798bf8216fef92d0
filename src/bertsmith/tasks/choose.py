"""Multiple choice (section 4.4): which of n endings follows a context? One score a (context, ending) pair."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertsmith.batch import Batch
from bertsmith.config import ModelConfig
from bertsmith.errors import InputError
from bertsmith.model.heads import MultipleChoiceModel
from bertsmith.task_config import ChooseSettings
from bertsmith.tasks.prediction import ChoicePrediction
from bertsmith.tasks.scores import Mistake, Scores, ScoreTable, worst
from bertsmith.tasks.task import Facts, Outputs, Source, Task
from bertsmith.tasks.text_windows import merged
from bertsmith.tasks.texts import TextExamples, cut_notes, encode_groups, encode_texts, read_cells, softmax
from bertsmith.text.columns import split_names
from bertsmith.text.tables import column, read_table
from bertsmith.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class ChoiceRows:
    """Questions as they were read.

    Attributes:
        contexts: what comes before, or the question.
        endings: n for each row.
        gold: the number of the right ending, from 0; empty for rows without labels.
        lines: where each stands in the file.
        source: the file.
        names: the columns of the endings, for messages.
    """

    contexts: list[str]
    endings: list[tuple[str, ...]]
    gold: list[int]
    lines: list[int]
    source: Path
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class ChoiceExamples:
    """Rows as the encoder gets them: n sequences ``[CLS] context [SEP] ending [SEP]`` a row, or a window of one.

    Attributes:
        sequences: those of a row, or of each of its windows, one after the other.
        choices: n.
        gold: (rows,) int64, or None.
    """

    sequences: TextExamples
    choices: int
    gold: Tensor | None

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of all endings of a row, or of a window, together."""
        found: list[int] = np.array(self.sequences.lengths).reshape(-1, self.choices).sum(1).tolist()
        return found

    @cached_property
    def cut(self) -> list[int]:
        """Tokens of each row that did not fit, over all endings."""
        found: list[int] = np.array(self.sequences.cut).reshape(-1, self.choices).sum(1).tolist()
        return found

    @property
    def truncated(self) -> int:
        """Rows of which something was cut."""
        return sum(tokens > 0 for tokens in self.cut)

    @property
    def windows_of(self) -> list[int]:
        """How many windows each row was read in."""
        return [1] * len(self.cut) if self.sequences.windows is None else self.sequences.windows

    def batch(self, numbers: Sequence[int] | np.ndarray) -> Batch:
        """Return some rows or windows as a batch of n times as many sequences; the label of one without is -1."""
        rows = np.asarray(numbers, dtype=np.int64)
        batch = self.sequences.batch((rows[:, None] * self.choices + np.arange(self.choices)).ravel())
        gold = torch.full((len(rows),), -1) if self.gold is None else self.gold[torch.from_numpy(rows)]
        return replace(batch, labels=gold)


def read(source: Source) -> ChoiceRows:
    """Read context, endings and the right one, given as its number from 0, its column's name or its text.

    Raises:
        InputError: the file or a column cannot be used, an ending is missing, or the right one is none of them.
    """
    names = tuple(split_names(source.columns["endings"]))
    context, label = source.columns["context"], source.columns["label"]
    table = read_table(
        source.path, encoding=source.encoding, quoting=source.quoting, only=[context, *dict.fromkeys(names), label]
    )
    contexts = column(table, context)[: source.limit]
    endings = list(zip(*(column(table, name)[: source.limit] for name in names), strict=True))
    gold = []
    cells = column(table, label)[: source.limit]
    for line, text, row, cell in zip(table.lines, contexts, endings, cells, strict=False):
        _check(source.path, line, context, text, names, row)
        gold.append(_number(cell.strip(), names, row, label, source.path, line))
    return ChoiceRows(contexts, endings, gold, table.lines[: len(gold)], source.path, names)


def _check(path: Path, line: int, context: str, text: str, names: Sequence[str], endings: Sequence[str]) -> None:
    for name, cell in ((context, text), *zip(names, endings, strict=True)):
        if not cell.strip():
            raise InputError(f"column {name!r} is empty; expected a text", path=path, line=line)


def _number(cell: str, names: tuple[str, ...], endings: tuple[str, ...], label: str, path: Path, line: int) -> int:
    if cell in names:
        return names.index(cell)
    if cell.isascii() and cell.isdigit() and int(cell) < len(names):
        return int(cell)
    if endings.count(cell) == 1:
        return endings.index(cell)
    raise InputError(
        f"column {label!r} is {cell!r}; expected a number from 0 to {len(names) - 1}, one of the columns "
        f"{', '.join(names)}, or the text of one ending",
        path=path,
        line=line,
    )


def find_facts(train: ChoiceRows, dev: ChoiceRows, settings: ChooseSettings) -> Facts:
    """Return the columns, the number of endings and the length limit.

    Raises:
        InputError: fewer than two endings, or every row has the same answer.
    """
    if len(train.names) < 2:
        raise InputError(f"--endings names {len(train.names)} column; expected two or more with commas between them")
    if len(set(train.gold)) < 2:
        raise InputError(f"in every row ending {train.gold[0]} is right; expected different answers", path=train.source)
    columns = {"context": settings.context, "endings": settings.endings, "label": settings.label}
    return {"columns": columns, "choices": len(train.names), "max_length": settings.max_length}


def published_facts(positions: int) -> Facts:
    """Return what a published model is taken to be for: SWAG's columns (section 4.4), but any number of endings.

    It scores one sequence at a time and does not say how many it was tuned to compare.
    """
    names = ("context", "endings", "label")
    columns = {name: ChooseSettings.model_fields[name].default for name in names}
    return {"columns": columns, "choices": None, "max_length": positions, "published": True}


def encode(rows: ChoiceRows, facts: Facts, tokenizer: Tokenizer) -> ChoiceExamples:
    """Encode each ending as a pair with its context.

    Raises:
        InputError: rows have another number of endings than the model was tuned with.
    """
    choices = len(rows.endings[0])
    if facts["choices"] not in (None, choices):
        raise InputError(f"{choices} endings; this model was tuned with {facts['choices']}", path=rows.source)
    groups = [[(context, end) for end in row] for context, row in zip(rows.contexts, rows.endings, strict=True)]
    if facts.get("long_texts") == "windows":
        return ChoiceExamples(encode_groups(groups, facts, tokenizer), choices, None)
    pairs = [pair for group in groups for pair in group]
    gold = torch.tensor(rows.gold) if rows.gold else None
    return ChoiceExamples(encode_texts(pairs, facts, tokenizer, None), choices, gold)


def make_model(config: ModelConfig, facts: Facts) -> MultipleChoiceModel:
    """Return a model with a fresh output layer of one score."""
    return MultipleChoiceModel(config)


def loss_counts(batch: Batch) -> dict[str, int]:
    """Return how many rows a batch holds."""
    assert batch.labels is not None
    return {"loss": len(batch.labels)}


def loss_sums(model: nn.Module, batch: Batch, facts: Facts) -> dict[str, Tensor]:
    """Return the summed cross entropy (nats) over the endings of each row."""
    assert batch.labels is not None
    scores = model(batch).float().view(len(batch.labels), -1)
    return {"loss": F.cross_entropy(scores, batch.labels, reduction="sum")}


def cut_outputs(logits: Tensor, batch: Batch, facts: Facts) -> Outputs:
    """Cut scores (N, 1) into an array (choices,) a row."""
    assert batch.labels is not None
    return list(logits.detach().float().cpu().numpy().reshape(len(batch.labels), -1))


def score(outputs: Outputs, examples: ChoiceExamples, rows: ChoiceRows, facts: Facts) -> Scores:
    """Return the accuracy; chance and the commonest answer stand in a table."""
    shares = softmax(merged(outputs, examples.windows_of))
    gold, predicted = np.array(rows.gold), shares.argmax(1)
    confidence = shares.max(1)
    commonest = float(np.bincount(gold).max() / len(gold))
    accuracy = float((gold == predicted).mean())
    table = ScoreTable(
        "Accuracy",
        ("", "accuracy"),
        [("this model", accuracy), ("always the commonest place", commonest), ("chance", 1 / examples.choices)],
    )
    return Scores(
        metrics={"accuracy": accuracy},
        tables=(table,),
        collapsed=len(set(predicted.tolist())) == 1 and len(set(rows.gold)) > 1,
        mistakes=tuple(
            Mistake(
                rows.contexts[n],
                rows.endings[n][gold[n]],
                rows.endings[n][predicted[n]],
                float(confidence[n]),
                rows.lines[n],
            )
            for n in worst(gold != predicted, confidence)
        ),
    )


def predict(outputs: Outputs, examples: ChoiceExamples, rows: ChoiceRows, facts: Facts) -> list[ChoicePrediction]:
    """Return the likeliest ending of each row, with the probabilities of all."""
    windows = examples.windows_of
    every = zip(rows.contexts, rows.endings, softmax(merged(outputs, windows)), examples.cut, windows, strict=True)
    return [
        ChoicePrediction(context, endings, int(row.argmax()), tuple(row.tolist()), cut, count)
        for context, endings, row, cut, count in every
    ]


def inputs(source: Source, facts: Facts) -> Iterator[tuple[int, tuple[str, tuple[str, ...]]]]:
    """Yield (line, (context, endings)) of a table.

    Raises:
        InputError: the file is not a table, a column is missing, or a cell is empty.
    """
    names = tuple(split_names(source.columns["endings"]))
    for line, cells in read_cells(source, [source.columns["context"], *names]):
        _check(source.path, line, source.columns["context"], cells[0], names, cells[1:])
        yield line, (cells[0], cells[1:])


def rows_of(given: Sequence[tuple[int, object]], facts: Facts) -> ChoiceRows:
    """Return (context, endings) given in Python as rows without labels.

    Raises:
        InputError: something else, another number of endings than the model was tuned with, or, where a model does
            not say that, another number than the first input has.
    """
    contexts: list[str] = []
    endings: list[tuple[str, ...]] = []
    expected = facts["choices"]
    for number, row in given:
        if not (isinstance(row, tuple) and len(row) == 2 and isinstance(row[0], str) and not isinstance(row[1], str)):
            raise InputError(f"input {number} is {row!r}; expected a tuple (context, [ending, ending, ...])")
        parts = tuple(row[1])
        expected = expected or max(len(parts), 2)
        if len(parts) != expected or not all(isinstance(p, str) and p.strip() for p in (row[0], *parts)):
            raise InputError(f"input {number}: expected a context and {expected} endings, none of them empty")
        contexts.append(row[0])
        endings.append(parts)
    return ChoiceRows(contexts, endings, [], [number for number, _ in given], Path("-"))


TASK = Task(
    name="choose",
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
    roles=("context", "endings", "label"),
    keys=lambda rows: list(zip(rows.contexts, rows.endings, strict=True)),
    answers=lambda rows, facts: [rows.names[n] for n in rows.gold],
    groups=lambda rows: rows.contexts,
    notes=cut_notes,
)
