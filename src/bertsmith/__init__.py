"""Bertsmith: BERT from raw text to a model in use.

Names are imported on first use, so that ``import bertsmith`` and ``bertsmith --help`` start at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bertsmith.batch import Batch, pack
    from bertsmith.errors import InputError
    from bertsmith.exporting.export import export
    from bertsmith.features.embed import embed
    from bertsmith.features.encoder import Encoder
    from bertsmith.model.bert import Bert
    from bertsmith.serving.evaluating import evaluate
    from bertsmith.serving.predictor import load
    from bertsmith.text.prepare import prepare
    from bertsmith.text.store import TokenStore
    from bertsmith.text.tokenizer import Encoding, Tokenizer
    from bertsmith.text.vocabulary import learn_vocabulary
    from bertsmith.training.finetune import finetune
    from bertsmith.training.pretrain import pretrain

__version__ = "0.1.0"

_HOMES = {
    "Batch": "batch",
    "Bert": "model.bert",
    "Encoder": "features.encoder",
    "Encoding": "text.tokenizer",
    "InputError": "errors",
    "TokenStore": "text.store",
    "Tokenizer": "text.tokenizer",
    "embed": "features.embed",
    "evaluate": "serving.evaluating",
    "export": "exporting.export",
    "finetune": "training.finetune",
    "learn_vocabulary": "text.vocabulary",
    "load": "serving.predictor",
    "pack": "batch",
    "prepare": "text.prepare",
    "pretrain": "training.pretrain",
}

__all__ = [
    "Batch",
    "Bert",
    "Encoder",
    "Encoding",
    "InputError",
    "TokenStore",
    "Tokenizer",
    "__version__",
    "embed",
    "evaluate",
    "export",
    "finetune",
    "learn_vocabulary",
    "load",
    "pack",
    "prepare",
    "pretrain",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bertsmith' has no attribute {name!r}")
    return getattr(importlib.import_module(f"bertsmith.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
