"""The encoder of Devlin et al. 2019, from embeddings to pooler, over packed sequences.

Reads top to bottom: the sum of three embeddings, L post-layer-norm Transformer layers, the pooler. Every
linear layer works on the T real tokens of a batch; there is no padding to mask out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bertsmith.batch import Batch
from bertsmith.config import ModelConfig
from bertsmith.errors import InputError
from bertsmith.model.attention import AttentionPlan, packed_attention, plan_attention
from bertsmith.model.blocks import Hidden, activated, linear, normalized, residual_norm
from bertsmith.model.sequences import over_each_sequence, where_directions_end


@dataclass(frozen=True)
class EncoderOutput:
    """What the encoder gives for a batch.

    Attributes:
        hidden: (T, H), the last layer's vector of every token; (K, H) if only K were wanted.
        pooled: (N, H), one vector per sequence: tanh of a linear layer over its first token ([CLS]), or its last one
            where the model reads left to right.
        layers: the output of the embeddings and of every layer, L + 1 tensors (T, H); None unless asked for.
    """

    hidden: Tensor
    pooled: Tensor
    layers: tuple[Tensor, ...] | None = None


class Bert(nn.Module):
    """The bidirectional Transformer encoder (section 3)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        width = config.hidden_size
        self.bilstm = nn.LSTM(width, width // 2, bidirectional=True) if config.bilstm else None
        self.pooler = nn.Linear(width, width)
        self.apply(lambda module: initialize(module, config.initializer_range))

    def forward(self, batch: Batch, *, wanted: Tensor | None = None, all_layers: bool = False) -> EncoderOutput:
        """Encode a batch of N sequences with T tokens.

        Args:
            batch: what to encode.
            wanted: (K,) int64, the tokens whose vectors are needed beside each sequence's pooled one; by default all.
                The last layer then leaves out most of its work on the others, which nothing sees.
            all_layers: return every layer's output; not together with ``wanted``.

        Raises:
            InputError: a sequence is longer than the model has positions.
        """
        if batch.max_length > self.config.max_position_embeddings:
            raise InputError(
                f"a sequence of {batch.max_length} tokens, but the model has positions for "
                f"{self.config.max_position_embeddings}; lower max_length"
            )
        if wanted is not None and all_layers:
            raise ValueError("all_layers gives every token; wanted cannot leave some out")
        plan = plan_attention(batch.sequence_starts, batch.token_ids.device, self.config.is_decoder, batch.max_length)
        summing = self.summing_tokens(batch)
        state = self.embeddings(batch)
        outputs = [state.exact]
        kept = None if wanted is None or self.bilstm is not None else torch.cat([summing, wanted])
        for number, layer in enumerate(self.layers, start=1):
            state = layer(state, plan, kept if number == len(self.layers) else None)
            if all_layers:
                outputs.append(state.exact)
        hidden = state.exact
        if self.bilstm is not None:
            hidden = over_each_sequence(self.bilstm, hidden, batch.sequence_starts)
            ends = where_directions_end(hidden, batch.sequence_starts)
            hidden = hidden if wanted is None else hidden[wanted]
        elif kept is None:
            ends = hidden[summing]
        else:
            ends, hidden = hidden[: len(summing)], hidden[len(summing) :]
        pooled = self.pooler(ends).tanh()
        return EncoderOutput(hidden, pooled, tuple(outputs) if all_layers else None)

    def summing_tokens(self, batch: Batch) -> Tensor:
        """Return (N,) int64, the token of each sequence that sums it up: its first, left to right its last."""
        # A token that sees only those before it tells of the whole sequence where it is the last.
        return batch.sequence_starts[1:] - 1 if self.config.is_decoder else batch.sequence_starts[:-1]

    def compile_layers(self, **options: Any) -> None:
        """Compile what follows attention in each layer, for any number of tokens; ``options`` as of torch.compile.

        Attention itself is a kernel already, and its plan is made in Python.
        """
        for layer in self.layers:
            assert isinstance(layer, Layer)
            layer.after_attention = torch.compile(layer.after_attention, dynamic=True, **options)  # type: ignore[method-assign]

    @classmethod
    def load(cls, directory: str | Path) -> Bert:
        """Load the encoder from a model directory in the transformers layout, or from a run.

        Raises:
            InputError: there is no such model, or its weights do not fit its configuration.
        """
        from bertsmith.model.weights import load_encoder

        return load_encoder(Path(directory))


class Embeddings(nn.Module):
    """Token, position and segment embeddings, summed (section 3, figure 2)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.token = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.segment = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = config.hidden_dropout_prob

    def forward(self, batch: Batch) -> Hidden:
        """Return (T, H)."""
        total = self.token(batch.token_ids) + self.segment(batch.segment_ids) + self.position(batch.position_ids)
        return normalized(total, self.norm, self.dropout if self.training else 0.0)


class Layer(nn.Module):
    """Self-attention, then a feed-forward network; each followed by dropout, residual sum and layer norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.attention_dropout = config.attention_probs_dropout_prob
        self.activation = config.hidden_act
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.intermediate = nn.Linear(width, config.intermediate_size)
        self.output = nn.Linear(config.intermediate_size, width)
        self.output_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = config.hidden_dropout_prob

    def forward(self, hidden: Hidden, plan: AttentionPlan, wanted: Tensor | None = None) -> Hidden:
        """Take (T, H) and return it, or (K, H) for the ``wanted`` (K,) tokens; all of them are attended to."""
        dropout = self.attention_dropout if self.training else 0.0
        context = packed_attention(linear(hidden.factor, self.query_key_value), plan, self.num_heads, dropout)
        residual = hidden.exact
        if wanted is not None:
            context, residual = context.index_select(0, wanted), residual.index_select(0, wanted)
        out: Hidden = self.after_attention(context, residual)
        return out

    def after_attention(self, context: Tensor, residual: Tensor) -> Hidden:
        """Return (T, H) from the heads' output and the layer's input, both (T, H)."""
        dropout = self.dropout if self.training else 0.0
        hidden = residual_norm(residual, context, self.attention_output, self.attention_norm, dropout)
        inner = activated(hidden.factor, self.intermediate, self.activation)
        return residual_norm(hidden.exact, inner, self.output, self.output_norm, dropout)


def initialize(module: nn.Module, deviation: float) -> None:
    """Draw weights from a normal distribution with ``deviation``; biases 0, layer norms 1 and 0."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=deviation)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
