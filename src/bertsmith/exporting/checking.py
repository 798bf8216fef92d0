"""An export beside the model that it is made from: the same rows through both, differences, scores, speed."""

from __future__ import annotations

import itertools
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bertsmith.batch import by_token_budget
from bertsmith.errors import InputError
from bertsmith.export_config import ExportSettings
from bertsmith.exporting.onnx_graph import Feed
from bertsmith.exporting.sample import sample_inputs
from bertsmith.exporting.subject import Subject
from bertsmith.serving.backends import time_models
from bertsmith.serving.graphs import GraphModel
from bertsmith.serving.predictor import source_of
from bertsmith.task_config import SETTINGS
from bertsmith.tasks.task import Examples, Outputs, Prediction
from bertsmith.training.apply import apply_model

TEXTS = 500
"""Texts that an export is compared on where they are not the rows of --check."""

_CPU = torch.device("cpu")
_TIMED, _TIMED_TOKENS, _ALONE, _FEED_TOKENS = 64, 1024, 24, 1024


@dataclass(frozen=True)
class Material:
    """Rows that an export is compared on.

    Attributes:
        rows: the task's.
        examples: as the model gets them.
        where: what they are, for people.
        labelled: whether a score can be had.
    """

    rows: Any
    examples: Examples
    where: str
    labelled: bool


@dataclass(frozen=True)
class Difference:
    """How far outputs are from the original's.

    Attributes:
        largest: of any logit or coordinate of a vector.
        largest_share: of any probability, where outputs are logits of labels or tags.
        same: the share of rows with the same answer; None where answers are numbers or vectors.
        cosine: the mean cosine of vectors with the original's; None where there are none.
    """

    largest: float
    largest_share: float | None
    same: float | None
    cosine: float | None


@dataclass(frozen=True)
class Metric:
    """A score of the original and of the export, as a share of 1; higher is better."""

    name: str
    original: float
    export: float

    @property
    def lost(self) -> float:
        """By how many points (hundredths) it fell."""
        return 100 * (self.original - self.export)


def material_of(settings: ExportSettings, subject: Subject) -> Material:
    """Return the rows of --check, or inputs of --calibrate, or those of :mod:`bertsmith.exporting.sample`.

    Raises:
        InputError: a file cannot be used.
    """
    task, facts = subject.task, subject.facts | {"long_texts": "windows"}
    if settings.check is not None and subject.recipe is None:
        rows = task.read(source_of(settings, facts, settings.check))
        return Material(rows, task.encode(rows, facts, subject.tokenizer), str(settings.check), True)
    path = settings.check or settings.calibrate
    inputs = sample_inputs(task.name, facts, TEXTS) if path is None else inputs_of(settings, subject, path)
    rows = task.rows(list(enumerate(inputs, start=1)), facts)
    where = "texts of Bertsmith's own" if path is None else str(path)
    return Material(rows, task.encode(rows, facts, subject.tokenizer), where, False)


def inputs_of(settings: ExportSettings, subject: Subject, path: Path) -> list[Any]:
    """Return the first inputs of a file, labelled or not.

    Raises:
        InputError: the file cannot be read, or holds none.
    """
    given = subject.task.inputs(source_of(settings, subject.facts, path), subject.facts)
    found = [value for _, value in itertools.islice(given, TEXTS)]
    if not found:
        raise InputError("holds no text; expected at least one", path=path)
    return found


def feeds_of(examples: Examples) -> list[Feed]:
    """Return examples as a graph takes them, for finding scales."""
    feeds: list[Feed] = []

    def record(inputs: Any) -> np.ndarray:
        feeds.append(dict(inputs))
        return np.zeros((len(inputs["input_ids"]), 1), dtype=np.float32)

    model = GraphModel(record)
    for numbers in by_token_budget(examples.lengths, _FEED_TOKENS):
        model(examples.batch(numbers))
    return feeds


def outputs_of(model: nn.Module, subject: Subject, material: Material) -> Outputs:
    """Return what a model, or a graph in its place, makes of the rows."""
    return apply_model(model, subject.task, material.examples, subject.facts, _CPU, torch.float32)


def compare(subject: Subject, material: Material, original: Outputs, export: Outputs) -> Difference:
    """Return how far the export's outputs are from the original's."""
    pairs = list(zip(original, export, strict=True))
    largest = max(float(np.abs(a - b).max(initial=0.0)) for a, b in pairs)
    if subject.recipe is not None:
        cosines = [float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-12)) for a, b in pairs]
        return Difference(largest, None, None, float(np.mean(cosines)))
    name = subject.task.name
    if name == "regress":
        return Difference(largest, None, None, None)
    before, after = (
        subject.task.predict(outputs, material.examples, material.rows, subject.facts) for outputs in (original, export)
    )
    same = float(np.mean([_answer(a) == _answer(b) for a, b in zip(before, after, strict=True)]))
    if name not in ("classify", "choose", "tag", "multilabel"):
        return Difference(largest, None, same, None)
    shares = torch.sigmoid if name == "multilabel" else lambda values: values.softmax(-1)
    moved = max(float((shares(torch.from_numpy(a)) - shares(torch.from_numpy(b))).abs().max()) for a, b in pairs)
    return Difference(largest, moved, same, None)


def _answer(prediction: Prediction) -> Any:
    """Return what a prediction says, without its probabilities."""
    said = prediction.to_json()
    if "spans" in said:
        return [(span["start"], span["end"], span["label"]) for span in said["spans"]]
    return [said.get(key) for key in ("label", "labels", "choice", "start", "end")]


def metric_of(
    subject: Subject, material: Material, original: Outputs, export: Outputs, found: Difference
) -> Metric | None:
    """Return the task's score of both, or the cosine for vectors; None without labels."""
    if found.cosine is not None:
        return Metric("cosine", 1.0, found.cosine)
    if not material.labelled:
        return None
    before, after = (
        subject.task.score(outputs, material.examples, material.rows, subject.facts).metrics
        for outputs in (original, export)
    )
    usual = SETTINGS[subject.task.name].model_fields["metric"].default
    name = usual if usual in before else next(iter(before))
    return Metric(name, before[name], after[name])


@dataclass(frozen=True)
class Speed:
    """How fast a model is on the rows.

    Attributes:
        tokens: a second, many rows at once.
        alone: milliseconds of one row at a time, the median.
    """

    tokens: float
    alone: float


def speeds_of(models: dict[str, nn.Module], examples: Examples) -> dict[str, Speed]:
    """Time models in turns on some of the rows."""
    some = range(min(_TIMED, len(examples.lengths)))
    together = [
        examples.batch(numbers) for numbers in by_token_budget([examples.lengths[n] for n in some], _TIMED_TOKENS)
    ]
    tokens = time_models(models, together)
    alone: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        for n in some[:_ALONE]:
            batch = examples.batch([n])
            for name, model in models.items():
                start = time.perf_counter()
                model(batch)
                alone[name].append(1000 * (time.perf_counter() - start))
    return {name: Speed(tokens[name], float(np.median(alone[name]))) for name in models}


def plain(value: Any) -> Any:
    """Return a dataclass as JSON values, without what it does not have."""
    return {name: part for name, part in asdict(value).items() if part is not None}
