"""The models of a service: what a directory can be asked, and the lanes in which its networks compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import nn

from bertsmith.batch import Batch, join
from bertsmith.config import ModelConfig
from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.features.encoder import Encoder
from bertsmith.features.recipe import make_recipe
from bertsmith.model.bert import Bert
from bertsmith.model.heads import PretrainingModel, PretrainingOutput
from bertsmith.model.hub import is_hub_name
from bertsmith.model.weights import (
    CONFIG,
    load_encoder,
    load_pretraining_model,
    load_tokenizer,
    model_directory,
    read_info,
    stored_heads,
)
from bertsmith.service.turns import Lane
from bertsmith.serving.predictor import Predictor
from bertsmith.task_config import BackendChoice, LongTexts
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
        created: when it was written, in seconds since 1970.
        abilities: what it can be asked.
        config: its numbers.
        tokenizer: what texts are cut with.
        device: where it runs.
        encoder: makes its vectors; None of an export, which has no weights for torch.
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
    config: ModelConfig
    tokenizer: Tokenizer
    device: torch.device
    encoder: Encoder | None
    predictor: Predictor | None
    predicting: Lane | None
    embedding: Lane | None
    pretraining: Lane | None
    alone: Lane

    @property
    def max_length(self) -> int:
        """Tokens that the model sees of a text at a time."""
        if self.predictor is not None:
            return self.predictor.max_length
        return self.encoder.recipe.max_length if self.encoder else self.config.max_position_embeddings

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


def load_model(
    name: str,
    given: Path,
    device: str = "auto",
    *,
    backend: BackendChoice = "auto",
    long_texts: LongTexts = "windows",
    log: Log | None = None,
) -> ServedModel:
    """Load a fine-tuned model or its export, a pre-training run, a published BERT or one of sentence-transformers.

    Args:
        name: what it is called.
        given: the directory that the user named.
        device: as in :func:`bertsmith.training.device.pick_device`.
        backend: what computes predictions, as in :func:`bertsmith.load`.
        long_texts: what is done with long ones, as there.
        log: is told which backend was chosen.

    Raises:
        InputError: there is no such model, or something in it does not fit.
    """
    directory = model_directory(given)
    info = read_info(directory)
    where = pick_device(device)
    predictor = network = None
    bert: nn.Module | None = None
    heads: tuple[str, ...] = ()
    if has_task(info):
        predictor = Predictor(given, device, backend=backend, long_texts=long_texts, log=log)
        bert = getattr(predictor.model, "bert", None)
        if bert is None and any(directory.glob("*.safetensors")):
            bert = load_encoder(directory)
    else:
        heads = stored_heads(directory, info.config)
        if heads:
            network = load_pretraining_model(directory, heads).to(where)
        bert = network.bert if network else load_encoder(directory)
    tokenizer = predictor.tokenizer if predictor else load_tokenizer(directory, info.config)
    encoder = None
    if isinstance(bert, Bert):
        encoder = Encoder(bert, tokenizer, make_recipe(directory, info.config), where, 1, directory)
        tokenizer = encoder.tokenizer
    return ServedModel(
        name,
        directory,
        int((directory / CONFIG).stat().st_mtime),
        _abilities(info.config, predictor is not None, encoder is not None, heads),
        info.config,
        tokenizer,
        where,
        encoder,
        predictor,
        Lane(name, predictor.outputs) if predictor else None,
        Lane(name, partial(_vectors, encoder)) if encoder else None,
        Lane(name, partial(_heads_outputs, network)) if network else None,
        Lane(name, lambda calls: [[call()] for call in calls]),
    )


def _abilities(config: ModelConfig, predicts: bool, encodes: bool, heads: tuple[str, ...]) -> tuple[Ability, ...]:
    # A model that was trained left to right has no use for masks.
    masks = not config.is_decoder
    asked: dict[Ability, bool] = {
        "predict": predicts,
        "embed": encodes,
        "fill": "mlm." in heads and masks,
        "next": "nsp." in heads,
        "tokenize": True,
        "inside": encodes,
        "masking": masks,
    }
    return tuple(ability for ability, is_there in asked.items() if is_there)


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
