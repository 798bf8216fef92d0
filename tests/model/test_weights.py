"""Model directories: both ways with transformers, and every way in which one can be broken."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bertsmith.config import ModelConfig
from bertsmith.errors import InputError
from bertsmith.model.bert import Bert
from bertsmith.model.heads import PretrainingModel, SequenceClassifier
from bertsmith.model.weights import (
    load_encoder,
    load_pretraining_model,
    load_tuned,
    model_directory,
    read_info,
    save_model,
)
from bertsmith.text.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefg", *(f"##{c}" for c in "abcdefg"), "가", "나", "##다"]


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    path = tmp_path / "words" / "vocab.txt"
    path.parent.mkdir()
    path.write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    return Tokenizer.from_vocabulary(path, lowercase=True)


@pytest.fixture
def config() -> ModelConfig:
    return ModelConfig(
        vocab_size=len(WORDS),
        num_hidden_layers=2,
        hidden_size=12,
        num_attention_heads=3,
        intermediate_size=29,
        max_position_embeddings=23,
    )


@pytest.fixture
def saved(tmp_path: Path, config: ModelConfig, tokenizer: Tokenizer) -> Path:
    torch.manual_seed(4)
    directory = tmp_path / "model"
    save_model(PretrainingModel(config), directory, tokenizer, extras={"task": "pretraining"})
    return directory


def test_a_pretraining_model_comes_back_as_it_was(saved: Path, config: ModelConfig) -> None:
    torch.manual_seed(4)
    expected = PretrainingModel(config).state_dict()
    loaded = load_pretraining_model(saved)
    assert not loaded.training
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    assert read_info(saved).extras == {"task": "pretraining"}


def test_transformers_reads_it_without_a_missing_weight(saved: Path) -> None:
    model, info = transformers.AutoModelForPreTraining.from_pretrained(saved, output_loading_info=True)
    assert type(model).__name__ == "BertForPreTraining"
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.config.max_position_embeddings == 23
    ids = transformers.AutoTokenizer.from_pretrained(saved)("abc 가다").input_ids
    assert ids == Tokenizer.load(saved).encode("abc 가다").ids


def test_a_directory_of_transformers_is_read(tmp_path: Path, config: ModelConfig, tokenizer: Tokenizer) -> None:
    theirs = transformers.BertForPreTraining(transformers.BertConfig(**config.model_dump()))
    theirs.save_pretrained(tmp_path / "theirs")
    tokenizer.save(tmp_path / "theirs")
    ours = load_pretraining_model(tmp_path / "theirs")
    assert torch.equal(ours.bert.embeddings.token.weight, theirs.bert.embeddings.word_embeddings.weight)
    assert torch.equal(Bert.load(tmp_path / "theirs").pooler.weight, theirs.bert.pooler.dense.weight)


def test_a_classifier_keeps_its_labels_in_both_directions(
    tmp_path: Path, config: ModelConfig, tokenizer: Tokenizer
) -> None:
    save_model(SequenceClassifier(config, 3), tmp_path / "tuned", tokenizer, labels=("좋음", "그저 그럼", "나쁨"))
    info = read_info(tmp_path / "tuned")
    assert info.labels == ("좋음", "그저 그럼", "나쁨")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "tuned")
    assert theirs.config.id2label == {0: "좋음", 1: "그저 그럼", 2: "나쁨"}


def test_a_run_directory_stands_for_its_model(saved: Path) -> None:
    assert model_directory(saved.parent) == saved
    assert load_encoder(saved.parent).config.hidden_size == 12


def test_a_missing_pooler_starts_fresh_but_a_missing_layer_is_an_error(saved: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    (saved / "checksums.json").unlink()
    save_file({n: t for n, t in tensors.items() if "pooler" not in n}, saved / "model.safetensors")
    load_encoder(saved)
    save_file({n: t for n, t in tensors.items() if "layer.1" not in n}, saved / "model.safetensors")
    with pytest.raises(InputError, match=r"no weights for layers\.1"):
        load_encoder(saved)


def test_a_changed_byte_is_found_before_use(saved: Path) -> None:
    path = saved / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"model\.safetensors: does not match its checksum"):
        load_encoder(saved)


def test_weights_cut_short(saved: Path) -> None:
    (saved / "checksums.json").unlink()
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        load_encoder(saved)


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('a pickle was opened')",))


def test_a_pickle_is_never_opened(saved: Path) -> None:
    (saved / "checksums.json").unlink()
    trap = pickle.dumps(Trap())
    (saved / "model.safetensors").write_bytes(trap)
    with pytest.raises(InputError, match="pickle, which is not loaded"):
        load_encoder(saved)
    (saved / "model.safetensors").unlink()
    (saved / "pytorch_model.bin").write_bytes(trap)
    with pytest.raises(InputError, match=r"only pytorch_model\.bin here.*is not loaded"):
        load_encoder(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "roberta"}, "model_type is 'roberta'; expected 'bert'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"hidden_size": 13}, "not a multiple"),
        ({"hidden_size": 24}, "has shape"),
        ({"hidden_act": "swish"}, "hidden_act"),
        ({"vocab_size": "many"}, "vocab_size"),
    ],
)
def test_a_configuration_that_does_not_fit(saved: Path, change: dict[str, object], message: str) -> None:
    (saved / "checksums.json").unlink()
    values = json.loads((saved / "config.json").read_text(encoding="utf-8"))
    (saved / "config.json").write_text(json.dumps(values | change), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        load_encoder(saved)


def test_tensors_that_are_no_plain_floats_or_do_not_go_together(saved: Path) -> None:
    (saved / "checksums.json").unlink()
    tensors = load_file(saved / "model.safetensors")
    name = "bert.encoder.layer.1.attention.self.query.weight"
    for wrong, message in ((torch.ones(12, 12, dtype=torch.int8), "is int8"), (torch.ones(12, 11), "one shape")):
        save_file({**tensors, name: wrong}, saved / "model.safetensors")
        with pytest.raises(InputError, match=rf"^{saved}: {name} .*{message}"):
            load_encoder(saved)


def test_what_is_not_a_model(tmp_path: Path, saved: Path) -> None:
    with pytest.raises(InputError, match="no such directory"):
        model_directory(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no model"):
        model_directory(tmp_path / "words")
    with pytest.raises(InputError, match="is a file"):
        model_directory(tmp_path / "words" / "vocab.txt")
    with pytest.raises(InputError, match=r"no weights for classifier\.weight"):
        load_tuned(SequenceClassifier(read_info(saved).config, 3), saved, read_info(saved).config)
    (saved / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"config\.json"):
        read_info(saved)


def test_an_encoder_alone_has_no_heads(tmp_path: Path, config: ModelConfig, tokenizer: Tokenizer) -> None:
    save_model(Bert(config), tmp_path / "encoder", tokenizer)
    assert load_encoder(tmp_path / "encoder").config == config
    with pytest.raises(InputError, match="no masked-language-model head"):
        load_pretraining_model(tmp_path / "encoder")
