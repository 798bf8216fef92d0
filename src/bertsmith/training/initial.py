"""The model that a pre-training run starts from."""

from __future__ import annotations

import time

import numpy as np
import torch

from bertsmith.config import SIZES, ModelConfig, PretrainSettings
from bertsmith.console import Log
from bertsmith.model.heads import PretrainingModel
from bertsmith.model.neighbours import compare_with_embeddings, look_at_neighbours
from bertsmith.pretraining.statistics import cooccurrence_embeddings, log_unigram
from bertsmith.pretraining.streams import EMBEDDINGS, FREQUENCIES, stream
from bertsmith.text.store import TokenStore
from bertsmith.training.loop import dropout_seed

# The distances at which heads look from the first layers on; left to right there is nothing to see behind a token.
_AROUND = ((-1, 1, -2, 2),)
_BEFORE = ((-1, -2, -3, -4),)


def model_config(settings: PretrainSettings, vocab_size: int) -> ModelConfig:
    """Return the encoder's numbers for a size, or for the user's own."""
    layers, width, heads = SIZES[settings.size]
    width = settings.hidden_size or width
    return ModelConfig.parse(
        {
            "vocab_size": vocab_size,
            "num_hidden_layers": settings.layers or layers,
            "hidden_size": width,
            "num_attention_heads": settings.heads or (max(1, width // 64) if settings.hidden_size else heads),
            "intermediate_size": 4 * width,
            "max_position_embeddings": settings.max_positions,
            "hidden_dropout_prob": settings.dropout,
            "attention_probs_dropout_prob": settings.dropout,
            "is_decoder": settings.direction == "left-to-right",
        }
    )


def peak_rate(settings: PretrainSettings) -> float:
    """Return the learning rate that a run of a named size peaks at: as given, or in inverse proportion to the width.

    Adam's steps move a wide model further than a narrow one (Yang et al. 2022, arXiv:2203.03466); the factor is
    measured, from a width of 128 on: docs/recipe.md.
    """
    return settings.learning_rate or 0.256 / max(128, settings.hidden_size or SIZES[settings.size][1])


def initial_model(settings: PretrainSettings, store: TokenStore, documents: np.ndarray, log: Log) -> PretrainingModel:
    """Return a model with BERT's random weights, and what counting tells put in where the settings say so.

    Args:
        settings: of the run.
        store: the text.
        documents: (D,) int64, the ones that are trained on; no others are counted.
        log: told what was counted.
    """
    torch.manual_seed(dropout_seed(settings.seed, "initial weights"))
    config = model_config(settings, store.vocab_size)
    model = PretrainingModel(config)
    with torch.no_grad():
        if settings.initial_bias == "unigram":
            model.mlm.bias.copy_(torch.from_numpy(log_unigram(store.token_counts)))
        if settings.initial_embeddings == "cooccurrence":
            begun = time.monotonic()
            rng = stream(settings.seed, EMBEDDINGS)
            vectors = torch.from_numpy(cooccurrence_embeddings(store, documents, config.hidden_size, rng))
            known = vectors.any(1)
            model.bert.embeddings.token.weight[known] = vectors[known] * config.initializer_range
            log.say(
                f"the embeddings of {int(known.sum()):,} tokens start from their neighbours in the text "
                f"({time.monotonic() - begun:.0f} s)"
            )
    if settings.initial_layers == "neighbours":
        offsets = _BEFORE if settings.direction == "left-to-right" else _AROUND
        look_at_neighbours(model.bert, offsets, stream(settings.seed, FREQUENCIES))
        compare_with_embeddings(model.mlm)
    return model
