"""The page's files, and small models of every task whose vocabulary holds every character of its examples."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import torch

from bertsmith.config import ModelConfig
from bertsmith.console import Log
from bertsmith.model.heads import PretrainingModel
from bertsmith.model.weights import save_model
from bertsmith.task_config import TagSettings
from bertsmith.text.tokenizer import SPECIAL_TOKENS, Tokenizer
from bertsmith.training.finetune import finetune
from tests.service.small import TUNED

NAME, REST = "손기정", "은 1936년 베를린 올림픽 마라톤에서 금메달을 땄다."
"""The page's Korean example, whose name the tagger has learned."""


def page_files(ending: str) -> dict[str, str]:
    """Return the page's files with an ending, by name."""
    folder = resources.files("bertsmith.serving").joinpath("page")
    return {f.name: f.read_text("utf-8") for f in folder.iterdir() if f.name.endswith(ending)}


def make_models(folder: Path) -> dict[str, Path]:
    """Write models with random weights, of each task and with pre-training heads, and a tagger that knows a name."""
    torch.manual_seed(3)
    characters = sorted(set(re.sub(r"\s|[A-Z]", "", "".join(page_files(".js").values()))))
    tokens = [*SPECIAL_TOKENS, *characters, *(f"##{c}" for c in characters if c.isalnum()), "river", "강물"]
    tokenizer = Tokenizer.from_tokens(list(dict.fromkeys(tokens)), lowercase=True)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        num_hidden_layers=3,
        hidden_size=24,
        num_attention_heads=4,
        intermediate_size=41,
        max_position_embeddings=250,
        initializer_range=0.12,
    )
    made = {"pretrained": folder / "pretrained"}
    save_model(PretrainingModel(config), made["pretrained"], tokenizer)
    make, facts = TUNED["classify"]
    columns = {"text": "a", "text_b": "b", "label": "label"}
    pairs = {"pairs": (make, facts | {"task": "classify", "labels": ["same", "other", "unclear"], "columns": columns})}
    for name, (make, facts) in (TUNED | pairs).items():
        if name != "tag":
            made[name] = folder / name
            extras = {"task": facts.get("task", name), "facts": facts | {"max_length": 200}}
            save_model(make(config), made[name], tokenizer, extras=extras)
    made["tag"] = _tagger(made["pretrained"], folder)
    return made


def _tagger(model: Path, folder: Path) -> Path:
    tags = ["B-PER", *["I-PER"] * (len(NAME) - 1), *["O"] * len(REST)]
    lines = "".join(f"{character}\t{tag}\n" for character, tag in zip(NAME + REST, tags, strict=True))
    rows = folder / "rows.txt"
    rows.write_text((lines + "\n") * 12, encoding="utf-8")
    settings = {"model": model, "train": rows, "dev": rows, "output": folder / "tag", "format": "characters"}
    speed = {"epochs": 30, "batch_size": 6, "learning_rate": 5e-3, "max_length": 128, "threads": 1}
    finetune(TagSettings.parse(settings | speed), Log(mute=True))
    return folder / "tag"
