"""What computes: what was asked for, what is there, or what is faster."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bertsmith import files
from bertsmith.batch import Batch, pack
from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.serving import backends
from bertsmith.serving.backends import Backend, open_backend, runs_on_cpu, time_models, typical_batch, weights_checksum

CPU = torch.device("cpu")


class Slow(nn.Module):
    """A model that takes so many seconds a batch."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, batch: Batch) -> Tensor:
        time.sleep(self.seconds)
        return batch.token_ids


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    return tmp_path / "model"


def add_graph(model: Path, folder: str, **report: str) -> Path:
    with files.new_directory(model.parent / folder) as directory:
        values = {"weights": weights_checksum(model), "int8": ""} | report
        (directory / "export.json").write_text(json.dumps(values), encoding="utf-8")
        (directory / ("model.xml" if folder == "openvino" else "model.onnx")).write_bytes(b"graph")
    return model.parent / folder


SECONDS = {"torch": 0.05, "onnx": 0.001, "openvino": 0.02}


@pytest.fixture(autouse=True)
def _runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "open_graph", lambda path, runtime, threads: Slow(SECONDS[runtime]))
    monkeypatch.setattr(backends, "is_installed", lambda runtime: True)
    monkeypatch.setattr(backends, "require", lambda runtime: None)
    monkeypatch.setattr(backends, "_MOMENT", 0.15)


def opened(root: Path, model: Path, choice: str = "auto", device: torch.device = CPU) -> Backend:
    def batches() -> Sequence[Batch]:
        return [pack([[1, 2, 3], [4, 5]])]

    return open_backend(root, model, choice, device, lambda: Slow(SECONDS["torch"]), batches, Log())


def test_without_a_graph_it_is_torch(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for choice in ("auto", "torch"):
        found = opened(model.parent, model, choice)
        assert (found.name, found.speeds) == ("torch", {})
    assert capsys.readouterr().err == ""
    with pytest.raises(InputError, match="no graph of this model; make one with: bertsmith export MODEL --format"):
        opened(model.parent, model, "onnx")


def test_the_fastest_is_taken_and_said(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_graph(model, "onnx")
    add_graph(model, "openvino")
    found = opened(model.parent, model)
    assert found.name == "onnx"
    assert set(found.speeds) == {"torch", "onnx", "openvino"}
    assert found.speeds["onnx"] > found.speeds["openvino"] > found.speeds["torch"]
    assert "computed by onnx, the fastest here (tokens/s: torch " in capsys.readouterr().err
    assert opened(model.parent, model, "openvino").name == "openvino"


def test_openvino_reads_onnx_too(model: Path) -> None:
    add_graph(model, "onnx")
    assert set(opened(model.parent, model).speeds) == {"torch", "onnx", "openvino"}
    assert opened(model.parent, model, "openvino").name == "openvino"


def test_integers_only_if_asked_for(model: Path) -> None:
    export = add_graph(model, "onnx", int8="blocks")
    assert opened(model.parent, model).name == "torch"
    assert opened(model.parent, model, "onnx").name == "onnx"
    alone = opened(export, export)
    assert (alone.name, alone.speeds) == ("onnx", {})
    with pytest.raises(InputError, match="no graph here that openvino reads"):
        opened(export, export, "openvino")


def test_a_graph_of_other_weights_is_left_out(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_graph(model, "onnx", weights="others")
    assert opened(model.parent, model).name == "torch"
    assert "onnx was exported from other weights and is left out" in capsys.readouterr().err
    with pytest.raises(InputError, match="no graph of this model"):
        opened(model.parent, model, "onnx")


def test_a_package_that_is_missing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export = add_graph(model, "onnx")
    monkeypatch.setattr(backends, "is_installed", lambda runtime: runtime == "openvino")
    assert opened(export, export).name == "openvino"
    monkeypatch.undo()
    monkeypatch.setattr(backends, "is_installed", lambda runtime: False)
    monkeypatch.setattr("bertsmith.serving.graphs.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"onnxruntime is not installed; install it with: pip install 'bertsmith\["):
        opened(export, export)
    assert opened(model.parent, model).name == "torch"


def test_graphs_stay_on_the_cpu(model: Path) -> None:
    gpu = torch.device("cuda")
    export = add_graph(model, "onnx")
    assert opened(model.parent, model, "auto", gpu).name == "torch"
    for root, directory, choice in ((model.parent, model, "onnx"), (export, export, "auto")):
        with pytest.raises(InputError, match="graphs run on the CPU here; device cuda is for --backend torch"):
            opened(root, directory, choice, gpu)


def test_a_graph_takes_the_cpu_where_there_is_a_choice(model: Path) -> None:
    export = add_graph(model, "onnx")
    assert runs_on_cpu(export, "auto")
    assert runs_on_cpu(model, "onnx")
    assert not runs_on_cpu(model, "auto")
    assert not runs_on_cpu(export, "torch")


def test_times_and_usual_lengths() -> None:
    batch = typical_batch(50, 20)
    assert (batch.num_sequences, batch.max_length) == (32, 20)
    speeds = time_models({"a": Slow(0.03), "b": Slow(0.001)}, [batch, batch])
    assert speeds["b"] > speeds["a"]
    assert speeds["a"] <= batch.num_tokens / 0.03
