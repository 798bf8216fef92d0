"""A number for a text or a pair, such as how alike two sentences are: a linear layer with one output."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertsmith.batch import Batch
from bertsmith.errors import InputError
from bertsmith.task_config import RegressSettings
from bertsmith.tasks.prediction import NumberPrediction
from bertsmith.tasks.scores import Mistake, Scores, ScoreTable, worst
from bertsmith.tasks.task import Facts, Outputs
from bertsmith.tasks.texts import (
    TextExamples,
    TextRows,
    both,
    encode_texts,
    pooled_counts,
    read_texts,
    shown,
    text_columns,
    text_task,
)
from bertsmith.text.tokenizer import Tokenizer


def values(rows: TextRows) -> np.ndarray:
    """Return the label column as numbers (rows,) float64.

    Raises:
        InputError: a cell is not a finite number; the line is named.
    """
    found = []
    for line, cell, text in zip(rows.lines, rows.labels, rows.texts, strict=True):
        value = _value(cell)
        if not math.isfinite(value):
            swapped = isinstance(text, str) and math.isfinite(_value(text))
            raise InputError(
                f"column {rows.label_column!r} is {cell!r}; expected a number"
                + ("; the text is one: are the text and label columns swapped?" if swapped else ""),
                path=rows.source,
                line=line,
            )
        found.append(value)
    return np.array(found)


def _value(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def find_facts(train: TextRows, dev: TextRows, settings: RegressSettings) -> Facts:
    """Return the mean and deviation of the training values (the model works on standardised ones) and the columns.

    Raises:
        InputError: a value is not a number, or all are the same.
    """
    numbers = values(train)
    values(dev)
    if numbers.min() == numbers.max():
        raise InputError(f"every row has the value {train.labels[0]!r}; expected different numbers", path=train.source)
    return {
        # transformers counts outputs by label names.
        "labels": ["value"],
        "mean": float(numbers.mean()),
        "deviation": float(numbers.std()),
        "columns": text_columns(settings),
        "max_length": settings.max_length,
    }


def encode(rows: TextRows, facts: Facts, tokenizer: Tokenizer) -> TextExamples:
    """Encode rows; targets are the values in deviations from the training rows' mean."""
    targets = None
    if rows.labels:
        targets = torch.from_numpy((values(rows) - facts["mean"]) / facts["deviation"]).float()
    return encode_texts(rows.texts, facts, tokenizer, targets)


def loss_sums(model: nn.Module, batch: Batch, facts: Facts) -> dict[str, Tensor]:
    """Return the summed squared error in units of the training values' variance."""
    assert batch.labels is not None
    return {"loss": F.mse_loss(model(batch).float()[:, 0], batch.labels, reduction="sum")}


def score(outputs: Outputs, examples: TextExamples, rows: TextRows, facts: Facts) -> Scores:
    """Return Pearson's and Spearman's correlation; the mean absolute error stands in a table."""
    gold, predicted = values(rows), _numbers(outputs, facts)
    errors = np.abs(gold - predicted)
    collapsed = bool(predicted.std() < 1e-3 * max(gold.std(), 1e-12))
    guess = float(np.abs(gold - facts["mean"]).mean())
    return Scores(
        metrics={"spearman": _correlation(_ranks(gold), _ranks(predicted)), "pearson": _correlation(gold, predicted)},
        tables=(
            ScoreTable(
                "Mean absolute error",
                ("", "error"),
                [("this model", float(errors.mean())), ("always the training mean", guess)],
            ),
        ),
        collapsed=collapsed,
        mistakes=tuple(
            Mistake(shown(rows.texts[n]), f"{gold[n]:g}", f"{predicted[n]:.2f}", float(errors[n]), rows.lines[n])
            for n in worst(errors >= 0, errors)
        ),
    )


def predict(outputs: Outputs, examples: TextExamples, rows: TextRows, facts: Facts) -> list[NumberPrediction]:
    """Return a number for each row, in the units of the training rows."""
    predictions = []
    every = zip(rows.texts, _numbers(outputs, facts).tolist(), examples.cut, examples.windows_of, strict=True)
    for text, value, cut, windows in every:
        first, second = both(text)
        predictions.append(NumberPrediction(first, value, cut, second, windows))
    return predictions


def _numbers(outputs: Outputs, facts: Facts) -> np.ndarray:
    numbers: np.ndarray = np.stack(outputs)[:, 0].astype(np.float64) * facts["deviation"] + facts["mean"]
    return numbers


def _ranks(numbers: np.ndarray) -> np.ndarray:
    """Return ranks, equal numbers sharing their mean rank."""
    _, inverse, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: np.ndarray = (last - (counts - 1) / 2)[inverse]
    return ranks


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    # Of a constant there is none; 0 says that nothing was found.
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0


TASK = text_task(
    "regress",
    read=read_texts,
    facts=find_facts,
    encode=encode,
    counts=pooled_counts,
    sums=loss_sums,
    score=score,
    predict=predict,
    answers=lambda rows, facts: (),
)
