"""Pickled weights: converted when asked for, and never a way for code to run."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from bertsmith.__main__ import main
from bertsmith.config import ConvertSettings
from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.model.convert import convert
from bertsmith.model.weights import load_encoder, load_pretraining_model, read_tensors
from bertsmith.serving.predictor import load
from bertsmith.text.store import TokenStore
from tests.conftest import PUBLISHED

QUIET = Log(quiet=True)


def pickled(kind: str, directory: Path, store: TokenStore, **settings: object) -> transformers.PreTrainedModel:
    """Write a model of transformers as older releases did: config.json, vocabulary, pytorch_model.bin."""
    torch.manual_seed(5)
    config = transformers.BertConfig(vocab_size=store.vocab_size, architectures=[kind], **PUBLISHED, **settings)
    model = getattr(transformers, kind)(config).eval()
    store.tokenizer.save(directory)
    config.save_pretrained(directory)
    torch.save(model.state_dict(), directory / "pytorch_model.bin")
    return model


def settings(directory: Path, **changes: object) -> ConvertSettings:
    values = {"model": directory, "output": directory.parent / "converted", "from_pickle": True}
    return ConvertSettings.parse(values | changes)


def logits_of(model: transformers.PreTrainedModel, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]))[0][0]


def test_a_classifier_predicts_what_transformers_predicts(tmp_path: Path, store: TokenStore) -> None:
    theirs = pickled("BertForSequenceClassification", tmp_path / "old", store, id2label={0: "good", 1: "bad"})
    output = convert(settings(tmp_path / "old"), QUIET)
    expected = logits_of(theirs, store.tokenizer.encode("the cat").ids).softmax(0)
    assert load(output)("the cat").scores == {
        "good": pytest.approx(float(expected[0]), rel=1e-4),
        "bad": pytest.approx(float(expected[1]), rel=1e-4),
    }
    assert (output / "config.json").read_bytes() == (tmp_path / "old" / "config.json").read_bytes()
    assert json.loads((output / "checksums.json").read_text("utf-8")).keys() >= {"model.safetensors", "vocab.txt"}


def test_old_names_shards_and_tied_weights(tmp_path: Path, store: TokenStore) -> None:
    old = tmp_path / "old"
    theirs = pickled("BertForPreTraining", old, store)
    tensors = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in theirs.state_dict().items()
    }
    (old / "pytorch_model.bin").unlink()
    names = sorted(tensors)
    shards = {f"pytorch_model-{n}-of-2.bin": names[n::2] for n in (0, 1)}
    for file, own in shards.items():
        torch.save({name: tensors[name] for name in own}, old / file)
    index = {"weight_map": {name: file for file, own in shards.items() for name in own}}
    (old / "pytorch_model.bin.index.json").write_text(json.dumps(index), "utf-8")
    ours = load_pretraining_model(convert(settings(old), QUIET))
    expected = theirs.bert.encoder.layer[1].output.LayerNorm.weight
    assert torch.equal(ours.state_dict()["bert.layers.1.output_norm.weight"], expected)
    assert torch.equal(ours.state_dict()["mlm.bias"], theirs.cls.predictions.bias)

    (old / "pytorch_model-1-of-2.bin").unlink()
    with pytest.raises(InputError, match=r"1-of-2\.bin: missing; the index"):
        convert(settings(old, output=tmp_path / "again"), QUIET)


def test_sharded_safetensors_are_read(tmp_path: Path, store: TokenStore) -> None:
    pickled("BertModel", tmp_path / "old", store)
    whole = convert(settings(tmp_path / "old"), QUIET)
    model = transformers.BertModel.from_pretrained(whole)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="10KB")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 2
    sharded = load_encoder(tmp_path / "sharded").state_dict()
    assert all(torch.equal(sharded[name], tensor) for name, tensor in load_encoder(whole).state_dict().items())

    next((tmp_path / "sharded").glob("model-00002*")).unlink()
    with pytest.raises(InputError, match=r"model-00002.*missing; the index of the weights names it"):
        load_encoder(tmp_path / "sharded")


def test_nothing_is_opened_without_the_flag(tmp_path: Path, store: TokenStore) -> None:
    pickled("BertModel", tmp_path / "old", store)
    with pytest.raises(InputError, match=r"can carry code. --from-pickle reads it"):
        convert(settings(tmp_path / "old", from_pickle=False), QUIET)
    with pytest.raises(InputError, match=r"is not loaded.*bertsmith convert .* --from-pickle -o DIR"):
        load_encoder(tmp_path / "old")
    with pytest.raises(InputError, match=r"olld: no such directory; expected a directory with config.json"):
        convert(settings(tmp_path / "olld"), QUIET)
    assert not (tmp_path / "converted").exists()


class MakesDirectory:
    """What an attacker would put into a pickle."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_pickle_does_not_run(tmp_path: Path, store: TokenStore) -> None:
    pickled("BertModel", tmp_path / "old", store)
    torch.save({"bert.pooler.dense.bias": MakesDirectory(tmp_path / "owned")}, tmp_path / "old" / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"holds code or objects \(posix.mkdir\) beside tensors and was not loaded$"):
        convert(settings(tmp_path / "old"), QUIET)
    assert not (tmp_path / "owned").exists()
    assert not (tmp_path / "converted").exists()


@pytest.mark.parametrize("damage", ["cut", "byte", "key", "empty", "text", "list"])
def test_a_damaged_pickle(tmp_path: Path, store: TokenStore, damage: str) -> None:
    pickled("BertModel", tmp_path / "old", store)
    path = tmp_path / "old" / "pytorch_model.bin"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:3000])
    elif damage == "byte":
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "key":
        # The older format has no checksums; torch fails with an assertion of its own.
        torch.save({"w": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
        data = path.read_bytes()
        place = data.rindex(b"]q") + 12
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("weights", "utf-8")
    else:
        torch.save([1, 2], path)
    with pytest.raises(InputError, match=r"pytorch_model.bin: (is not a whole|holds)"):
        convert(settings(tmp_path / "old"), QUIET)
    assert not (tmp_path / "converted").exists()


def test_what_does_not_fit_together(tmp_path: Path, store: TokenStore) -> None:
    old = tmp_path / "old"
    pickled("BertModel", old, store)
    config = json.loads((old / "config.json").read_text("utf-8"))
    (old / "config.json").write_text(json.dumps(config | {"intermediate_size": 30}), "utf-8")
    with pytest.raises(InputError, match=r"has shape \(31, 20\), but config.json says \(30, 20\)"):
        convert(settings(old), QUIET)
    (old / "config.json").write_text(json.dumps(config), "utf-8")

    shutil.copy(old / "pytorch_model.bin", old / "other.bin")
    (old / "pytorch_model.bin").rename(old / "weights.bin")
    with pytest.raises(InputError, match=r"expected one pickle.*found other.bin, weights.bin"):
        convert(settings(old), QUIET)
    (old / "other.bin").unlink()
    (tmp_path / "converted").mkdir()
    (tmp_path / "converted" / "mine.txt").write_text("kept", "utf-8")
    with pytest.raises(InputError, match="exists and is not empty"):
        convert(settings(old), QUIET)
    (tmp_path / "converted" / "mine.txt").unlink()
    converted = convert(settings(old), QUIET)
    with pytest.raises(InputError, match=r"holds model.safetensors already"):
        convert(settings(converted, output=tmp_path / "twice"), QUIET)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        (
            "classifier.weight",
            torch.ones(3, 20),
            r"classifier.weight has shape \(3, 20\), but .* says \(2, 20\)",
        ),
        ("cls.predictions.bias", torch.ones(7), r"mlm.bias has shape \(7,\)"),
        ("cls.seq_relationship.weight", torch.ones(3, 20), r"nsp.weight has shape \(3, 20\)"),
        ("qa_outputs.weight", torch.ones(3, 20), r"span.weight has shape \(3, 20\)"),
        ("bert.encoder.layer.1.attention.self.key.weight", torch.ones(20, 19), r"have shapes .*; expected one shape"),
        ("bert.encoder.layer.1.attention.self.query.weight", torch.tensor(1.0), r"have shapes .*; expected one shape"),
        ("bert.pooler.dense.weight", torch.ones(20, 20).to(torch.int8), r"is int8, .*not quantised"),
        ("bert.pooler.dense.weight", torch.ones(20, 20).to_sparse(), r"is float32, sparse_coo.*plain floating-point"),
    ],
)
def test_tensors_of_another_shape_or_kind(
    tmp_path: Path, store: TokenStore, name: str, tensor: torch.Tensor, message: str
) -> None:
    theirs = pickled("BertForSequenceClassification", tmp_path / "old", store)
    torch.save({**theirs.state_dict(), name: tensor}, tmp_path / "old" / "pytorch_model.bin")
    with pytest.raises(InputError, match=message):
        convert(settings(tmp_path / "old"), QUIET)
    assert not (tmp_path / "converted").exists()


def test_older_files_halves_and_shared_places(tmp_path: Path, store: TokenStore) -> None:
    theirs = pickled("BertForQuestionAnswering", tmp_path / "old", store)
    tensors = {name: tensor.half() for name, tensor in theirs.state_dict().items()}
    tensors["cls.seq_relationship.weight"] = tensors["qa_outputs.weight"]
    torch.save(tensors, tmp_path / "old" / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    found = load_file(convert(settings(tmp_path / "old"), QUIET) / "model.safetensors")
    for name in ("qa_outputs.weight", "cls.seq_relationship.weight"):
        assert torch.equal(found[name], theirs.qa_outputs.weight.half().float())


def test_outputs_and_models_that_cannot_be(tmp_path: Path, store: TokenStore) -> None:
    pickled("BertModel", tmp_path / "old", store)
    (tmp_path / "note").write_text("kept", "utf-8")
    for output, message in ((tmp_path / "note", "note: is a file"), (tmp_path / "note" / "new", "note: is a file or")):
        with pytest.raises(InputError, match=message):
            convert(settings(tmp_path / "old", output=output), QUIET)
    assert (tmp_path / "note").read_text("utf-8") == "kept"
    with pytest.raises(InputError, match=r"^hub:who/what: expected a directory .*; download the model's files first"):
        convert(settings(Path("hub:who/what"), output=tmp_path / "new"), QUIET)
    with pytest.raises(InputError, match=r"no such directory.*needs no conversion: hub:who/what\)"):
        convert(settings(Path("who/what"), output=tmp_path / "new"), QUIET)


def test_the_command_says_what_comes_next(
    tmp_path: Path, store: TokenStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["bertsmith", "convert", str(tmp_path / "old"), *arguments])
        main()
        return capsys.readouterr().err

    pickled("BertForSequenceClassification", tmp_path / "old", store)
    with pytest.raises(SystemExit) as refused:
        run("-o", str(tmp_path / "new"))
    said = capsys.readouterr().err
    assert (refused.value.code, said.count("\n"), "Traceback" in said) == (2, 1, False)
    assert "pytorch_model.bin is a pickle" in said
    assert "next: bertsmith predict" in run("--from-pickle", "-o", str(tmp_path / "new"))


def test_foreign_tensors_are_named(tmp_path: Path, store: TokenStore, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = pickled("BertModel", tmp_path / "old", store)
    tensors = {**theirs.state_dict(), "adapter.weight": torch.ones(2)}
    torch.save(tensors, tmp_path / "old" / "pytorch_model.bin")
    converted = convert(settings(tmp_path / "old"), Log())
    said = capsys.readouterr().err
    assert "1 tensor(s) that are not of a BERT are left out: adapter.weight" in said
    assert "only for files that you trust" in said
    config = load_encoder(converted).config
    assert len(read_tensors(converted, config)) == 5 + 2 * 12 + 2
