"""What a directory can be asked, and under which name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from bertsmith import files
from bertsmith.errors import InputError
from bertsmith.features.encoder import Encoder
from bertsmith.model.weights import WEIGHTS
from bertsmith.service.models import load_model, named_directories
from tests.service.small import TUNED

ALWAYS = {"embed", "tokenize", "inside", "masking"}


@pytest.mark.parametrize("task", TUNED)
def test_a_tuned_model_predicts(directories: dict[str, Path], task: str) -> None:
    model = load_model("mine", directories[task], "cpu")
    assert set(model.abilities) == {"predict", *ALWAYS}
    # Weights are in memory once.
    assert model.predictor is not None
    assert model.encoder is not None
    assert model.encoder.bert is model.predictor.model.bert
    described = model.describe()
    assert (described["id"], described["task"]) == ("mine", task)
    assert described["pairs"] == (task == "regress")
    assert described["labels"] == TUNED[task][1].get("labels")
    assert (described["layers"], described["heads"], described["hidden_size"]) == (2, 2, 20)
    assert described["max_length"] == TUNED[task][1]["max_length"]


def test_a_run_fills_and_a_bare_encoder_does_not(directories: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model").symlink_to(directories["heads"])
    assert set(load_model("run", tmp_path / "run", "cpu").abilities) == {"fill", "next", *ALWAYS}
    assert set(load_model("encoder", directories["encoder"], "cpu").abilities) == ALWAYS


@pytest.mark.parametrize(("head", "ability"), [("cls.predictions.", "fill"), ("cls.seq_relationship.", "next")])
def test_published_models_with_one_of_the_heads(
    directories: dict[str, Path], tmp_path: Path, head: str, ability: str
) -> None:
    model = tmp_path / "theirs"
    shutil.copytree(directories["heads"], model, ignore=shutil.ignore_patterns(files.CHECKSUMS))
    tensors = load_file(model / WEIGHTS)
    save_file(
        {name: t for name, t in tensors.items() if not name.startswith("cls.") or name.startswith(head)},
        model / WEIGHTS,
    )
    assert set(load_model("theirs", model, "cpu").abilities) == {ability, *ALWAYS}


def test_left_to_right_fills_nothing(directories: dict[str, Path], tmp_path: Path) -> None:
    model = tmp_path / "gpt"
    shutil.copytree(directories["heads"], model, ignore=shutil.ignore_patterns(files.CHECKSUMS))
    values = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (model / "config.json").write_text(json.dumps(values | {"is_decoder": True}), encoding="utf-8")
    assert set(load_model("gpt", model, "cpu").abilities) == {"next", *ALWAYS} - {"masking"}


def test_a_directory_of_sentence_transformers_says_how_vectors_are_made(sentence_model: Path) -> None:
    model = load_model("mini", sentence_model, "cpu")
    assert model.encoder is not None
    assert model.embedding is not None
    assert (model.encoder.recipe.normalize, model.max_length) == (True, 256)
    batch = model.encoder.encoded(["A cat.", "고양이"]).batch([0, 1])
    np.testing.assert_allclose(
        model.embedding.run([batch])[0], Encoder.load(sentence_model).encode(["A cat.", "고양이"]), atol=1e-5
    )


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd=name").mkdir()
    monkeypatch.chdir(tmp_path)
    found = named_directories(["tuned", "a/run/model", "b/리뷰 모델/", "x=a/tuned", "odd=name", "hub:o/bert"])
    assert list(found) == ["tuned", "run", "리뷰 모델", "x", "odd=name", "bert"]
    assert found["x"] == Path("a/tuned")
    with pytest.raises(InputError, match=r"two models are called 'tuned': tuned and b/tuned; give them names"):
        named_directories(["tuned", "b/tuned"])
    for bad in ("=tuned", "a/b=tuned", "x="):
        with pytest.raises(InputError, match="expected a directory, or NAME=DIR"):
            named_directories([bad])


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such directory"):
        load_model("x", tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no model"):
        load_model("x", tmp_path)
