"""What is exported: a model as torch computes it, and all that goes with it into a directory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from bertsmith import files
from bertsmith.batch import Batch
from bertsmith.errors import InputError
from bertsmith.export_config import ExportSettings
from bertsmith.exporting.padded import PaddedModel
from bertsmith.features.layers import token_vectors
from bertsmith.features.pooling import pool
from bertsmith.features.recipe import Recipe, make_recipe
from bertsmith.model.bert import Bert
from bertsmith.model.weights import (
    CONFIG,
    ModelInfo,
    load_encoder,
    load_tokenizer,
    load_tuned,
    model_directory,
    read_info,
)
from bertsmith.serving.graphs import read_graph
from bertsmith.tasks import vectors
from bertsmith.tasks.by_name import has_task, task_of
from bertsmith.tasks.task import Facts, Task
from bertsmith.text.tokenizer import Tokenizer


class VectorModel(nn.Module):
    """An encoder with pooling, as a task's model: a vector of each sequence of a batch."""

    def __init__(self, bert: Bert, recipe: Recipe) -> None:
        super().__init__()
        self.bert, self.recipe = bert, recipe

    def forward(self, batch: Batch) -> Tensor:
        """Return (N, W) float32."""
        pooling = self.recipe.pooling
        found = token_vectors(self.bert, batch, self.recipe.layers, firsts_only=pooling == "cls")
        found = pool(found, batch.sequence_starts, pooling)
        return F.normalize(found, dim=1) if self.recipe.normalize else found


@dataclass(frozen=True)
class Subject:
    """A model that is to be exported.

    Attributes:
        directory: where it is.
        info: its config.json.
        task: what it does; "vectors" for an encoder.
        facts: what it remembers of that.
        model: takes a batch and gives the task's outputs, on the CPU, in evaluation mode.
        recipe: how vectors are made; None for a task.
        tokenizer: the model's own, lower-casing if the recipe says so.
    """

    directory: Path
    info: ModelInfo
    task: Task
    facts: Facts
    model: nn.Module
    recipe: Recipe | None
    tokenizer: Tokenizer

    @property
    def bert(self) -> Bert:
        """The model's encoder."""
        return cast(Bert, self.model.bert)

    @property
    def output_name(self) -> str:
        """What a graph calls its output."""
        return "logits" if self.recipe is None else "vectors"

    def padded(self) -> PaddedModel:
        """Return the model for graphs.

        Raises:
            InputError: it cannot be one.
        """
        padded: PaddedModel = PaddedModel(self.model if self.recipe is None else self.bert, self.recipe).eval()
        return padded

    def configuration(self) -> dict[str, Any]:
        """Return config.json of an export: the model's own, with the task and its facts as they are used."""
        values = files.read_json(self.directory / CONFIG, what="the configuration of a BERT")
        return values | {"bertsmith": {"task": self.task.name, "facts": self.facts}}


def load_subject(settings: ExportSettings) -> Subject:
    """Load what the settings name.

    Raises:
        InputError: there is no such model, or it has no task and no vectors are wanted of it.
    """
    directory = model_directory(settings.model)
    if read_graph(directory) is not None:
        raise InputError("is an export already; name the model that it was made from", path=directory)
    info = read_info(directory)
    tokenizer = load_tokenizer(directory, info.config)
    if has_task(info) and not settings.vectors and settings.format != "sentence-transformers":
        for name, value, usual in (
            ("--pooling", settings.pooling, "auto"),
            ("--normalize", settings.normalize, None),
            ("--max-length", settings.max_length, None),
        ):
            if value != usual:
                raise InputError(f"{name} is for vectors; this model was tuned for a task (--vectors for its vectors)")
        task, facts = task_of(info, directory)
        model = load_tuned(task.model(info.config, facts), directory, info.config)
        return Subject(directory, info, task, facts, model, None, tokenizer)
    recipe = make_recipe(
        directory,
        info.config,
        pooling=settings.pooling,
        normalize=settings.normalize,
        max_length=settings.max_length,
    )
    return Subject(
        directory,
        info,
        vectors.TASK,
        vectors.facts_of(recipe.max_length),
        VectorModel(load_encoder(directory), recipe).eval(),
        recipe,
        tokenizer.lowercased() if recipe.lowercase else tokenizer,
    )
