"""Small models of every kind with large random weights, a service of them, and texts that they tell apart."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bertsmith.config import ModelConfig
from bertsmith.model.bert import Bert
from bertsmith.model.heads import (
    MultipleChoiceModel,
    PretrainingModel,
    SequenceClassifier,
    SpanModel,
    TokenClassifier,
)
from bertsmith.model.weights import save_model
from bertsmith.serve_config import ServeSettings
from bertsmith.service.models import load_model
from bertsmith.service.service import Service
from bertsmith.service.turns import Lane
from bertsmith.text.tokenizer import Tokenizer
from tests.conftest import PUBLISHED
from tests.features.small import TOKENS, some_texts

CONFIG = ModelConfig.parse(PUBLISHED | {"vocab_size": len(TOKENS), "initializer_range": 0.4})
_LABELS = {"labels": ["bad", "good", "나쁨"], "columns": {"text": "comment", "label": "label"}, "max_length": 33}
TUNED: dict[str, tuple[Any, dict[str, Any]]] = {
    "classify": (lambda c: SequenceClassifier(c, 3), _LABELS),
    "multilabel": (lambda c: SequenceClassifier(c, 3), _LABELS | {"separator": "|"}),
    "regress": (
        lambda c: SequenceClassifier(c, 1),
        {
            "labels": ["value"],
            "columns": {"text": "a", "text_b": "b", "label": "score"},
            "max_length": 33,
            "mean": 2.0,
            "deviation": 3.0,
        },
    ),
    "qa": (
        SpanModel,
        {
            "columns": {"question": "question", "context": "context"},
            "max_length": 24,
            "stride": 5,
            "max_query_length": 8,
            "max_answer_length": 7,
            "n_best": 4,
            "impossible": True,
            "threshold": 0.0,
            "language": "en",
        },
    ),
    "tag": (
        lambda c: TokenClassifier(c, 3),
        {
            "labels": ["O", "B-PER", "I-PER"],
            "scheme": "BIO",
            "unit": "word",
            "max_length": 16,
            "stride": 4,
            "columns": {"text": "text"},
            "commonest": "O",
        },
    ),
    "choose": (
        MultipleChoiceModel,
        {
            "columns": {"context": "c", "endings": "x,y,z", "label": "label"},
            "choices": 3,
            "max_length": 33,
        },
    ),
}
OTHERS: dict[str, Any] = {"heads": PretrainingModel, "encoder": Bert}


def python_inputs(task: str, count: int = 9) -> list[Any]:
    """Return inputs of a task as Python takes them."""
    texts = some_texts(3 * count, seed=3)
    if task in ("qa", "regress"):
        # A context of several windows.
        return [(a, f"{b} {c}") for a, b, c in zip(texts[::3], texts[1::3], texts[2::3], strict=True)]
    if task == "choose":
        return [(texts[n], (texts[n + 1], texts[n + 2], "좋아 abc")) for n in range(0, 3 * count, 3)]
    return texts[:count]


def json_inputs(task: str, count: int = 9) -> list[Any]:
    """Return the same as a request has them."""
    given = python_inputs(task, count)
    if task == "qa":
        return [{"question": a, "context": b} for a, b in given]
    if task == "choose":
        return [{"context": a, "endings": list(b)} for a, b in given]
    if task == "regress":
        return [[a, b] if n % 2 else {"text": a, "text_b": b} for n, (a, b) in enumerate(given)]
    return [text if n % 2 else {"text": text} for n, text in enumerate(given)]


def save_all(directory: Path) -> dict[str, Path]:
    """Save a model of each task, one with pre-training heads and a bare encoder."""
    torch.manual_seed(3)
    tokenizer = Tokenizer.from_tokens(TOKENS, lowercase=True)
    found = {}
    for name, (make, facts) in TUNED.items():
        found[name] = directory / name
        save_model(make(CONFIG), found[name], tokenizer, extras={"task": name, "facts": facts})
    for name, make in OTHERS.items():
        network: nn.Module = make(CONFIG)
        found[name] = directory / name
        save_model(network, found[name], tokenizer)
    return found


loaded = functools.cache(load_model)


def service_of(directories: dict[str, Path], **settings: Any) -> Service:
    """Return a service of some models; it computes with one thread."""
    chosen = ServeSettings.parse({"models": [str(path) for path in directories.values()], "threads": 1} | settings)
    return Service({name: loaded(name, path, "cpu") for name, path in directories.items()}, chosen)


def close(one: Any, other: Any) -> bool:
    """Compare JSON values; numbers may differ by 1e-5."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(close, one, other))
    return one == pytest.approx(other, abs=1e-5) if isinstance(one, float) else bool(one == other)


class Gate:
    """Stands before a lane and lets its batches through when it is opened."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        self.batches: list[int] = []

    def before(self, lane: Lane) -> Lane:
        """Return the lane behind the gate."""

        def run(batches: Sequence[Any]) -> Sequence[Sequence[Any]]:
            self.batches.append(len(batches))
            self.entered.set()
            assert self.opened.wait(60)
            return lane.run(batches)

        return Lane(lane.name, run)

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Open at the end, whatever happens, so that no thread waits forever."""
        try:
            yield
        finally:
            self.opened.set()
