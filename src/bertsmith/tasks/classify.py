"""One label for a text or a pair of texts (section 4.1): a linear layer over the pooled [CLS] vector."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertsmith.batch import Batch
from bertsmith.errors import InputError
from bertsmith.task_config import ClassifySettings
from bertsmith.tasks.prediction import LabelPrediction
from bertsmith.tasks.scores import Mistake, Scores, ScoreTable, label_scores, worst
from bertsmith.tasks.task import Facts, Outputs, not_in_training
from bertsmith.tasks.texts import (
    TextExamples,
    TextRows,
    both,
    encode_texts,
    pooled_counts,
    read_texts,
    refuse_swapped,
    shown,
    softmax,
    text_columns,
    text_task,
)
from bertsmith.text.tokenizer import Tokenizer

_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")


def label_names(train: TextRows, dev: TextRows) -> tuple[str, ...]:
    """Return the labels of the training rows, sorted (numbers by value).

    Raises:
        InputError: there is only one, or dev has another one.
    """
    known = set(train.labels)
    numeric = all(_NUMBER.fullmatch(name) for name in known)
    names = sorted(known, key=lambda name: (Decimal(name) if numeric else 0, name))
    if len(names) < 2:
        raise InputError(f"every row has the label {names[0]!r}; expected at least two labels", path=train.source)
    label_numbers(dev, names)
    return tuple(names)


def label_numbers(rows: TextRows, names: Sequence[str]) -> np.ndarray:
    """Return the labels of rows as numbers (rows,) int64.

    Raises:
        InputError: a row has a label that is not among ``names``; the line is named.
    """
    numbers = {name: number for number, name in enumerate(names)}
    for line, name in zip(rows.lines, rows.labels, strict=True):
        if name not in numbers:
            raise not_in_training(f"label {name!r}", names, rows.source, line)
    return np.array([numbers[name] for name in rows.labels], dtype=np.int64)


def learned(rows: TextRows, settings: ClassifySettings) -> list[tuple[str]]:
    """Return the label of each row.

    Raises:
        InputError: the columns are swapped.
    """
    refuse_swapped(rows)
    return [(label,) for label in rows.labels]


def find_facts(train: TextRows, dev: TextRows, settings: ClassifySettings) -> Facts:
    """Return labels, columns, the length limit and, if asked for, a weight per label.

    Weights are inverse to the labels' frequencies and 1 on average over the training rows, so that the loss
    keeps its size.

    Raises:
        InputError: the rows have one label, dev has another one, or the columns are swapped.
    """
    refuse_swapped(train)
    labels = label_names(train, dev)
    counts = np.bincount(label_numbers(train, labels), minlength=len(labels))
    facts: Facts = {
        "labels": list(labels),
        "commonest": labels[int(counts.argmax())],
        "columns": text_columns(settings),
        "max_length": settings.max_length,
    }
    if settings.class_weights == "balanced":
        facts["class_weights"] = (counts.sum() / (len(labels) * counts)).tolist()
    return facts


def encode(rows: TextRows, facts: Facts, tokenizer: Tokenizer) -> TextExamples:
    """Encode rows and number their labels."""
    targets = torch.from_numpy(label_numbers(rows, facts["labels"])) if rows.labels else None
    return encode_texts(rows.texts, facts, tokenizer, targets)


def loss_sums(model: nn.Module, batch: Batch, facts: Facts) -> dict[str, Tensor]:
    """Return the summed cross entropy (nats), weighted by class if the model was told so."""
    assert batch.labels is not None
    weights = facts.get("class_weights")
    weight = torch.tensor(weights, device=batch.labels.device) if weights else None
    return {"loss": F.cross_entropy(model(batch).float(), batch.labels, weight=weight, reduction="sum")}


def score(outputs: Outputs, examples: TextExamples, rows: TextRows, facts: Facts) -> Scores:
    """Score the most probable labels."""
    labels = facts["labels"]
    shares = softmax(outputs)
    gold, predicted = label_numbers(rows, labels), shares.argmax(1)
    confidence = shares.max(1)
    mistakes = tuple(
        Mistake(shown(rows.texts[n]), labels[gold[n]], labels[predicted[n]], float(confidence[n]), rows.lines[n])
        for n in worst(gold != predicted, confidence)
    )
    scores = label_scores(gold, predicted, labels)
    if "commonest" in facts:
        always = float((gold == labels.index(facts["commonest"])).mean())
        beside = [("this model", scores.metrics["accuracy"]), (f"always {facts['commonest']!r}", always)]
        scores = replace(scores, tables=(*scores.tables, ScoreTable("Accuracy", ("", "accuracy"), beside)))
    return replace(scores, mistakes=mistakes)


def predict(outputs: Outputs, examples: TextExamples, rows: TextRows, facts: Facts) -> list[LabelPrediction]:
    """Return the most probable label of each row, with the probabilities of all."""
    shares = softmax(outputs)
    best = shares.argmax(1).tolist()
    predictions = []
    every = zip(rows.texts, best, shares.tolist(), examples.cut, examples.windows_of, strict=True)
    for text, b, row, cut, windows in every:
        scores = dict(zip(facts["labels"], row, strict=True))
        first, second = both(text)
        predictions.append(LabelPrediction(first, facts["labels"][b], row[b], scores, cut, second, windows))
    return predictions


TASK = text_task(
    "classify",
    read=read_texts,
    facts=find_facts,
    encode=encode,
    counts=pooled_counts,
    sums=loss_sums,
    score=score,
    predict=predict,
    answers=lambda rows, facts: rows.labels,
    learned=learned,
)
