"""Which layers' outputs make a token's vector, and the encoder run no further than these need."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bertsmith.batch import Batch
from bertsmith.errors import InputError, nearest
from bertsmith.model.attention import plan_attention
from bertsmith.model.bert import Bert

CHOICES = ("last", "second-to-last", "sum-last-4", "concat-last-4", "all")


@dataclass(frozen=True)
class Layers:
    """Outputs of layers and how they become one vector.

    Attributes:
        numbers: 0 is the output of the embeddings, n of the n-th Transformer layer.
        joined: one after the other, or their sum, mean or weighted sum.
        shares: of the layers in a weighted sum.
    """

    numbers: tuple[int, ...]
    joined: Literal["concat", "sum", "mean", "weighted"] = "concat"
    shares: tuple[float, ...] | None = None

    def width(self, hidden_size: int) -> int:
        """Return the width of a vector."""
        return hidden_size * (len(self.numbers) if self.joined == "concat" else 1)


def parse_layers(choice: str, num_layers: int) -> Layers:
    """Return what a choice means for a model with ``num_layers`` Transformer layers.

    Args:
        choice: one of :data:`CHOICES` (``all``: embeddings and every layer, one after the other), or numbers with
            commas between them, which are laid one after the other: 0 is the embeddings' output, 1 the first layer's,
            -1 the last one's.
        num_layers: L.

    Raises:
        InputError: the choice is none of these, or the model does not have such a layer.
    """
    if re.fullmatch(r"\s*-?\d+\s*(,\s*-?\d+\s*)*", choice):
        return Layers(tuple(_place(int(part), num_layers) for part in choice.split(",")))
    last_four = tuple(range(num_layers - 3, num_layers + 1))
    if choice.startswith("weighted"):
        raise InputError(
            f"layers {choice!r}: expected weighted:FILE, with the weights in weighted_layers.json, which 'bertsmith "
            "compare tag' writes if its models include bert-lstm-weighted"
        )
    found = {
        "last": Layers((num_layers,)),
        "second-to-last": Layers((num_layers - 1,)),
        "sum-last-4": Layers(last_four, "sum"),
        "concat-last-4": Layers(last_four),
        "all": Layers(tuple(range(num_layers + 1))),
    }.get(choice)
    if found is None:
        raise InputError(
            f"layers {choice!r}: expected one of {', '.join(CHOICES)}, or numbers such as -1,-3."
            f"{nearest(choice, CHOICES)}"
        )
    if choice.endswith("last-4") and num_layers < 4:
        raise InputError(f"layers {choice!r}: the model has only {num_layers} Transformer layer(s)")
    return found


def first_and_last(num_layers: int) -> Layers:
    """Return the mean of the first Transformer layer's output and the last one's."""
    return Layers((1, num_layers), "mean")


def _place(number: int, num_layers: int) -> int:
    if not -num_layers - 1 <= number <= num_layers:
        raise InputError(
            f"layer {number}: the model has {num_layers} Transformer layer(s); expected 0 (the embeddings) to "
            f"{num_layers}, or -1 (the last) to {-num_layers - 1}"
        )
    return number if number >= 0 else num_layers + 1 + number


def token_vectors(bert: Bert, batch: Batch, layers: Layers, *, firsts_only: bool) -> Tensor:
    """Return (T, W) vectors of all tokens of a batch, or (N, W) of the one of each sequence that sums it up.

    That is the first, [CLS], or the last where a model reads left to right: there the first has seen nothing else.
    Layers above the highest that is needed are not run, and that one only does what the wanted tokens need.
    """
    plan = plan_attention(batch.sequence_starts, batch.token_ids.device, bert.config.is_decoder, batch.max_length)
    summing = bert.summing_tokens(batch) if firsts_only else None
    top = max(layers.numbers)
    state = bert.embeddings(batch)
    kept: dict[int, Tensor] = {}
    for number in range(top + 1):
        if number:
            state = bert.layers[number - 1](state, plan, summing if number == top else None)
        if number in layers.numbers:
            # The top layer above 0 has left out the other tokens by itself.
            hidden = state.exact
            kept[number] = hidden if summing is None or 0 < number == top else hidden.index_select(0, summing)
    parts = [kept[number] for number in layers.numbers]
    if layers.shares is not None:
        return torch.stack([share * part for share, part in zip(layers.shares, parts, strict=True)]).sum(0)
    if len(parts) == 1:
        return parts[0]
    if layers.joined == "concat":
        return torch.cat(parts, 1)
    total = torch.stack(parts).sum(0)
    return total if layers.joined == "sum" else total / len(parts)
