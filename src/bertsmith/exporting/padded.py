"""A model's forward pass over padded sequences, for graphs: the same weights, plain rectangles in and out.

The encoder works on packed tokens (`model/bert.py`), which no exporter can trace. This module is the one other place
that says what a layer does; a test compares the two, and so does every export.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertsmith.errors import InputError
from bertsmith.features.recipe import Recipe
from bertsmith.model.bert import Bert, Layer
from bertsmith.model.blocks import activate
from bertsmith.model.heads import MultipleChoiceModel, SequenceClassifier, SpanModel, TokenClassifier

_FAR_BELOW = -1e9
"""Added to the scores of what must not be seen; infinity would turn a row of nothing but padding into NaN."""


class PaddedModel(nn.Module):
    """A task's model, or an encoder with pooling, over rectangles; without dropout.

    Args:
        model: one of this project's models; its modules are used and not copied.
        recipe: how a bare encoder's vectors are made; only for a ``Bert``.

    Raises:
        InputError: the model has an LSTM on top.
    """

    def __init__(self, model: nn.Module, recipe: Recipe | None = None) -> None:
        super().__init__()
        self.bert = model if isinstance(model, Bert) else cast(Bert, model.bert)
        if self.bert.bilstm is not None:
            raise InputError("a model with an LSTM on top (--bilstm) cannot be exported; tune one without it")
        self.head: nn.Module | None = None
        self.recipe = recipe
        if isinstance(model, SequenceClassifier | MultipleChoiceModel | TokenClassifier):
            self.head = model.classifier
        elif isinstance(model, SpanModel):
            self.head = model.span
        self.of_tokens = isinstance(model, TokenClassifier | SpanModel)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        """Return logits (N, C), or (N, L, C) of tokens, or vectors (N, W) of texts; float32.

        Args:
            input_ids: (N, L) int64; behind a sequence's end anything.
            attention_mask: (N, L) int64, 1 where a token stands; real tokens come first.
            token_type_ids: (N, L) int64, 0 for A and 1 for B.
        """
        bert = self.bert
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        embeddings = bert.embeddings
        total = embeddings.token(input_ids) + embeddings.segment(token_type_ids) + embeddings.position(positions)
        hidden: Tensor = embeddings.norm(total)
        unseen = (1 - attention_mask[:, None, None, :]).float() * _FAR_BELOW  # (N, 1, 1, L)
        if bert.config.is_decoder:
            unseen = torch.minimum(unseen, (positions[None, :] > positions[:, None]).float() * _FAR_BELOW)
        for layer in bert.layers:
            hidden = _layer(cast(Layer, layer), hidden, unseen)
        if self.recipe is not None:
            return _pooled_vectors(hidden, attention_mask, self.recipe, bert.config.is_decoder)
        assert self.head is not None
        if self.of_tokens:
            logits: Tensor = self.head(hidden)
            return logits
        scores: Tensor = self.head(bert.pooler(_summing(hidden, attention_mask, bert.config.is_decoder)).tanh())
        return scores


def _summing(hidden: Tensor, attention_mask: Tensor, is_decoder: bool) -> Tensor:
    """Return (N, H), the vectors of the tokens that sum sequences up."""
    if not is_decoder:
        return hidden[:, 0]
    # A token that sees only those before it tells of the whole sequence where it is the last.
    last = attention_mask.sum(1) - 1
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), last]


def _layer(layer: Layer, hidden: Tensor, unseen: Tensor) -> Tensor:
    """Return (N, L, H) after a layer; see :class:`bertsmith.model.bert.Layer`."""
    sequences, length, width = hidden.shape
    heads, size = layer.num_heads, width // layer.num_heads
    query, key, value = (
        part.view(sequences, length, heads, size).transpose(1, 2)  # (N, A, L, H / A)
        for part in layer.query_key_value(hidden).chunk(3, dim=-1)
    )
    scores = query @ key.transpose(-1, -2) * size**-0.5 + unseen
    context = (scores.softmax(-1) @ value).transpose(1, 2).reshape(sequences, length, width)
    hidden = layer.attention_norm(hidden + layer.attention_output(context))
    out: Tensor = layer.output_norm(hidden + layer.output(activate(layer.intermediate(hidden), layer.activation)))
    return out


def _pooled_vectors(hidden: Tensor, attention_mask: Tensor, recipe: Recipe, is_decoder: bool) -> Tensor:
    if recipe.pooling == "cls":
        vectors = _summing(hidden, attention_mask, is_decoder)
    elif recipe.pooling == "max":
        vectors = (hidden + (1 - attention_mask[:, :, None]).float() * _FAR_BELOW).amax(1)
    else:
        real = attention_mask[:, :, None].float()
        vectors = (hidden * real).sum(1) / real.sum(1)
    return F.normalize(vectors, dim=1) if recipe.normalize else vectors
