"""Exports give what their models give, run without torch, and are refused where they are not good enough."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import bertsmith
from bertsmith.catalogue.translate import translated
from bertsmith.console import Log, columns_of
from bertsmith.errors import InputError
from bertsmith.export_config import ExportSettings
from bertsmith.exporting import checking
from bertsmith.exporting import export as stage
from bertsmith.exporting.checking import Difference, Material, Metric, Speed
from bertsmith.exporting.export import ExportResult, export
from bertsmith.features.encoder import Encoder
from bertsmith.serving.evaluating import evaluate
from bertsmith.serving.graphs import GraphModel
from bertsmith.serving.predictor import predict_file
from bertsmith.task_config import EvaluateSettings, PredictSettings
from tests.exporting.small import numbers_of, rounded, save, some_inputs
from tests.features.small import some_texts

QUIET = Log(quiet=True)
ROOT = Path(__file__).parent.parent.parent
FASTER = {"int8": 2.0, "float32": 1.0}


def settings(model: Path, output: Path, **changes: object) -> ExportSettings:
    return ExportSettings.parse({"model": model, "output": output, "threads": 1} | changes)


def labelled(path: Path, model: Path) -> Path:
    """Rows with the labels that the model itself gives, so that its score is 1."""
    texts = some_texts(80, seed=5)
    rows = [f"{text},{found.label}" for text, found in zip(texts, bertsmith.load(model)(texts), strict=True)]
    path.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    return path


def test_the_same_predictions_without_the_weights(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch_side = bertsmith.load(tuned, backend="torch")
    graph = bertsmith.load(tuned / "onnx", backend="onnx")
    assert not list((tuned / "onnx").glob("*.safetensors"))
    assert (graph.backend, graph.max_length, graph.task.name) == ("onnx", 33, "classify")
    inputs = some_inputs("classify", 90)
    expected = torch_side(inputs)
    found = graph(inputs)
    assert max(prediction.windows for prediction in found) > 1
    for one, other in zip(found, expected, strict=True):
        assert one.label == other.label
        assert one.scores == pytest.approx(other.scores, abs=1e-5)
    for text, together in list(zip(inputs, found, strict=True))[::9]:
        assert graph(text).scores == pytest.approx(together.scores, abs=1e-5)


def test_what_stands_beside_the_graph(tuned: Path) -> None:
    written = json.loads((tuned / "onnx" / "export.json").read_text(encoding="utf-8"))
    assert written["difference"]["largest"] < 1e-4
    assert written["difference"]["same"] == 1.0
    assert written["compared_on"] == {"what": "texts of Bertsmith's own", "sequences": pytest.approx(140, abs=90)}
    assert (written["int8"], written["output"], written["task"]) == ("", "logits", "classify")
    assert set(written["speed"]) == {"torch", "onnx float32", "threads"}
    names = {path.name for path in (tuned / "onnx").iterdir()}
    assert {"model.onnx", "config.json", "tokenizer.json", "vocab.txt", "checksums.json"} <= names
    assert str(tuned).encode() not in (tuned / "onnx" / "model.onnx").read_bytes()
    assert b"padded.py" not in (tuned / "onnx" / "model.onnx").read_bytes()


def test_the_example_needs_neither_torch_nor_bertsmith(tuned: Path, tmp_path: Path) -> None:
    for name in ("torch", "bertsmith"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('not here')", encoding="utf-8")
    texts = ["abc dd", "m l k j [SEP]", " ".join("abcdefghijklm" * 5)]
    command = [sys.executable, ROOT / "examples" / "onnx_classify.py", tuned / "onnx", *texts]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, timeout=60)
    assert run.returncode == 0, run.stderr
    predict = bertsmith.load(tuned, long_texts="cut")
    for line, text in zip(run.stdout.splitlines(), texts, strict=True):
        label, share, shown = line.split("\t")
        expected = predict(text)
        assert (label, shown) == (expected.label, text)
        assert float(share) == pytest.approx(expected.score, abs=1e-5)
    check = subprocess.run([sys.executable, "-c", "import bertsmith"], capture_output=True, env=environment)
    assert check.returncode != 0
    assert len((ROOT / "examples" / "onnx_classify.py").read_text(encoding="utf-8").splitlines()) < 42


@pytest.fixture
def traced(tuned: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The graph of the fixture stands in for tracing, which takes seconds: it is that of every such model."""
    graph = (tuned / "onnx" / "model.onnx").read_bytes()
    monkeypatch.setattr(stage, "write_onnx", lambda model, path, output: path.write_bytes(graph))
    return graph


@pytest.mark.parametrize("name", ["pairs", "multilabel"])
def test_tasks_with_the_same_network(name: str, traced: bytes, tmp_path: Path) -> None:
    gives_the_same(name, save(tmp_path / "model", name), tmp_path / "out")


@pytest.mark.parametrize("name", ["regress", "choose", "qa", "tag"])
def test_other_tasks(name: str, tmp_path: Path) -> None:
    changes = {"is_decoder": True} if name == "regress" else {"hidden_act": "gelu_new"} if name == "tag" else {}
    gives_the_same(name, save(tmp_path / "model", name, num_hidden_layers=1, **changes), tmp_path / "out")


def gives_the_same(name: str, model: Path, output: Path) -> None:
    found = export(settings(model, output), QUIET)
    assert found.difference.largest < 1e-4
    inputs = some_inputs(name)
    expected = [prediction.to_json() for prediction in bertsmith.load(model)(inputs)]
    given = [prediction.to_json() for prediction in bertsmith.load(output)(inputs)]
    assert len({json.dumps(rounded(one)) for one in expected}) > 3
    for one, other in zip(given, expected, strict=True):
        np.testing.assert_allclose(numbers_of(one), numbers_of(other), atol=2e-5)
        assert rounded(one, 0).keys() == rounded(other, 0).keys()
        for key in ("label", "labels", "choice", "text", "start", "truncated", "windows"):
            assert one.get(key) == other.get(key)


def test_vectors(tmp_path: Path) -> None:
    model = save(tmp_path / "model", "vectors", num_hidden_layers=1)
    found = export(settings(model, tmp_path / "out", pooling="max", normalize=True, max_length=29), QUIET)
    assert found.metric is not None
    assert found.metric.export == pytest.approx(1, abs=1e-6)
    texts = some_inputs("vectors")
    expected = Encoder.load(model, pooling="max", normalize=True, max_length=29).encode(texts)
    predict = bertsmith.load(tmp_path / "out")
    np.testing.assert_allclose([p.vector for p in predict(texts)], expected, atol=1e-5)
    assert predict(texts)[-2].truncated > 0
    (tmp_path / "a.txt").write_text("abc\nm l\n", encoding="utf-8")
    predict_file(PredictSettings(model=tmp_path / "out", input=tmp_path / "a.txt", output=tmp_path / "o.jsonl"), QUIET)
    line = json.loads((tmp_path / "o.jsonl").read_text(encoding="utf-8").splitlines()[1])
    np.testing.assert_allclose(line["vector"], predict("m l").vector, atol=1e-6)
    with pytest.raises(InputError, match="gives vectors, which no labels can be compared with"):
        evaluate(EvaluateSettings(model=tmp_path / "out", input=tmp_path / "a.txt"), QUIET)


def test_openvino(tuned: Path, traced: bytes, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    rows = labelled(tmp_path / "rows.csv", tuned)
    found = export(settings(tuned, tmp_path / "out", format="openvino", check=rows), QUIET)
    assert found.metric is not None
    assert (found.metric.name, found.metric.original, found.metric.export) == ("macro_f1", 1.0, 1.0)
    assert {path.name for path in (tmp_path / "out").glob("model.*")} == {"model.xml", "model.bin"}
    predict = bertsmith.load(tmp_path / "out")
    assert predict.backend == "openvino"
    inputs = some_inputs("classify")
    for one, other in zip(predict(inputs), bertsmith.load(tuned, backend="torch")(inputs), strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-5)
    with pytest.raises(InputError, match="no graph here that onnxruntime reads"):
        bertsmith.load(tmp_path / "out", backend="onnx")
    scores = evaluate(EvaluateSettings(model=tmp_path / "out", input=rows), QUIET)
    assert scores.metrics["accuracy"] == 1.0


@pytest.mark.parametrize("way", ["blocks", "scales"])
def test_integers(way: str, tuned: Path, traced: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = labelled(tmp_path / "rows.csv", tuned)
    monkeypatch.setattr(stage, "speeds_of", speeds)
    changes = {"calibrate": rows} if way == "scales" else {}
    found = export(settings(tuned, tmp_path / "out", int8=True, check=rows, tolerance=30, **changes), QUIET)
    assert found.difference.largest > 0
    assert json.loads((tmp_path / "out" / "export.json").read_text(encoding="utf-8"))["int8"] == way
    predict, exact = bertsmith.load(tmp_path / "out", backend="onnx"), bertsmith.load(tuned, backend="torch")
    texts = some_texts(60, seed=9)
    together = predict(texts)
    assert np.mean([a.label == b.label for a, b in zip(together, exact(texts), strict=True)]) > 0.8
    for text, expected in list(zip(texts, together, strict=True))[::7]:
        assert predict(text).scores == pytest.approx(expected.scores, abs=1e-5)


def speeds(models: dict[str, GraphModel], _: object) -> dict[str, Speed]:
    return {name: Speed(FASTER.get(name.split()[-1], 0.5), 1.0) for name in models}


def test_integers_that_cost_too_much_or_bring_nothing(
    tuned: Path, traced: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = labelled(tmp_path / "rows.csv", tuned)
    wanted = settings(tuned, tmp_path / "out", int8=True, check=rows, tolerance=0)
    monkeypatch.setattr(stage, "speeds_of", lambda models, _: dict.fromkeys(models, Speed(1.0, 1.0)))
    monkeypatch.setattr(checking.Metric, "lost", property(lambda _: 0.75))
    with pytest.raises(InputError, match=r"macro F1 falls by 0\.75 points, more than --tolerance 0: it was not"):
        export(wanted, QUIET)
    with pytest.raises(InputError, match=r"not faster on this machine \(1 tokens/s, 1 in float32\)"):
        export(wanted.model_copy(update={"tolerance": 1}), QUIET)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.csv"]
    export(wanted.model_copy(update={"force": True}), QUIET)
    assert (tmp_path / "out" / "model.onnx").is_file()


def test_a_graph_that_computes_something_else(traced: bytes, tmp_path: Path) -> None:
    other = save(tmp_path / "other", "classify", hidden_act="relu")
    with pytest.raises(InputError, match="which is no rounding: it was not written"):
        export(settings(other, tmp_path / "out"), QUIET)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"int8": True}, "--int8 needs labelled rows to see what it costs: --check FILE"),
        ({"int8": True, "format": "openvino"}, "--int8 for openvino needs rows to find scales with: --calibrate FILE"),
        ({"calibrate": "x.csv"}, "--calibrate finds scales for --int8, which is not given"),
        ({"format": "sentence-transformers", "int8": True}, "--int8 is for graphs"),
        ({"pooling": "cls"}, "--pooling is for vectors; this model was tuned for a task"),
        ({"check": "nowhere.csv"}, r"nowhere\.csv"),
        ({"vectors": True, "max_length": 99}, "max_length 99: expected 3 to 41"),
    ],
)
def test_what_is_refused(changes: dict[str, object], message: str, tuned: Path, tmp_path: Path) -> None:
    if changes.get("format") == "openvino":
        pytest.importorskip("openvino")
    with pytest.raises(InputError, match=message):
        export(settings(tuned, tmp_path / "out", **changes), QUIET)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({}, r"written\. --force takes it"),
        ({"calibrate": "x.csv"}, r"written\. Without --calibrate it is more exact; --force takes it"),
        ({"calibrate": "x.csv", "format": "openvino"}, r"written\. --force takes it"),
    ],
)
def test_what_is_advised_where_integers_cost_too_much(changes: dict[str, object], advice: str, tmp_path: Path) -> None:
    wanted = settings(tmp_path, tmp_path / "out", int8=True, **changes)
    found = ExportResult(tmp_path, Difference(1.0, None, 0.9, None), Metric("f1", 0.8, 0.7), {})
    with pytest.raises(InputError, match=advice) as caught:
        stage._judge(wanted, found, "int8")
    assert translated(caught.value.message, "ko").endswith("--force를 주세요")


def test_outputs_that_are_refused(tuned: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_text("precious")
    for output, message in (
        (tmp_path, "holds other files"),
        (tmp_path / "thesis.doc", "is a file"),
        (tuned / "onnx", "holds an export; choose another output, or give --overwrite"),
    ):
        with pytest.raises(InputError, match=message):
            export(settings(tuned, output), QUIET)
    with pytest.raises(InputError, match="no such directory"):
        export(settings(tmp_path / "nowhere", tmp_path / "out"), QUIET)
    with pytest.raises(InputError, match="is an export already"):
        export(settings(tuned / "onnx", tmp_path / "out"), QUIET)
    assert (tmp_path / "thesis.doc").read_text() == "precious"


def test_the_comparison_in_korean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTSMITH_LANG", "ko")
    speeds = {"torch": Speed(1000.0, 2.5), "onnx float32": Speed(2000.0, 1.5)}
    found = ExportResult(Path("out"), Difference(0.003, 0.002, 0.99, None), Metric("macro_f1", 0.8, 0.79), speeds)
    material = Material(None, SimpleNamespace(lengths=[3, 4, 5]), "texts of Bertsmith's own", True)  # type: ignore[arg-type]
    lines = stage._table(found, material, "onnx float32").split("\n")
    assert lines[:3] == [
        "시퀀스 3개로 비교: 내장 텍스트",
        "  가장 큰 차이        출력 3.00e-03, 확률 2.00e-03",
        "  같은 답             99.00%",
    ]
    assert lines[3].split() == ["토큰/초", "한", "행,", "ms", "매크로", "F1"]
    assert lines[5].split() == ["onnx", "float32", "2", "k", "1.50", "0.7900"]
    # Headings end where their figures do, in columns of a terminal.
    assert columns_of(lines[3]) == columns_of(lines[4]) == columns_of(lines[5])


def test_packages_that_are_missing(tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertsmith.exporting.onnx_graph.find_spec", lambda name: None if name == "onnx" else name)
    with pytest.raises(InputError, match=r"onnx not installed; install with: pip install 'bertsmith\[export\]'"):
        export(settings(tuned, tmp_path / "out"), QUIET)
    monkeypatch.setattr("bertsmith.serving.graphs.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"onnxruntime is not installed.*pip install 'bertsmith\[export\]'"):
        bertsmith.load(tuned / "onnx")


def test_damage_is_found(tuned: Path, tmp_path: Path) -> None:
    shutil.copytree(tuned / "onnx", tmp_path / "out")
    path = tmp_path / "out" / "model.onnx"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"model\.onnx: does not match its checksum"):
        bertsmith.load(tmp_path / "out")
    (tmp_path / "out" / "checksums.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=r"model\.onnx: onnxruntime cannot read this graph"):
        bertsmith.load(tmp_path / "out", backend="onnx")


def test_a_directory_for_sentence_transformers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    library = pytest.importorskip("sentence_transformers")
    model = save(tmp_path / "model", "vectors")
    found = export(settings(model, tmp_path / "out", format="sentence-transformers", normalize=True), Log())
    assert found.difference.largest < 1e-5
    assert "SentenceTransformer" in capsys.readouterr().err
    texts = some_inputs("vectors")
    theirs = library.SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(texts)
    ours = Encoder.load(model, normalize=True).encode(texts)
    assert (theirs * ours).sum(1).min() > 0.99999
    assert np.abs(ours[0] - ours[1]).max() > 0.01
    assert Encoder.load(tmp_path / "out").recipe == Encoder.load(model, normalize=True).recipe


def test_left_to_right_the_last_token_goes_to_sentence_transformers(tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    model = save(tmp_path / "model", "vectors", is_decoder=True)
    export(settings(model, tmp_path / "out", format="sentence-transformers", pooling="cls"), Log(quiet=True))
    texts = some_inputs("vectors")
    theirs = library.SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(texts)
    ours = Encoder.load(model, pooling="cls").encode(texts)
    np.testing.assert_allclose(theirs, ours, atol=1e-4)
    assert np.abs(ours[0] - ours[1]).max() > 0.01
