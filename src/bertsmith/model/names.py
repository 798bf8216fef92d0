"""Tensors by our names and by those of transformers, both ways."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from bertsmith.errors import InputError

LSTM = tuple(
    f"bert.bilstm.{part}_l0{direction}"
    for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    for direction in ("", "_reverse")
)

# Ours, then transformers'. A trailing dot stands for .weight and .bias; {n} for a layer's number.
NAMES = (
    ("bert.embeddings.token.weight", "bert.embeddings.word_embeddings.weight"),
    ("bert.embeddings.position.weight", "bert.embeddings.position_embeddings.weight"),
    ("bert.embeddings.segment.weight", "bert.embeddings.token_type_embeddings.weight"),
    ("bert.embeddings.norm.", "bert.embeddings.LayerNorm."),
    ("bert.layers.{n}.attention_output.", "bert.encoder.layer.{n}.attention.output.dense."),
    ("bert.layers.{n}.attention_norm.", "bert.encoder.layer.{n}.attention.output.LayerNorm."),
    ("bert.layers.{n}.intermediate.", "bert.encoder.layer.{n}.intermediate.dense."),
    ("bert.layers.{n}.output.", "bert.encoder.layer.{n}.output.dense."),
    ("bert.layers.{n}.output_norm.", "bert.encoder.layer.{n}.output.LayerNorm."),
    ("bert.pooler.", "bert.pooler.dense."),
    ("mlm.bias", "cls.predictions.bias"),
    ("mlm.transform.", "cls.predictions.transform.dense."),
    ("mlm.norm.", "cls.predictions.transform.LayerNorm."),
    ("nsp.", "cls.seq_relationship."),
    ("classifier.", "classifier."),
    ("span.", "qa_outputs."),
    # transformers knows no such layer, and a model with one has another type there.
    *((name, name) for name in LSTM),
)

# transformers keeps the three projections apart; ours are one matrix, in this order.
FUSED = "bert.layers.{n}.query_key_value."

PARTS = tuple(f"bert.encoder.layer.{{n}}.attention.self.{part}." for part in ("query", "key", "value"))

# The tied projection and a constant buffer, which some directories repeat.
REPEATED = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias", "bert.embeddings.position_ids")


def name_table(num_layers: int) -> list[tuple[str, tuple[str, ...]]]:
    """Return every tensor's name here with its name (or its three parts' names) in transformers."""
    table: list[tuple[str, tuple[str, ...]]] = []
    for ours, theirs in (*((o, (t,)) for o, t in NAMES), (FUSED, PARTS)):
        layers = range(num_layers) if "{n}" in ours else (0,)
        ends = ("weight", "bias") if ours.endswith(".") else ("",)
        table += [
            (ours.format(n=n) + end, tuple(name.format(n=n) + end for name in theirs)) for n in layers for end in ends
        ]
    return table


def to_transformers(tensors: dict[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    """Rename (and split) tensors from Bertsmith's names to transformers'."""
    renamed = {}
    for ours, theirs in name_table(num_layers):
        if ours in tensors:
            for name, part in zip(theirs, tensors[ours].chunk(len(theirs)), strict=True):
                renamed[name] = part.contiguous()
    return renamed


def from_transformers(tensors: dict[str, Tensor], num_layers: int, path: Path | None = None) -> dict[str, Tensor]:
    """Rename (and join) tensors from transformers' names to Bertsmith's; others are left out.

    Args:
        tensors: by transformers' names.
        num_layers: how many layers to look for.
        path: where they are from, for messages.

    Raises:
        InputError: a tensor holds something else than plain floating-point numbers (a quantised model), or a layer's
            query, key and value have different shapes.
    """
    known = {_current(name): tensor for name, tensor in tensors.items()}
    found = {}
    for ours, theirs in name_table(num_layers):
        if any(name not in known for name in theirs):
            continue
        parts = [known[name] for name in theirs]
        for name, part in zip(theirs, parts, strict=True):
            # Numbers of another kind would turn into floats that mean something else.
            if not part.is_floating_point() or part.layout != torch.strided or part.is_meta:
                seen = f"{part.dtype}, {part.layout}, on {part.device}".replace("torch.", "")
                raise InputError(f"{name} is {seen}; expected plain floating-point numbers, not quantised", path=path)
        shapes = [tuple(part.shape) for part in parts]
        if len(parts) > 1 and (len(set(shapes)) > 1 or not shapes[0]):
            raise InputError(f"{theirs[0]} and its key and value have shapes {shapes}; expected one shape", path=path)
        found[ours] = torch.cat(parts) if len(parts) > 1 else parts[0]
    return found


def left_out(tensors: dict[str, Tensor], num_layers: int) -> list[str]:
    """Return the names that :func:`from_transformers` does not use, repeated and constant tensors aside."""
    used = {name for _, theirs in name_table(num_layers) for name in theirs}
    return sorted(name for name in tensors if _current(name) not in {*used, *REPEATED})


def _current(name: str) -> str:
    # A bare BertModel is saved without the prefix; the oldest checkpoints say gamma and beta.
    if name.startswith(("embeddings.", "encoder.", "pooler.")):
        name = f"bert.{name}"
    return re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name))
