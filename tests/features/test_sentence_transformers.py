"""What directories of sentence-transformers ask for is done, or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from bertsmith.errors import InputError
from bertsmith.features.encoder import Encoder
from bertsmith.model.bert import Bert
from bertsmith.model.weights import read_info, save_model
from bertsmith.text.tokenizer import Tokenizer
from tests.features.small import TOKENS


def sentence_directory(
    model: Path, directory: Path, modules: list[str], pooling: dict[str, object], **limits: object
) -> Path:
    shutil.copytree(model, directory)
    listed = [
        {"idx": n, "name": str(n), "path": f"{n}_{name}" if n else "", "type": f"sentence_transformers.models.{name}"}
        for n, name in enumerate(modules)
    ]
    (directory / "modules.json").write_text(json.dumps(listed), encoding="utf-8")
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
    (directory / "sentence_bert_config.json").write_text(json.dumps(limits), encoding="utf-8")
    return directory


ALL = ["Transformer", "Pooling", "Normalize"]


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode": "mean"}, "mean"),
        ({}, "mean"),
    ],
)
def test_its_own_pooling_and_length(tmp_path: Path, model: Path, pooling: dict[str, object], expected: str) -> None:
    directory = sentence_directory(model, tmp_path / "m", ALL[:2], pooling, max_seq_length=17)
    recipe = Encoder.load(directory).recipe
    assert (recipe.pooling, recipe.normalize, recipe.max_length) == (expected, False, 17)
    asked = Encoder.load(directory, pooling="first-last-mean", normalize=True, max_length=9).recipe
    assert (asked.pooling, asked.layers.numbers, asked.normalize, asked.max_length) == ("mean", (1, 5), True, 9)


def test_normalised_and_longer_than_its_positions(tmp_path: Path, model: Path) -> None:
    directory = sentence_directory(model, tmp_path / "m", ALL, {"pooling_mode": ["cls"]}, max_seq_length=512)
    encoder = Encoder.load(directory)
    assert (encoder.recipe.max_length, encoder.recipe.normalize) == (41, True)
    np.testing.assert_allclose(np.linalg.norm(encoder.encode(["a b", "c"]), axis=1), 1, atol=1e-6)


def test_what_is_not_given_stays_the_directorys(tmp_path: Path, model: Path) -> None:
    limits = {"max_seq_length": 17, "do_lower_case": True}
    directory = sentence_directory(model, tmp_path / "m", ALL, {"pooling_mode": "cls"}, **limits)
    for pooling in ("auto", "cls", "mean", "max"):
        recipe = Encoder.load(directory, pooling=pooling).recipe  # type: ignore[arg-type]
        assert recipe.pooling == ("cls" if pooling == "auto" else pooling)
        assert (recipe.normalize, recipe.max_length, recipe.lowercase) == (True, 17, True)
    asked = Encoder.load(directory, pooling="mean", normalize=False, max_length=9).recipe
    assert (asked.normalize, asked.max_length, asked.lowercase) == (False, 9, True)
    # It scales what is made of the last layer, and says nothing of others.
    first_last = Encoder.load(directory, pooling="first-last-mean").recipe
    assert (first_last.normalize, first_last.max_length, first_last.lowercase) == (False, 17, True)


def test_lower_casing_before_the_tokenizer(tmp_path: Path, model: Path) -> None:
    cased = tmp_path / "cased"
    save_model(Bert(read_info(model).config), cased, Tokenizer.from_tokens(TOKENS, lowercase=False))
    plain = sentence_directory(cased, tmp_path / "plain", ALL[:2], {}, do_lower_case=False)
    lower = sentence_directory(cased, tmp_path / "lower", ALL[:2], {}, do_lower_case=True)
    small = Encoder.load(plain).encode(["abc d"])
    np.testing.assert_allclose(Encoder.load(lower).encode(["aBC D"]), small, atol=1e-6)
    assert np.abs(Encoder.load(plain).encode(["aBC D"]) - small).max() > 0.1


@pytest.mark.parametrize(
    ("modules", "pooling", "message"),
    [
        ([*ALL[:2], "Dense"], {}, "has the module Dense, which is not supported; give --pooling"),
        (["Transformer", "Normalize", "Pooling"], {}, "expected Transformer, Pooling and perhaps Normalize"),
        (["Transformer"], {}, "has the modules Transformer"),
        (ALL, {"pooling_mode_lasttoken": True}, "asks for the pooling lasttoken"),
        (ALL, {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}, "the pooling cls, max"),
    ],
)
def test_what_is_not_supported(
    tmp_path: Path, model: Path, modules: list[str], pooling: dict[str, object], message: str
) -> None:
    directory = sentence_directory(model, tmp_path / "m", modules, pooling, max_seq_length=17)
    with pytest.raises(InputError, match=message):
        Encoder.load(directory)
    recipe = Encoder.load(directory, pooling="mean").recipe
    # The length of texts is the encoder's; the scale of what comes out of unknown modules is not.
    assert (recipe.pooling, recipe.max_length, recipe.normalize) == ("mean", 17, modules == ALL)


def test_damage_and_prompts(tmp_path: Path, model: Path) -> None:
    directory = sentence_directory(model, tmp_path / "m", ALL, {}, max_seq_length="many")
    with pytest.raises(InputError, match="max_seq_length is 'many'"):
        Encoder.load(directory)
    (directory / "config_sentence_transformers.json").write_text('{"default_prompt_name": "query"}', encoding="utf-8")
    with pytest.raises(InputError, match="puts the prompt 'query' before each text"):
        Encoder.load(directory)
    (directory / "modules.json").write_text('{"a": 1}', encoding="utf-8")
    with pytest.raises(InputError, match=r"modules\.json: is not a list of modules"):
        Encoder.load(directory)
