"""A small BERT with large random weights, and texts of its letters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from bertsmith.config import ModelConfig
from bertsmith.model.bert import Bert
from bertsmith.model.weights import save_model
from bertsmith.text.tokenizer import Tokenizer

LETTERS = "abcdefghijklm"
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS), "좋", "##아", "."]
LAYERS, HIDDEN, POSITIONS = 5, 20, 41


def save(directory: Path, *, seed: int = 5, layers: int = LAYERS, is_decoder: bool = False) -> Path:
    """Save a model whose texts differ clearly."""
    torch.manual_seed(seed)
    config = ModelConfig(
        vocab_size=len(TOKENS),
        num_hidden_layers=layers,
        hidden_size=HIDDEN,
        num_attention_heads=2,
        intermediate_size=31,
        max_position_embeddings=POSITIONS,
        initializer_range=0.4,
        is_decoder=is_decoder,
    )
    save_model(Bert(config), directory, Tokenizer.from_tokens(TOKENS, lowercase=True))
    return directory


def some_texts(count: int, seed: int = 0) -> list[str]:
    """Texts of 1 to 13 words."""
    rng = np.random.default_rng(seed)
    return [
        " ".join("".join(rng.choice(list(LETTERS), rng.integers(1, 5))) for _ in range(rng.integers(1, 14)))
        for _ in range(count)
    ]
