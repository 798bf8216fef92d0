"""How vectors are made: layers, pooling, normalisation, length; as asked for, or as the model's directory says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from bertsmith.config import ModelConfig
from bertsmith.errors import InputError, nearest
from bertsmith.features.layers import Layers, first_and_last, parse_layers
from bertsmith.features.pooling import Pooling
from bertsmith.features.sentence_transformers import read_sentence_model
from bertsmith.features.weighted import PREFIX, read_shares

PoolingChoice: TypeAlias = Literal["auto", "cls", "mean", "max", "first-last-mean"]
Precision: TypeAlias = Literal["float32", "bfloat16"]

_ROOM = 3
"""[CLS], one token, [SEP]."""


@dataclass(frozen=True)
class Recipe:
    """Everything beside the model that determines a text's vector.

    Attributes:
        layers: what a token's vector is made of.
        pooling: how a text's vector is made of its tokens'.
        normalize: whether vectors are scaled to length 1.
        max_length: longer texts are cut, in tokens with [CLS] and [SEP].
        lowercase: whether text is lower-cased before the tokenizer.
        precision: of the layers' products.
    """

    layers: Layers
    pooling: Pooling
    normalize: bool
    max_length: int
    lowercase: bool = False
    precision: Precision = "float32"

    def to_json(self) -> dict[str, Any]:
        """Return the recipe for a file's metadata and for comparing."""
        shares = {} if self.layers.shares is None else {"shares": list(self.layers.shares)}
        return {
            "layers": list(self.layers.numbers),
            "joined": self.layers.joined,
            "pooling": self.pooling,
            "normalize": self.normalize,
            "max_length": self.max_length,
            "lowercase": self.lowercase,
            "precision": self.precision,
            **shares,
        }


def make_recipe(
    directory: Path,
    config: ModelConfig,
    *,
    layers: str | None = None,
    pooling: PoolingChoice = "auto",
    normalize: bool | None = None,
    max_length: int | None = None,
    tokens: bool = False,
    precision: Precision = "float32",
) -> Recipe:
    """Return the recipe for a model.

    Args:
        directory: the model's; where sentence-transformers wrote it, all that is not given here is as it says.
        config: the model's numbers.
        layers: as in :func:`bertsmith.features.layers.parse_layers`, or ``weighted:FILE``; by default the last.
        pooling: ``auto`` is the directory's own, or mean.
        normalize: by default as the directory says (of texts' vectors from the last layer, which it is about), or not.
        max_length: by default the directory's, or as many as the model has positions.
        tokens: vectors of tokens are wanted; nothing is pooled.
        precision: of the layers' products.

    Raises:
        InputError: a value does not fit the model, or the directory asks for what is not supported.
    """
    if pooling not in get_args(PoolingChoice):
        choices = get_args(PoolingChoice)
        raise InputError(f"pooling {pooling!r}: expected one of {', '.join(choices)}.{nearest(pooling, choices)}")
    if tokens and pooling != "auto":
        raise InputError(f"pooling {pooling!r} makes one vector of a text's tokens; leave it out for their own vectors")
    own = read_sentence_model(directory, left_to_right=config.is_decoder, pools_otherwise=pooling != "auto")
    kind: Pooling
    if pooling == "first-last-mean":
        if layers not in (None, "last"):
            raise InputError(f"pooling 'first-last-mean' says the layers itself; leave layers {layers!r} out")
        chosen, kind = first_and_last(config.num_hidden_layers), "mean"
    else:
        chosen = _chosen(layers or "last", directory, config.num_hidden_layers)
        kind = pooling if pooling != "auto" else (own and own.pooling) or "mean"
    positions = config.max_position_embeddings
    if max_length is None:
        max_length = min(positions, own.max_length or positions) if own else positions
    if not _ROOM <= max_length <= positions:
        raise InputError(f"max_length {max_length}: expected {_ROOM} to {positions}, the model's positions")
    if normalize is None:
        is_last = chosen == Layers((config.num_hidden_layers,))
        normalize = own is not None and own.normalize and not tokens and is_last
    return Recipe(chosen, kind, normalize, max_length, own is not None and own.lowercase, precision)


def _chosen(layers: str, directory: Path, num_layers: int) -> Layers:
    if layers.startswith(PREFIX):
        return read_shares(Path(layers.removeprefix(PREFIX)), directory, num_layers)
    return parse_layers(layers, num_layers)
