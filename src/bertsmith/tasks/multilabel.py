"""Any number of labels for a text or a pair: an independent yes or no per label."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertsmith.batch import Batch
from bertsmith.errors import InputError
from bertsmith.task_config import MultilabelSettings
from bertsmith.tasks.prediction import LabelsPrediction
from bertsmith.tasks.scores import Mistake, Scores, label_table, worst
from bertsmith.tasks.task import Facts, Outputs, Source, not_in_training
from bertsmith.tasks.texts import (
    TextExamples,
    TextRows,
    both,
    encode_texts,
    read_texts,
    refuse_swapped,
    shown,
    text_columns,
    text_task,
)
from bertsmith.text.tokenizer import Tokenizer

THRESHOLD = 0.5


def read(source: Source) -> TextRows:
    """Read rows; an empty label cell is a row without labels."""
    return read_texts(source, empty_labels=True)


def label_sets(rows: TextRows, separator: str) -> list[frozenset[str]]:
    """Return the labels of each row.

    Raises:
        InputError: a cell names a label twice, or has an empty one between separators.
    """
    sets = []
    for line, cell in zip(rows.lines, rows.labels, strict=True):
        names = [name.strip() for name in cell.split(separator)] if cell else []
        if "" in names or len(set(names)) != len(names):
            raise InputError(
                f"column {rows.label_column!r} is {cell!r}; expected different labels with {separator!r} between them",
                path=rows.source,
                line=line,
            )
        sets.append(frozenset(names))
    return sets


def learned(rows: TextRows, settings: MultilabelSettings) -> list[frozenset[str]]:
    """Return the labels of each row.

    Raises:
        InputError: the columns are swapped, or as :func:`label_sets` says.
    """
    refuse_swapped(rows)
    return label_sets(rows, settings.separator)


def find_facts(train: TextRows, dev: TextRows, settings: MultilabelSettings) -> Facts:
    """Return labels, separator, columns and the length limit.

    Raises:
        InputError: no row has a label, dev has another one, or the columns are swapped.
    """
    refuse_swapped(train)
    labels = sorted(frozenset().union(*label_sets(train, settings.separator)))
    if not labels:
        raise InputError(f"no row has a label in column {settings.label!r}", path=train.source)
    facts: Facts = {
        "labels": labels,
        "separator": settings.separator,
        "columns": text_columns(settings),
        "max_length": settings.max_length,
    }
    _targets(dev, facts)
    return facts


def _targets(rows: TextRows, facts: Facts) -> np.ndarray:
    """Return (rows, labels) float32 of 0 and 1."""
    numbers = {name: number for number, name in enumerate(facts["labels"])}
    targets = np.zeros((len(rows.texts), len(numbers)), dtype=np.float32)
    for n, names in enumerate(label_sets(rows, facts["separator"])):
        for name in names:
            if name not in numbers:
                raise not_in_training(f"label {name!r}", facts["labels"], rows.source, rows.lines[n])
            targets[n, numbers[name]] = 1.0
    return targets


def encode(rows: TextRows, facts: Facts, tokenizer: Tokenizer) -> TextExamples:
    """Encode rows; the target of a row is 1 for each of its labels."""
    return encode_texts(rows.texts, facts, tokenizer, torch.from_numpy(_targets(rows, facts)) if rows.labels else None)


def loss_counts(batch: Batch) -> dict[str, int]:
    """Return how many yes-or-no questions a batch asks."""
    assert batch.labels is not None
    return {"loss": batch.labels.numel()}


def loss_sums(model: nn.Module, batch: Batch, facts: Facts) -> dict[str, Tensor]:
    """Return the summed binary cross entropy (nats)."""
    assert batch.labels is not None
    return {"loss": F.binary_cross_entropy_with_logits(model(batch).float(), batch.labels, reduction="sum")}


def score(outputs: Outputs, examples: TextExamples, rows: TextRows, facts: Facts) -> Scores:
    """Score the labels above one half: micro and macro F1, and the share of rows with exactly the right set."""
    from sklearn.metrics import f1_score

    shares = _shares(outputs)
    gold, predicted = _targets(rows, facts).astype(np.int64), (shares >= THRESHOLD).astype(np.int64)
    table, macro_f1 = label_table(gold, predicted, facts["labels"])
    # The error of a row is the largest distance of a probability from the truth.
    distance = np.abs(shares - gold).max(1)

    def names(row: np.ndarray) -> str:
        return facts["separator"].join(np.array(facts["labels"])[row.astype(bool)]) or "(none)"

    return Scores(
        metrics={
            "macro_f1": macro_f1,
            "micro_f1": float(f1_score(gold, predicted, average="micro", zero_division=0)),
            "exact_match": float((gold == predicted).all(1).mean()),
        },
        tables=(table,),
        collapsed=bool((predicted == predicted[0]).all() and not (gold == gold[0]).all()),
        mistakes=tuple(
            Mistake(shown(rows.texts[n]), names(gold[n]), names(predicted[n]), float(distance[n]), rows.lines[n])
            for n in worst((gold != predicted).any(1), distance)
        ),
    )


def predict(outputs: Outputs, examples: TextExamples, rows: TextRows, facts: Facts) -> list[LabelsPrediction]:
    """Return the labels above one half, with the probabilities of all."""
    predictions = []
    every = zip(rows.texts, _shares(outputs).tolist(), examples.cut, examples.windows_of, strict=True)
    for text, row, cut, windows in every:
        scores = dict(zip(facts["labels"], row, strict=True))
        chosen = tuple(name for name, share in scores.items() if share >= THRESHOLD)
        first, second = both(text)
        predictions.append(LabelsPrediction(first, chosen, scores, cut, second, windows))
    return predictions


def _shares(outputs: Outputs) -> np.ndarray:
    shares: np.ndarray = torch.from_numpy(np.stack(outputs)).sigmoid().numpy()
    return shares


TASK = text_task(
    "multilabel",
    read=read,
    facts=find_facts,
    encode=encode,
    counts=loss_counts,
    sums=loss_sums,
    score=score,
    predict=predict,
    answers=lambda rows, facts: [label for own in label_sets(rows, facts["separator"]) for label in sorted(own)],
    learned=learned,
)
