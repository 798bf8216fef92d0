"""The quickstart on this machine's own prose, shortened to seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bertsmith.errors import InputError
from bertsmith.quickstart import corpus, run
from bertsmith.quickstart.run import run_quickstart


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three packages, few rows, one epoch: the same way through all six steps."""
    monkeypatch.setattr(corpus, "PACKAGES", ("sklearn", "rich"))
    monkeypatch.setattr(corpus, "LABELS", ("sklearn", "stdlib"))
    monkeypatch.setattr(corpus, "_PACKAGE_CHARACTERS", 60_000)
    monkeypatch.setattr(corpus, "_TRAIN_ROWS", 40)
    settings = run.ClassifySettings
    monkeypatch.setattr(run, "ClassifySettings", lambda **typed: settings(**{**typed, "epochs": 1}))


@pytest.mark.usefixtures("small")
def test_from_nothing_to_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = run_quickstart(tmp_path / "qs", budget="5s")
    said = capsys.readouterr().err
    html = page.read_text(encoding="utf-8")
    scores = json.loads((tmp_path / "qs" / "tuned" / "scores.json").read_text())["mean"]
    for name in ("most frequent label", "TF-IDF + logistic regression", "this BERT, fine-tuned"):
        assert name in said
        assert name in html
    assert f"accuracy {scores['accuracy']:.1%}" in said
    assert all(text.replace("[MASK]", "").split(" ")[0] in html for text in run.BLANKS)
    assert "<svg" in html
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert "https://" not in html
    # A second call keeps what is there.
    weights = (tmp_path / "qs" / "run" / "model" / "model.safetensors").stat().st_mtime_ns
    run_quickstart(tmp_path / "qs", budget="5s")
    assert (tmp_path / "qs" / "run" / "model" / "model.safetensors").stat().st_mtime_ns == weights


def test_a_directory_of_the_users_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_text("precious")
    with pytest.raises(InputError, match="holds other files"):
        run_quickstart(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.doc"]
