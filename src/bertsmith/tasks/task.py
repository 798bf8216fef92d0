"""What the trainer and the predictor know of a task: a few plain functions (section 3.2, section 4).

A task reads rows, finds out what its model must remember (the *facts*: label names, columns, lengths), makes
examples, and turns the model's outputs into scores and predictions. Everything else is the same for all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from torch import Tensor, nn

from bertsmith.batch import Batch
from bertsmith.config import ModelConfig
from bertsmith.errors import InputError
from bertsmith.task_config import FinetuneSettings
from bertsmith.tasks.scores import Scores
from bertsmith.text.tokenizer import Tokenizer

Facts: TypeAlias = dict[str, Any]
"""What a tuned model remembers of its task, as JSON values; stored in config.json."""

Outputs: TypeAlias = list[np.ndarray]
"""The model's float32 outputs, one array an example."""


@dataclass(frozen=True)
class Source:
    """Where rows come from and how they are written.

    Attributes:
        path: the file.
        columns: the file's column for each role that the task knows ("text", "label").
        encoding: as in :func:`bertsmith.text.decoding.open_text`.
        quoting: as in :func:`bertsmith.text.tables.read_table`.
        format: how a tagged file is written; other tasks go by the file's name.
        limit: use only the first so many rows.
    """

    path: Path
    columns: dict[str, str] = field(default_factory=dict)
    encoding: str = "auto"
    quoting: str = "auto"
    format: str = "auto"
    limit: int | None = None


class Rows(Protocol):
    """Rows as a task read them; what else they hold is the task's own business."""

    @property
    def lines(self) -> Sequence[int]:
        """Where each row stands in its file, counted from 1."""

    @property
    def source(self) -> Path:
        """The file."""


class Examples(Protocol):
    """Rows as the encoder gets them. An example is what is drawn into a batch: a text, or a window of one."""

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each example."""

    @property
    def truncated(self) -> int:
        """Rows of which the model does not see all tokens."""

    def batch(self, numbers: Sequence[int] | np.ndarray) -> Batch:
        """Return some examples as a batch, with labels if the rows had them."""


class Prediction(Protocol):
    """What a model says about one input."""

    @property
    def truncated(self) -> int:
        """Tokens that did not fit and were not seen."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""


@dataclass(frozen=True)
class Task:
    """A task of the paper's kind: an output layer on the encoder, and the functions around it.

    Attributes:
        name: as on the command line.
        read: labelled rows of a file.
        facts: what the model must remember, from training rows, dev rows and settings; refuses rows that do
            not go together.
        encode: rows to examples.
        model: a model with a fresh output layer.
        counts: how many predictions a batch holds, by the name of the loss.
        sums: the summed losses (nats or squared error, with gradient), by the same names.
        outputs: a batch's model output, cut into one float32 array an example.
        score: outputs of labelled examples against their rows.
        predict: outputs to one prediction a row.
        inputs: unlabelled inputs of a file as (line, input), as a stream.
        rows: inputs given in Python to rows without labels; the number stands for the line in messages.
        roles: the roles of columns: names of settings that hold a column's name.
        keys: the text of each row, to find rows that repeat.
        groups: what each row belongs to; rows of one group are never split between training and dev.
        notes: what the user should know of rows and examples, in sentences.
        answers: the gold answer of each row as a word (of each unit for tags), for their balance; none for numbers
            and spans.
    """

    name: str
    read: Callable[[Source], Any]
    facts: Callable[[Any, Any, Any], Facts]
    encode: Callable[[Any, Facts, Tokenizer], Examples]
    model: Callable[[ModelConfig, Facts], nn.Module]
    counts: Callable[[Batch], dict[str, int]]
    sums: Callable[[nn.Module, Batch, Facts], dict[str, Tensor]]
    outputs: Callable[[Tensor, Batch, Facts], Outputs]
    score: Callable[[Outputs, Any, Any, Facts], Scores]
    predict: Callable[[Outputs, Any, Any, Facts], Sequence[Prediction]]
    inputs: Callable[[Source, Facts], Iterator[tuple[int, Any]]]
    rows: Callable[[Sequence[tuple[int, Any]], Facts], Any]
    roles: tuple[str, ...]
    keys: Callable[[Any], Sequence[Any]]
    answers: Callable[[Any], Sequence[str]]
    groups: Callable[[Any], Sequence[Any]]
    notes: Callable[[Any, Any, Facts], list[str]]


def source(settings: FinetuneSettings, path: Path, roles: Iterable[str], limit: int | None = None) -> Source:
    """Return ``path`` as a source whose columns are the settings of the same names as ``roles``."""
    columns = {role: getattr(settings, role) for role in roles if getattr(settings, role) is not None}
    return Source(path, columns, settings.encoding, settings.quoting, getattr(settings, "format", "auto"), limit)


def split_rows(task: Task, rows: Any, share: float, seed: int) -> tuple[Any, Any]:
    """Return training and dev rows; which of them a group is in depends on (group, seed) alone.

    Raises:
        InputError: one of the two would be empty.
    """
    dev = []
    for group in task.groups(rows):
        digest = hashlib.blake2b(repr((seed, group)).encode("utf-8", "surrogatepass"), digest_size=8).digest()
        dev.append(int.from_bytes(digest, "big") < share * 2**64)
    if all(dev) or not any(dev):
        raise InputError(
            f"{len(set(task.groups(rows))):,} groups of rows that belong together (an article, a text) are too few to "
            f"hold a share of {share:g} out; give a larger --dev-share, or a file with --dev",
            path=rows.source,
        )
    return _select(rows, [n for n, d in enumerate(dev) if not d]), _select(rows, [n for n, d in enumerate(dev) if d])


def _select(rows: Any, numbers: list[int]) -> Any:
    """Return some of the rows: of every list that has an entry a row, the chosen ones."""
    count = len(rows.lines)
    lists = {f.name: getattr(rows, f.name) for f in fields(rows)}
    chosen = {
        name: [values[n] for n in numbers]
        for name, values in lists.items()
        if isinstance(values, list) and len(values) == count
    }
    return replace(rows, **chosen)
