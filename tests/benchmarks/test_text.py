"""The benchmark compares equal work; how fast it is, is not tested."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("text")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    numbers = range(300)
    english = "\n\n".join(f"Text {n} is here. It has [SEP] in it, and {n * n}!\nA second line." for n in numbers)
    korean = "\n\n".join(f"영화 {n}번은 좋았다.ㅋㅋㅋ결국 다시 봤다…\n두 번째 줄입니다. e\u0301" for n in numbers)
    (folder / "english.txt").write_text(english + "\n\n" + english, encoding="utf-8")
    (folder / "korean.txt").write_text(korean, encoding="utf-8")
    return folder


def test_both_sides_do_the_same_work(
    benchmark: ModuleType,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    figures = tmp_path / "figures.json"
    options = ["--rounds", "1", "--vocabulary-size", "400", "--parts", "vocabulary", "prepare", "--json", str(figures)]
    monkeypatch.setattr(sys, "argv", ["text.py", "--data", str(data), *options])
    benchmark.main()
    printed = capsys.readouterr().out
    assert printed.count(" yes\n") == 4
    assert "vocabulary of 400 entries" in printed
    content = json.loads(figures.read_text(encoding="utf-8"))
    assert content["configuration"]["processes"] == [1, 2]
    assert content["machine"]["cpus"] >= 1
    assert len(content["learning"]["ours"]) == len(content["learning"]["theirs"]) == 1
    assert [(t["text"], t["processes"]) for t in content["tokenising"]] == [
        ("english", 1),
        ("english", 2),
        ("korean", 1),
        ("korean", 2),
    ]
    for row in content["tokenising"]:
        (ours,), (theirs,) = row["ours"], row["theirs"]
        for name in ("characters", "tokens", "digest"):
            assert ours[name] == theirs[name]
        assert ours["tokens"] > 3000
        assert min(ours["seconds"], theirs["seconds"], ours["cpu_seconds"], theirs["cpu_seconds"]) > 0


def test_other_work_is_noticed(benchmark: ModuleType) -> None:
    passes = [importlib.import_module("text_pass").Pass(1.0, 2.0, 10, 5, digest) for digest in "ab"]
    row = benchmark.Tokenising("text", 1.0, 1, (passes[0],), (passes[1],))
    assert not row.same_work
    assert row.ratio("seconds") == 1
    assert benchmark.Tokenising("text", 1.0, 1, (passes[0],), (passes[0],)).same_work


def test_first_steps(benchmark: ModuleType, data: Path, tmp_path: Path) -> None:
    (text, _) = benchmark.collect_texts(data, 1, tmp_path)
    startup = benchmark.start_up(text, "tiny", 1, tmp_path, helps=2)
    assert (len(startup.help), len(startup.first_step), len(startup.resume)) == (2, 1, 1)
    assert "first step of a tiny model" in benchmark.describe_startup(startup, "tiny")


def test_without_data_the_installation_is_the_text(benchmark: ModuleType, tmp_path: Path) -> None:
    (text,) = benchmark.collect_texts(tmp_path / "missing", 0.01, tmp_path)
    assert text.name == "installation"
    assert 0.01 <= text.megabytes < 0.2
    content = text.path.read_text(encoding="utf-8")
    assert "".join(content.split()) == "".join(text.sentences.read_text(encoding="utf-8").split())
