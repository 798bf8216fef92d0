"""The benchmark of encoding works, and its engines do equal work."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.features.small import save, some_texts

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return importlib.import_module("encoding")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("benchmark") / "model")


def test_engines_give_the_same_vectors(benchmark: ModuleType, model: Path) -> None:
    setup = benchmark.Setup(model, max_length=25, batch_size=7, threads=1)
    names = benchmark.available(["bertsmith", "transformers", "sentence-transformers"])
    engines = {name: benchmark.ENGINES[name](setup) for name in names}
    texts = some_texts(40)
    results = benchmark.measure(benchmark.Job("some", texts, 2), engines)
    assert [result.engine for result in results] == names
    assert all(len(result.seconds) == len(result.cpu_seconds) == 2 for result in results)
    assert min(result.least_cosine for result in results) > 0.99999
    for encode in engines.values():
        np.testing.assert_allclose(np.linalg.norm(encode(texts), axis=1), 1, atol=1e-5)


def test_the_command(benchmark: ModuleType, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "en_a.txt").write_text("\n\n".join(f"{text}." for text in some_texts(90)), encoding="utf-8")
    (tmp_path / "raw" / "ko_b.txt").write_text("not English", encoding="utf-8")
    output = tmp_path / "out.json"
    engines = ["--engines", "bertsmith", "transformers", "--model", str(model), "--max-length", "30"]
    sizes = ["--texts", "31", "--rounds", "1", "--calls", "3", "--threads", "1"]
    benchmark.main(["--data", str(tmp_path), *engines, *sizes, "--json", str(output)])
    shown = capsys.readouterr().out
    assert "time/bertsmith" in shown
    values = json.loads(output.read_text(encoding="utf-8"))
    assert [(r["job"], r["engine"]) for r in values["results"]] == [
        (job, engine) for job in ("sentences", "lines") for engine in ("bertsmith", "transformers")
    ]
    assert {latency["calls"] for latency in values["latency"]} == {3}
    assert values["machine"]["threads"] == 1
    assert "torch" in values["machine"]["versions"]
    with pytest.raises(SystemExit, match="is not there"):
        benchmark.main(["--data", str(tmp_path / "nowhere")])
