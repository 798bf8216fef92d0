"""Small tuned models with random weights, wide enough for outputs to differ, one a task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bertsmith.config import ModelConfig
from bertsmith.model.bert import Bert
from bertsmith.model.heads import MultipleChoiceModel, SequenceClassifier, SpanModel, TokenClassifier
from bertsmith.model.weights import save_model
from bertsmith.text.tokenizer import Tokenizer
from tests.features.small import LETTERS, TOKENS, some_texts

LABELS = ("나쁨", "good", "neither")
TEXT = {"columns": {"text": "text", "label": "label"}, "max_length": 33}
PAIR = {"columns": {"text": "text", "text_b": "b", "label": "label"}, "max_length": 33}
FACTS: dict[str, dict[str, Any]] = {
    "classify": {"labels": list(LABELS), "commonest": "good", **TEXT},
    "pairs": {"labels": list(LABELS), **PAIR},
    "multilabel": {"labels": list(LABELS), "separator": "|", **TEXT},
    "regress": {"labels": ["value"], "mean": 3.0, "deviation": 2.5, **TEXT},
    "choose": {
        "columns": {"context": "context", "endings": "p,q,r", "label": "label"},
        "choices": 3,
        "max_length": 33,
    },
    "qa": {
        "columns": {"question": "question", "context": "context", "answer": "answer"},
        "max_length": 31,
        "stride": 7,
        "max_query_length": 9,
        "max_answer_length": 8,
        "n_best": 3,
        "impossible": True,
        "threshold": 0.5,
        "language": "en",
    },
    "tag": {
        "labels": ["O", "B-X", "I-X"],
        "scheme": "BIO",
        "unit": "word",
        "max_length": 23,
        "stride": 5,
        "columns": {"text": "text"},
        "commonest": "O",
        "format": "auto",
    },
}


def config(**changes: Any) -> ModelConfig:
    values = {
        "vocab_size": len(TOKENS),
        "num_hidden_layers": 2,
        "hidden_size": 20,
        "num_attention_heads": 2,
        "intermediate_size": 31,
        "max_position_embeddings": 41,
        "initializer_range": 0.4,
    }
    return ModelConfig.parse(values | changes)


def network(name: str, **changes: Any) -> nn.Module:
    torch.manual_seed(7)
    own = config(**changes)
    makers = {
        "vectors": lambda: Bert(own),
        "multilabel": lambda: SequenceClassifier(own, 3),
        "regress": lambda: SequenceClassifier(own, 1),
        "choose": lambda: MultipleChoiceModel(own),
        "qa": lambda: SpanModel(own),
        "tag": lambda: TokenClassifier(own, 3),
    }
    return makers.get(name, lambda: SequenceClassifier(own, 3))().eval()


def save(directory: Path, name: str, **changes: Any) -> Path:
    """Save a model of a task; "pairs" classifies pairs, "vectors" is an encoder alone."""
    extras = {} if name == "vectors" else {"task": name.replace("pairs", "classify"), "facts": FACTS[name]}
    tokenizer = Tokenizer.from_tokens(TOKENS, lowercase=True)
    save_model(network(name, **changes), directory, tokenizer, labels=(), extras=extras)
    return directory


def some_inputs(name: str, count: int = 23) -> list[Any]:
    """Inputs as Python gives them; some are longer than a model takes at once."""
    texts = [*some_texts(count - 2, seed=3), " ".join(LETTERS * 4), "abc"]
    other = texts[::-1]
    if name in ("pairs", "qa"):
        return list(zip(texts, other, strict=True))
    if name == "choose":
        return [(a, (b, b[::-1] + " c", "m")) for a, b in zip(texts, other, strict=True)]
    return texts


def rounded(value: Any, digits: int = 4) -> Any:
    """JSON values with rounded numbers."""
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, list):
        return [rounded(part, digits) for part in value]
    return {key: rounded(part, digits) for key, part in value.items()} if isinstance(value, dict) else value


def numbers_of(value: Any) -> np.ndarray:
    """All floats of JSON values, in order."""
    if isinstance(value, float):
        return np.array([value])
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return np.concatenate([np.empty(0), *(numbers_of(part) for part in parts)])
