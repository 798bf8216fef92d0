"""What the rows of a fine-tuning run look like: lengths, labels, and what training and dev rows share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertsmith.tasks.task import Examples, Facts, Task

_BINS = (8, 16, 32, 64, 128, 256, 512)


@dataclass(frozen=True)
class SplitReport:
    """One file's rows.

    Attributes:
        rows: rows read.
        examples: what they became for the encoder (windows of long texts are several).
        truncated: rows of which something was cut.
        median_length, max_length: tokens of the examples.
        lengths: examples by length, as (up to so many tokens, examples); 0 stands for "more".
        answers: how often each answer is right, commonest first; empty for numbers and spans.
    """

    rows: int
    examples: int
    truncated: int
    median_length: float
    max_length: int
    lengths: list[tuple[int, int]]
    answers: list[tuple[str, int]]


@dataclass(frozen=True)
class DataReport:
    """Training and dev rows.

    Attributes:
        train, dev: each file.
        repeated: training rows whose text stands in another training row too.
        shared: dev rows whose text stands in a training row too.
    """

    train: SplitReport
    dev: SplitReport
    repeated: int
    shared: int

    def in_short(self) -> str:
        """Return the numbers of rows and labels, for the first line of a run."""
        labels = f", {len(self.train.answers)} labels" if self.train.answers else ""
        return f"{self.train.rows:,} training rows, {self.dev.rows:,} dev rows{labels}"

    def warnings(self) -> list[str]:
        """Return what the user should know before training."""
        found = []
        if self.shared == self.dev.rows:
            found.append("every dev row stands among the training rows: the score will say nothing about new text")
        elif self.shared:
            found.append(
                f"{self.shared:,} of {self.dev.rows:,} dev rows have the text of a training row: the score will be "
                "too good"
            )
        return found


def describe_data(
    task: Task, facts: Facts, train_rows: Any, train: Examples, dev_rows: Any, dev: Examples
) -> DataReport:
    """Look at the rows before training."""
    keys = task.keys(train_rows)
    known = Counter(keys)
    return DataReport(
        train=_describe(train, len(keys), task.answers(train_rows, facts)),
        dev=_describe(dev, len(task.keys(dev_rows)), task.answers(dev_rows, facts)),
        repeated=sum(known[key] > 1 for key in keys),
        shared=sum(key in known for key in task.keys(dev_rows)),
    )


def _describe(examples: Examples, rows: int, answers: Sequence[str]) -> SplitReport:
    lengths = np.array(examples.lengths)
    counts = np.bincount(np.searchsorted(_BINS, lengths), minlength=len(_BINS) + 1).tolist()
    return SplitReport(
        rows=rows,
        examples=len(lengths),
        truncated=examples.truncated,
        median_length=float(np.median(lengths)),
        max_length=int(lengths.max()),
        lengths=list(zip((*_BINS, 0), counts, strict=True)),
        answers=Counter(answers).most_common(),
    )
