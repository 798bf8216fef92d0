"""Scores of any task: named figures, tables to show, and the worst errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bertsmith.catalogue.translate import translated
from bertsmith.console import columns_of, justified

WORST = 20


@dataclass(frozen=True)
class ScoreTable:
    """A table of figures; the first column names the row, without a heading where the names are words of ours."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str | int | float, ...]]


@dataclass(frozen=True)
class Mistake:
    """A row that the model got wrong.

    Attributes:
        text: what it was asked.
        gold: what was right.
        predicted: what it said.
        confidence: the probability it gave to that (for scores: the absolute error).
        line: where the row stands in its file.
        spans: (start, end, kind) of parts of ``text`` to highlight; kind is "gold", "predicted" or "both".
    """

    text: str
    gold: str
    predicted: str
    confidence: float
    line: int
    spans: tuple[tuple[int, int, str], ...] = ()


@dataclass(frozen=True)
class Scores:
    """How predictions compare with the gold labels.

    Attributes:
        metrics: figures by name, higher is better.
        tables: details, such as figures per label.
        labels: names of the confusion matrix's rows and columns.
        confusion: rows true labels, columns predicted ones; empty where it makes no sense.
        collapsed: whether every row got the same answer although the gold answers differ.
        mistakes: up to 20 errors, the most confident first.
        tuned: values chosen on these rows that the model must remember (a threshold).
    """

    metrics: dict[str, float]
    tables: tuple[ScoreTable, ...] = ()
    labels: tuple[str, ...] = ()
    confusion: list[list[int]] = field(default_factory=list)
    collapsed: bool = False
    mistakes: tuple[Mistake, ...] = ()
    tuned: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """Return the tables and metrics as aligned text."""
        lines = []
        for table in self.tables:
            first, *others = table.columns
            head = [translated(column) for column in (first or table.title.lower(), *others)]
            rows = [[_shown(cell) for cell in row] for row in table.rows]
            rows = rows if first else [[translated(name), *cells] for name, *cells in rows]
            widths = [max(columns_of(row[n]) for row in (head, *rows)) for n in range(len(head))]
            lines += ["  ".join(_aligned(row, widths)).rstrip() for row in (head, *rows)]
        lines.append(", ".join(f"{translated(spoken(name))} {value:.3f}" for name, value in self.metrics.items()))
        return "\n".join(lines)


def spoken(metric: str) -> str:
    """Return a metric's name as it is said: ``macro_f1`` is "macro F1"."""
    return metric.replace("_", " ").replace("f1", "F1")


def _shown(cell: str | int | float) -> str:
    if isinstance(cell, float):
        return f"{cell:.3f}"
    return f"{cell:,}" if isinstance(cell, int) else cell


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [justified(cell, width, right=n > 0) for n, (cell, width) in enumerate(zip(row, widths, strict=True))]


def worst(wrong: np.ndarray, confidence: np.ndarray) -> list[int]:
    """Return the numbers of up to 20 wrong rows, the most confident first.

    Args:
        wrong: (rows,) whether a row is wrong.
        confidence: (rows,) how sure the model was, or how far off.
    """
    numbers = np.flatnonzero(wrong)
    found: list[int] = numbers[np.argsort(-confidence[numbers], kind="stable")][:WORST].tolist()
    return found


def label_table(gold: np.ndarray, predicted: np.ndarray, labels: Sequence[str]) -> tuple[ScoreTable, float]:
    """Return precision, recall and F1 per label, and the mean F1.

    Args:
        gold: (rows,) label numbers, or (rows, labels) 0 or 1 where a row may have several.
        predicted: the same shape.
        labels: their names. Undefined figures are 0.
    """
    from sklearn.metrics import precision_recall_fscore_support

    figures = precision_recall_fscore_support(gold, predicted, labels=np.arange(len(labels)), zero_division=0)
    rows: list[tuple[str | int | float, ...]] = [
        (name, float(p), float(r), float(f), int(s)) for name, p, r, f, s in zip(labels, *figures, strict=True)
    ]
    return ScoreTable("Per label", ("label", "precision", "recall", "F1", "rows"), rows), float(np.mean(figures[2]))


def label_scores(gold: np.ndarray, predicted: np.ndarray, labels: Sequence[str]) -> Scores:
    """Score one label a row: label numbers (rows,) against gold ones (rows,)."""
    from sklearn.metrics import confusion_matrix

    table, macro_f1 = label_table(gold, predicted, labels)
    return Scores(
        metrics={"accuracy": float((gold == predicted).mean()), "macro_f1": macro_f1},
        tables=(table,),
        labels=tuple(labels),
        confusion=confusion_matrix(gold, predicted, labels=np.arange(len(labels))).tolist(),
        collapsed=len(set(predicted.tolist())) == 1 and len(set(gold.tolist())) > 1,
    )
