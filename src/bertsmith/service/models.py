"""The models of a service: what a directory can be asked, and the lanes in which its networks compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch

from bertsmith.batch import Batch, join
from bertsmith.config import ModelConfig
from bertsmith.errors import InputError
from bertsmith.features.encoder import Encoder
from bertsmith.features.recipe import make_recipe
from bertsmith.model.bert import Bert
from bertsmith.model.heads import PretrainingModel, PretrainingOutput
from bertsmith.model.hub import is_hub_name
from bertsmith.model.weights import (
    load_encoder,
    load_pretraining_model,
    load_tokenizer,
    model_directory,
    read_info,
    stored_heads,
)
from bertsmith.service.turns import Lane
from bertsmith.serving.predictor import Predictor
from bertsmith.tasks.by_name import has_task
from bertsmith.text.tokenizer import Tokenizer
from bertsmith.training.device import pick_device

Ability: TypeAlias = Literal["predict", "embed", "fill", "next", "tokenize", "inside", "masking"]


@dataclass(frozen=True)
class ServedModel:
    """A model in memory; its weights are there once, whatever it can be asked.

    Attributes:
        name: in addresses and requests.
        directory: where it is from.
        created: when its weights were written, in seconds since 1970.
        abilities: what it can be asked.
        bert: its encoder.
        encoder: makes its vectors.
        predictor: of a fine-tuned model.
        predicting: the lane of its task's network.
        embedding: the lane of its vectors.
        pretraining: the lane of its pre-training heads.
        alone: the lane of calls that share no batch.
    """

    name: str
    directory: Path
    created: int
    abilities: tuple[Ability, ...]
    bert: Bert
    encoder: Encoder
    predictor: Predictor | None
    predicting: Lane | None
    embedding: Lane
    pretraining: Lane | None
    alone: Lane

    @property
    def config(self) -> ModelConfig:
        """The encoder's numbers."""
        return self.bert.config

    @property
    def tokenizer(self) -> Tokenizer:
        """What texts are cut with."""
        return self.encoder.tokenizer

    @property
    def max_length(self) -> int:
        """Tokens beyond which a text is cut, or of a task that uses windows, one window."""
        return self.predictor.max_length if self.predictor else self.encoder.recipe.max_length

    def describe(self) -> dict[str, Any]:
        """Return what ``GET /v1/models`` says of it."""
        facts = self.predictor.facts if self.predictor else {}
        return {
            "id": self.name,
            "object": "model",
            "created": self.created,
            "owned_by": "bertsmith",
            "task": self.predictor.task.name if self.predictor else None,
            "abilities": list(self.abilities),
            "labels": list(facts["labels"]) if "labels" in facts else None,
            "pairs": "text_b" in facts.get("columns", {}),
            "choices": facts.get("choices"),
            "max_length": self.max_length,
            "layers": self.config.num_hidden_layers,
            "heads": self.config.num_attention_heads,
            "hidden_size": self.config.hidden_size,
            "language": facts.get("language"),
        }


def named_directories(given: Sequence[str]) -> dict[str, Path]:
    """Return the directories of models by the names that they are served under.

    ``NAME=DIR`` gives the name. Otherwise it is that of the directory, or of the one above for a run's ``model``.

    Raises:
        InputError: a name is empty, has a slash, or stands for two models.
    """
    found: dict[str, Path] = {}
    for each in given:
        name, equals, place = each.partition("=")
        if not equals or Path(each).exists():
            name, place = _own_name(Path(each)), each
        if not name or "/" in name or not place:
            raise InputError(f"model {each!r}: expected a directory, or NAME=DIR with a name without slashes")
        if name in found:
            raise InputError(f"two models are called {name!r}: {found[name]} and {place}; give them names, as NAME=DIR")
        found[name] = Path(place)
    return found


def _own_name(directory: Path) -> str:
    if is_hub_name(directory):
        return str(directory).rpartition("/")[2]
    directory = directory.resolve()
    return directory.parent.name if directory.name == "model" and directory.parent.name else directory.name


def load_model(name: str, directory: Path, device: str = "auto") -> ServedModel:
    """Load a fine-tuned model, a pre-training run, a published BERT or a directory of sentence-transformers.

    Raises:
        InputError: there is no such model, or something in it does not fit.
    """
    directory = model_directory(directory)
    info = read_info(directory)
    recipe = make_recipe(directory, info.config)
    # A model that was trained left to right has no use for masks.
    masks: list[Ability] = [] if info.config.is_decoder else ["masking"]
    abilities: list[Ability] = ["embed", "tokenize", "inside", *masks]
    predictor: Predictor | None = None
    predicting = pretraining = None
    if has_task(info):
        predictor = Predictor(directory, device)
        bert, tokenizer = predictor.model.bert, predictor.tokenizer
        abilities.insert(0, "predict")
        predicting = Lane(name, predictor.outputs)
    else:
        tokenizer = load_tokenizer(directory, info.config)
        heads = stored_heads(directory, info.config)
        if heads:
            network = load_pretraining_model(directory, heads).to(pick_device(device))
            bert = network.bert
            pretraining = Lane(name, lambda batches: _heads_outputs(network, batches))
            if masks and "mlm." in heads:
                abilities.append("fill")
            if "nsp." in heads:
                abilities.append("next")
        else:
            bert = load_encoder(directory)
    assert isinstance(bert, Bert)
    encoder = Encoder(bert, tokenizer, recipe, pick_device(device), 1, directory)
    return ServedModel(
        name,
        directory,
        int((directory / "config.json").stat().st_mtime),
        tuple(abilities),
        bert,
        encoder,
        predictor,
        predicting,
        Lane(name, lambda batches: _vectors(encoder, batches)),
        pretraining,
        Lane(name, lambda calls: [[call()] for call in calls]),
    )


def _vectors(encoder: Encoder, batches: Sequence[Batch]) -> list[list[np.ndarray]]:
    """Return for each batch the vectors (W,) float32 of its texts."""
    ends = np.cumsum([batch.num_sequences for batch in batches])
    return [list(part) for part in np.split(encoder.vectors(join(batches)), ends[:-1])]


@torch.inference_mode()
def _heads_outputs(network: PretrainingModel, batches: Sequence[Batch]) -> list[list[PretrainingOutput]]:
    """Return for each batch, of one text each, its own logits."""
    device = network.bert.embeddings.token.weight.device
    output = network(join(batches).to(device))
    blanks = [0 if batch.masked_positions is None else len(batch.masked_positions) for batch in batches]
    parts = zip(output.mlm_logits.cpu().split(blanks), output.nsp_logits.cpu().split(1), strict=True)
    return [[PretrainingOutput(mlm, nsp)] for mlm, nsp in parts]
