"""One text, one label (section 4.1): read rows, make examples, decode, score."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import numpy as np

from bertsmith.batch import Batch, pack
from bertsmith.errors import InputError
from bertsmith.text.tables import column, read_table
from bertsmith.text.tokenizer import Tokenizer

_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")


@dataclass(frozen=True)
class Rows:
    """Labelled texts as they were read.

    Attributes:
        texts: never empty.
        labels: the label of each, as written.
        lines: where each stands in the file.
        source: the file.
    """

    texts: list[str]
    labels: list[str]
    lines: list[int]
    source: Path


@dataclass(frozen=True)
class Examples:
    """Rows as the encoder gets them.

    Attributes:
        token_ids: a list of ids for each row.
        label_ids: (rows,) int64.
        truncated: rows that were cut to fit the length limit.
    """

    token_ids: list[list[int]]
    label_ids: np.ndarray
    truncated: int

    def __len__(self) -> int:
        return len(self.token_ids)

    def batch(self, numbers: np.ndarray) -> Batch:
        """Return some rows as a batch."""
        return pack([self.token_ids[n] for n in numbers], labels=self.label_ids[numbers].tolist())


@dataclass(frozen=True)
class ClassScores:
    """How one label did; precision and recall are 0 where they are undefined."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Scores:
    """How predictions compare with the gold labels.

    Attributes:
        accuracy: share of rows that are right.
        macro_f1: mean F1 over the labels.
        per_class: one a label.
        confusion: rows true labels, columns predicted ones.
        collapsed: whether every row got the same label although the gold labels differ.
    """

    accuracy: float
    macro_f1: float
    per_class: list[ClassScores]
    confusion: list[list[int]]
    collapsed: bool

    def table(self) -> str:
        """Return the figures per label as aligned text."""
        width = max(5, *(len(c.label) for c in self.per_class))
        lines = [f"{'label':<{width}}  precision  recall     F1   rows"]
        lines += [
            f"{c.label:<{width}}  {c.precision:9.3f}  {c.recall:6.3f}  {c.f1:5.3f}  {c.support:5,}"
            for c in self.per_class
        ]
        lines.append(f"accuracy {self.accuracy:.1%}, macro F1 {self.macro_f1:.3f}")
        return "\n".join(lines)


def read_examples(
    path: Path, *, text: str, label: str, encoding: str = "auto", quoting: str = "auto", limit: int | None = None
) -> Rows:
    """Read a table's text and label columns.

    Raises:
        InputError: the file, a column or a row cannot be used; the line is named.
    """
    table = read_table(path, encoding=encoding, quoting=quoting, only=[text, label])
    texts, labels = column(table, text)[:limit], column(table, label)[:limit]
    if not texts:
        raise InputError("has no rows", path=path)
    for line, text_cell, label_cell in zip(table.lines, texts, labels, strict=False):
        if not text_cell.strip():
            raise InputError(f"column {text!r} is empty; expected a text", path=path, line=line)
        if not label_cell.strip():
            raise InputError(f"column {label!r} is empty; expected a label", path=path, line=line)
    return Rows(texts, [cell.strip() for cell in labels], table.lines[: len(texts)], path)


def label_names(train: Rows, dev: Rows) -> tuple[str, ...]:
    """Return the labels of the training rows, sorted (numbers by value).

    Raises:
        InputError: there is only one, or dev has another one.
    """
    known = set(train.labels)
    numeric = all(_NUMBER.fullmatch(name) for name in known)
    names = sorted(known, key=lambda name: (Decimal(name) if numeric else 0, name))
    if len(names) < 2:
        raise InputError(f"every row has the label {names[0]!r}; expected at least two labels", path=train.source)
    for line, name in zip(dev.lines, dev.labels, strict=True):
        if name not in known:
            shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
            raise InputError(
                f"label {name!r} is not among those of the training rows: {shown}", path=dev.source, line=line
            )
    return tuple(names)


def encode_rows(rows: Rows, labels: Sequence[str], tokenizer: Tokenizer, max_length: int) -> Examples:
    """Encode rows as ``[CLS] text [SEP]`` and number their labels."""
    numbers = {name: number for number, name in enumerate(labels)}
    encodings = tokenizer.encode_batch(rows.texts, max_length)
    return Examples(
        [e.ids for e in encodings],
        np.array([numbers[name] for name in rows.labels], dtype=np.int64),
        sum(e.truncated > 0 for e in encodings),
    )


def epoch_batches(rows: int, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Return the row numbers of an epoch's batches: every row once, in an order of (seed, epoch) alone."""
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    return [order[start : start + batch_size] for start in range(0, rows, batch_size)]


def score(gold: np.ndarray, predicted: np.ndarray, labels: Sequence[str]) -> Scores:
    """Score predicted label numbers (rows,) against gold ones (rows,)."""
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    numbers = np.arange(len(labels))
    precision, recall, f1, support = precision_recall_fscore_support(gold, predicted, labels=numbers, zero_division=0)
    per_class = [
        ClassScores(name, float(p), float(r), float(f), int(s))
        for name, p, r, f, s in zip(labels, precision, recall, f1, support, strict=True)
    ]
    return Scores(
        accuracy=float((gold == predicted).mean()),
        macro_f1=float(np.mean(f1)),
        per_class=per_class,
        confusion=confusion_matrix(gold, predicted, labels=numbers).tolist(),
        collapsed=len(set(predicted.tolist())) == 1 and len(set(gold.tolist())) > 1,
    )
