"""Small models of every task, whose vocabulary holds every character of the page's examples."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import torch

from bertsmith import task_config
from bertsmith.config import ModelConfig
from bertsmith.console import Log
from bertsmith.model.heads import PretrainingModel
from bertsmith.model.weights import save_model
from bertsmith.text.tokenizer import SPECIAL_TOKENS, Tokenizer
from bertsmith.training.finetune import finetune

NAME, REST = "손기정", "은 1936년 베를린 올림픽 마라톤에서 금메달을 땄다."
"""The page's Korean example, whose name the tagger has learned."""

_PAIRS = [("the river rose", "the town slept"), ("강물이 불었다", "마을은 잠들었다")]
_SETTINGS = {"max_length": 128, "batch_size": 6, "learning_rate": 1e-3, "threads": 1, "quiet": True}


def page_files(ending: str) -> dict[str, str]:
    """Return the page's files with an ending, by name."""
    folder = resources.files("bertsmith.serving").joinpath("page")
    return {f.name: f.read_text("utf-8") for f in folder.iterdir() if f.name.endswith(ending)}


def make_models(folder: Path) -> dict[str, Path]:
    """Write a pre-trained model with random weights and one tuned for each task; return them by task."""
    torch.manual_seed(3)
    characters = sorted(set(re.sub(r"\s|[A-Z]", "", "".join(page_files(".js").values()))))
    tokens = [*SPECIAL_TOKENS, *characters, *(f"##{c}" for c in characters if c.isalnum()), "river", "강물", "##이"]
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
    base = folder / "pretrained"
    save_model(PretrainingModel(config), base, tokenizer)
    made = {"pretrained": base}

    def tune(name: str, settings: str, file: str, rows: str, **changes: object) -> None:
        path = folder / f"{name}.{file}"
        path.write_text(rows, encoding="utf-8")
        values = {"model": base, "train": path, "dev": path, "output": folder / name, "epochs": 1}
        finetune(getattr(task_config, settings).parse(_SETTINGS | values | changes), Log(quiet=True))
        made[name] = folder / name

    def table(*rows: tuple[object, ...]) -> str:
        return "\n".join("\t".join(map(str, row)) for row in (rows[0], *rows[1:] * 3)) + "\n"

    (a, b), (c, d) = _PAIRS
    tune(
        "classify",
        "ClassifySettings",
        "tsv",
        table(("text", "label"), (a, "good"), (b, "bad"), (c, "좋음"), (d, "나쁨")),
    )
    rows = table(("text", "b", "label"), (a, b, "same"), (c, d, "different"))
    tune("pairs", "ClassifySettings", "tsv", rows, text_b="b")
    tune(
        "multilabel", "MultilabelSettings", "tsv", table(("text", "label"), (a, "x"), (b, "x|y"), (c, "y"), (d, "x|z"))
    )
    tune("regress", "RegressSettings", "tsv", table(("text", "label"), (a, 1.5), (b, 2), (c, 4.5), (d, 3)))
    rows = table(("context", "p", "q", "label"), (a, b, d, 0), (c, b, d, 1))
    tune("choose", "ChooseSettings", "tsv", rows, endings="p,q")
    rows = table(
        ("id", "question", "context", "answer", "start"),
        *((n, "who", f"{x} {y}", x, 0) for n, (x, y) in enumerate(_PAIRS)),
    )
    tune("qa", "QaSettings", "tsv", rows)
    tags = ["B-PER", *["I-PER"] * (len(NAME) - 1), *["O"] * len(REST)]
    lines = [f"{character}\t{tag}" for character, tag in zip(NAME + REST, tags, strict=True)]
    tune(
        "tag",
        "TagSettings",
        "txt",
        ("\n".join(lines) + "\n\n") * 12,
        format="characters",
        epochs=30,
        learning_rate=5e-3,
    )
    return made
