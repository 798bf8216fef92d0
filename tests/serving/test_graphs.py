"""A graph in the place of a model: batches become rectangles and outputs find their places again."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from bertsmith.batch import Batch, pack
from bertsmith.errors import InputError
from bertsmith.serving.graphs import Graph, GraphModel, open_graph, read_graph

LENGTHS = (3, 19, 1, 7, 19, 2, 11, 30, 5, 4, 4, 2)


@pytest.fixture(scope="module")
def batch() -> Batch:
    draw = np.random.default_rng(0)
    ids = [draw.integers(1, 90, n) for n in LENGTHS]
    return pack(ids, [(np.arange(n) > n // 2).astype(np.int64) for n in LENGTHS])


def per_sequence(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """Sums over real tokens."""
    mask = inputs["attention_mask"]
    sums = [(inputs[name] * mask).sum(1) for name in ("input_ids", "token_type_ids")]
    return np.stack([mask.sum(1), *sums], axis=1).astype(np.float32)


def per_token(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.stack([inputs["input_ids"], inputs["token_type_ids"]], axis=2).astype(np.float32)


def test_outputs_of_sequences(batch: Batch) -> None:
    found = GraphModel(per_sequence)(batch).numpy()
    parts = np.split(batch.token_ids.numpy(), batch.sequence_starts[1:-1].numpy())
    segments = np.split(batch.segment_ids.numpy(), batch.sequence_starts[1:-1].numpy())
    expected = [(len(ids), ids.sum(), own.sum()) for ids, own in zip(parts, segments, strict=True)]
    np.testing.assert_array_equal(found, expected)


def test_outputs_of_tokens(batch: Batch) -> None:
    expected = torch.stack([batch.token_ids, batch.segment_ids], dim=1).float()
    torch.testing.assert_close(GraphModel(per_token)(batch), expected, rtol=0, atol=0)


def test_little_is_padded(batch: Batch) -> None:
    cells = []

    def run(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        cells.append(inputs["input_ids"].size)
        assert all(values.dtype == np.int64 for values in inputs.values())
        return per_sequence(inputs)

    GraphModel(run)(batch)
    assert len(cells) > 1
    assert sum(cells) < 1.5 * sum(LENGTHS)


def test_what_a_directory_holds(tmp_path: Path) -> None:
    assert read_graph(tmp_path) is None
    (tmp_path / "export.json").write_text(json.dumps({"weights": "w", "int8": "blocks"}), encoding="utf-8")
    assert read_graph(tmp_path) is None  # an encoder for sentence-transformers has a report and no graph
    (tmp_path / "model.onnx").write_bytes(b"graph")
    graph = read_graph(tmp_path)
    assert graph == Graph(tmp_path, "w", "blocks")
    assert (graph.file_for("onnx"), graph.file_for("openvino")) == (tmp_path / "model.onnx", None)
    assert Graph(tmp_path, "w", "").file_for("openvino") == tmp_path / "model.onnx"
    (tmp_path / "export.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=r"export\.json: has no 'weights'; export the model again"):
        read_graph(tmp_path)


def write_sums(path: Path) -> None:
    """A graph by hand: for every cell its id plus its segment, and its mask."""
    from onnx import TensorProto, checker, helper, save_model

    shape = ["n", "length"]
    names = ("input_ids", "attention_mask", "token_type_ids")
    given = [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name in names]
    nodes = [
        helper.make_node("Add", ["input_ids", "token_type_ids"], ["sum"]),
        helper.make_node("Unsqueeze", ["sum", "axis"], ["a"]),
        helper.make_node("Unsqueeze", ["attention_mask", "axis"], ["b"]),
        helper.make_node("Concat", ["a", "b"], ["c"], axis=2),
        helper.make_node("Cast", ["c"], ["logits"], to=TensorProto.FLOAT),
    ]
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [2])
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [*shape, 2])
    graph = helper.make_graph(nodes, "sums", given, [output], [axis])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    checker.check_model(model)
    save_model(model, str(path))


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_runtimes_in_several_threads(runtime: str, batch: Batch, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip({"onnx": "onnxruntime"}.get(runtime, runtime))
    write_sums(tmp_path / "model.onnx")
    model = open_graph(tmp_path / "model.onnx", runtime, 1)
    shifted = [pack([batch.token_ids.numpy() + n]) for n in range(4)]
    wrong: list[int] = []

    def work(n: int) -> None:
        for _ in range(40):
            found = model(shifted[n])
            if not torch.equal(found[:, 0], shifted[n].token_ids.float()) or not bool((found[:, 1] == 1).all()):
                wrong.append(n)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_no_graph_at_all(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(InputError, match=r"model\.onnx: onnxruntime cannot read this graph"):
        open_graph(tmp_path / "model.onnx", "onnx", 1)
