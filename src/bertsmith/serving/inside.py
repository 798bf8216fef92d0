"""Inside BERT: what a text becomes before the first layer, what each head attends to, what pre-training would mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bertsmith.batch import Batch, pack
from bertsmith.errors import InputError
from bertsmith.model.bert import Bert, Layer
from bertsmith.pretraining.masking import Masking, mask_tokens, token_facts
from bertsmith.pretraining.streams import MASKS, stream
from bertsmith.serving.looking import TokenRow, token_rows
from bertsmith.text.tokenizer import Tokenizer

MOST_TOKENS = 64
"""Attention is quadratic, and nobody can look at more."""


@torch.inference_mode()
def look_inside(
    bert: Bert, tokenizer: Tokenizer, text: str, text_b: str | None = None, layers: Sequence[int] | None = None
) -> dict[str, Any]:
    """Return what the encoder makes of a text or a pair of T tokens, as plain JSON values.

    Args:
        bert: in evaluation mode.
        tokenizer: the model's own.
        text: may hold ``[MASK]``.
        text_b: the second text of a pair.
        layers: numbers from 1; all of them by default.

    Returns:
        ``tokens`` as :func:`token_json` gives them; ``segments`` and ``positions``, T numbers each; ``lengths``, for
        ``token``, ``segment``, ``position`` (figure 2's rows) and their ``sum``, before its layer norm, T Euclidean
        norms; ``layers``, the L numbers; ``attention`` (L, heads, T, T), how much each token attends to each,
        rounded to four decimals: rows sum to 1.

    Raises:
        InputError: an empty text, more than :data:`MOST_TOKENS` tokens or than the model has positions, or a layer
            that it does not have.
    """
    count = bert.config.num_hidden_layers
    wanted = list(range(1, count + 1)) if layers is None else sorted(set(layers))
    for number in wanted:
        if not 1 <= number <= count:
            raise InputError(f"layer {number}; this model has layers 1 to {count}")
    _check(text, text_b)
    rows = token_rows(tokenizer, text, text_b)
    limit = min(MOST_TOKENS, bert.config.max_position_embeddings)
    if len(rows) > limit:
        raise InputError(f"{len(rows)} tokens with [CLS] and [SEP]; at most {limit} can be looked at, shorten the text")
    segments = [row.segment for row in rows]
    batch = pack([[row.token_id for row in rows]], [segments]).to(bert.embeddings.token.weight.device)
    return {
        "tokens": [token_json(row) for row in rows],
        "segments": segments,
        "positions": [row.position for row in rows],
        "lengths": _lengths(bert, batch),
        "layers": wanted,
        "attention": _rounded(attention_probabilities(bert, batch, wanted)),
    }


def attention_probabilities(bert: Bert, batch: Batch, layers: Sequence[int]) -> Tensor:
    """Return (L, heads, T, T), the attention of ``layers`` (numbers from 1) in a batch of one sequence of T tokens.

    Entry [l, a, i, j] is how much token i attends to token j: softmax of q·k / sqrt(H / A) over j. The packed attention
    never makes these, so they are made again from each layer's own projections.
    """
    inputs = bert(batch, all_layers=True).layers
    found = []
    for number in layers:
        layer = bert.layers[number - 1]
        assert isinstance(layer, Layer)
        found.append(_attended(layer, inputs[number - 1], bert.config.is_decoder))
    return torch.stack(found)


def masked_instance(tokenizer: Tokenizer, text: str, text_b: str | None = None, seed: int = 0) -> list[dict[str, Any]]:
    """Return a text or a pair as pre-training might show it to the encoder (section 3.1).

    Args:
        tokenizer: of the model.
        text: special tokens written in it are text, as in pre-training.
        text_b: the second text of a pair.
        seed: determines the draw.

    Returns:
        For each token ``token``, what the encoder sees; ``original``; ``chosen``, whether it is to be predicted; and
        how it was hidden, ``kind``: "mask", "random" (another token), "kept" (as it is), None if it was not chosen.

    Raises:
        InputError: an empty text or a negative seed.
    """
    _check(text, text_b)
    if seed < 0:
        raise InputError(f"seed {seed}; expected 0 or more")
    ids = np.array(tokenizer.encode(text, text_b).ids, dtype=np.int64)
    starts = np.array([0, len(ids)], dtype=np.int64)
    seen, positions, _ = mask_tokens(ids, starts, token_facts(tokenizer), Masking(), stream(seed, MASKS))
    chosen = set(positions.tolist())
    return [
        {
            "token": tokenizer.tokens[new],
            "original": tokenizer.tokens[old],
            "chosen": position in chosen,
            "kind": _kind(old, new, tokenizer.mask_id) if position in chosen else None,
        }
        for position, (old, new) in enumerate(zip(ids.tolist(), seen.tolist(), strict=True))
    ]


def token_json(row: TokenRow) -> dict[str, Any]:
    """Return plain JSON values: position, token, id, segment, word, span, characters."""
    return {
        "position": row.position,
        "token": row.token,
        "id": row.token_id,
        "segment": row.segment,
        "word": row.word,
        "span": None if row.span is None else list(row.span),
        "characters": row.characters,
    }


def _attended(layer: Layer, hidden: Tensor, left_to_right: bool) -> Tensor:
    """Return (heads, T, T) for the layer's input ``hidden`` (T, H)."""
    tokens, width = hidden.shape
    heads = layer.num_heads
    query, key, _ = layer.query_key_value(hidden).view(tokens, 3, heads, width // heads).permute(1, 2, 0, 3).unbind(0)
    scores = query @ key.transpose(1, 2) * (width // heads) ** -0.5
    if left_to_right:
        scores = scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(), -torch.inf)
    shares: Tensor = scores.softmax(-1)
    return shares


def _lengths(bert: Bert, batch: Batch) -> dict[str, Any]:
    own = bert.embeddings
    parts = {
        "token": own.token(batch.token_ids),
        "segment": own.segment(batch.segment_ids),
        "position": own.position(batch.position_ids),
    }
    parts["sum"] = parts["token"] + parts["segment"] + parts["position"]
    return {name: _rounded(vectors.norm(dim=1)) for name, vectors in parts.items()}


def _rounded(values: Tensor) -> Any:
    """Return nested lists of numbers with four decimals."""
    # float32 has no short form for them; rounded as float64 they are written in a few characters.
    return values.double().cpu().numpy().round(4).tolist()


def _kind(old: int, new: int, mask_id: int) -> str:
    if new == mask_id:
        return "mask"
    return "kept" if new == old else "random"


def _check(text: str, text_b: str | None) -> None:
    if not text.strip() or (text_b is not None and not text_b.strip()):
        raise InputError("an empty text; expected at least one character")
