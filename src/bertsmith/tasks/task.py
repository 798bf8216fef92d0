"""What the trainer and the predictor know of a task: a few plain functions (section 3.2, section 4).

A task reads rows, finds out what its model must remember (the *facts*: label names, columns, lengths), makes
examples, and turns the model's outputs into scores and predictions. Everything else is the same for all.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
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

    @property
    def is_stdin(self) -> bool:
        """Whether lines of standard input are meant: the path is "-"."""
        return str(self.path) == "-"

    @property
    def where(self) -> Path | str:
        """The file, or "standard input", for messages."""
        return "standard input" if self.is_stdin else self.path


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
        learned: the names in each row that a model only knows if its training rows have them (labels, tags, types of
            entities), from rows and settings; none for numbers, spans and choices.
        answers: the gold answers of all rows as words, for their balance: one a row, of tags one a unit, of several
            labels each; none for numbers and spans.
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
    answers: Callable[[Any, Facts], Sequence[str]]
    groups: Callable[[Any], Sequence[Any]]
    notes: Callable[[Any, Any, Facts], list[str]]
    learned: Callable[[Any, Any], Sequence[Collection[str]]] = lambda rows, settings: [()] * len(rows.lines)


def source(settings: FinetuneSettings, path: Path, roles: Iterable[str], limit: int | None = None) -> Source:
    """Return ``path`` as a source whose columns are the settings of the same names as ``roles``."""
    columns = {role: getattr(settings, role) for role in roles if getattr(settings, role) is not None}
    return Source(path, columns, settings.encoding, settings.quoting, getattr(settings, "format", "auto"), limit)


def select_rows(rows: Any, numbers: Sequence[int]) -> Any:
    """Return some rows, in the order of ``numbers``: of every list that has an entry a row, the chosen ones."""
    lists = {f.name: getattr(rows, f.name) for f in fields(rows)}
    chosen = {
        name: [values[n] for n in numbers]
        for name, values in lists.items()
        if isinstance(values, list) and len(values) == len(rows.lines)
    }
    return replace(rows, **chosen)


def split_rows(task: Task, rows: Any, share: float, seed: int, settings: Any = None) -> tuple[Any, Any]:
    """Hold out whole groups (articles, equal texts), so that none of them is in both parts.

    Groups come in the order of a hash of (seed, group); the first ones are held out until they have at least ``share``
    of the rows. One that has the last rows of a label is passed over: a model only knows the labels of its training
    rows. The order of the rows plays no part and is kept.

    Args:
        task: says what belongs together.
        rows: of at least two groups.
        share: between 0 and 1.
        seed: another one holds out other groups.
        settings: the task's; only the labels of multilabel cannot be told without.

    Returns:
        The rest and the held-out rows, neither of them empty.

    Raises:
        InputError: ``share`` is not between 0 and 1, all rows belong to one group, or every group has a label that no
            other has.
    """
    if not 0 < share < 1:
        raise InputError(f"the share to hold out is {share}; expected a number between 0 and 1")
    groups = task.groups(rows)
    sizes = Counter(groups)
    if len(sizes) < 2:
        raise InputError("all rows belong to one article or text; expected several to split by", path=rows.source)
    names: dict[Any, Counter[str]] = defaultdict(Counter)
    left: Counter[str] = Counter()
    for group, own in zip(groups, task.learned(rows, settings), strict=True):
        names[group].update(own)
        left.update(own)
    held = set()
    count = 0
    for group in sorted(sizes, key=lambda group: _hash(seed, group))[:-1]:
        if count >= share * len(groups):
            break
        if all(left[name] > number for name, number in names[group].items()):
            left.subtract(names[group])
            held.add(group)
            count += sizes[group]
    if not held:
        raise InputError(
            "no rows can be held out: all that could be have a label that no other rows have; give --dev",
            path=rows.source,
        )
    inside = [group in held for group in groups]
    rest = select_rows(rows, [n for n, is_held in enumerate(inside) if not is_held])
    return rest, select_rows(rows, [n for n, is_held in enumerate(inside) if is_held])


def _hash(seed: int, group: object) -> tuple[str, str]:
    name = repr(group)
    return hashlib.sha256(f"{seed}\n{name}".encode("utf-8", "surrogatepass")).hexdigest(), name


def not_in_training(what: str, known: Sequence[str], path: Path, line: int) -> InputError:
    """Return the error for a label that training rows never had; ``what`` names it with its kind."""
    listed = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
    return InputError(f"{what} is not among those of the training rows: {listed}", path=path, line=line)


def per_sequence(values: np.ndarray, batch: Batch) -> Outputs:
    """Cut values of a batch's tokens (T, ...) into an array a sequence."""
    return np.split(values, batch.sequence_starts[1:-1].cpu().numpy())
