"""Scores of a tuned model on other rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.serving.evaluating import evaluate
from bertsmith.task_config import ClassifySettings, EvaluateSettings
from bertsmith.training.finetune import finetune

QUIET = Log(quiet=True)


def rows(path: Path, columns: str = "text,label") -> Path:
    lines = [f"{subject} {n},{label}" for n in range(9) for subject, label in (("the cat", "a"), ("a dog", "b"))]
    path.write_text("\n".join([columns, *lines]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tuned(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("evaluating")
    settings = ClassifySettings(
        model=run,
        train=rows(directory / "train.csv"),
        dev=rows(directory / "dev.csv"),
        output=directory / "tuned",
        epochs=2,
        learning_rate=1e-3,
        max_length=20,
        threads=1,
        precision="float32",
    )
    finetune(settings, QUIET)
    return settings.output


def test_the_dev_rows_get_their_score_again(tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = json.loads((tuned / "scores.json").read_text(encoding="utf-8"))
    output = tmp_path / "scores"
    scores = evaluate(EvaluateSettings(model=tuned, input=tuned.parent / "dev.csv", output=output), QUIET)
    assert scores.metrics == before["metrics"] == before["mean"]
    assert f"accuracy {scores.metrics['accuracy']:.3f}" in capsys.readouterr().out
    written = json.loads((output / "scores.json").read_text(encoding="utf-8"))
    assert written["confusion"] == before["confusion"]
    assert "Confusion matrix" in (output / "report.html").read_text(encoding="utf-8")
    evaluate(EvaluateSettings(model=tuned, input=tuned.parent / "dev.csv", output=output), QUIET)


def test_other_columns(tuned: Path, tmp_path: Path) -> None:
    path = rows(tmp_path / "other.csv", "document,stars")
    settings = EvaluateSettings(model=tuned, input=path, columns="text=document, label=stars")
    assert 0 <= evaluate(settings, QUIET).metrics["accuracy"] <= 1
    with pytest.raises(InputError, match="no column 'text'"):
        evaluate(settings.model_copy(update={"columns": None}), QUIET)


def test_a_label_that_the_model_does_not_know(tuned: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nthe cat,a\nthe cat,c\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.csv:3: label 'c' is not among"):
        evaluate(EvaluateSettings(model=tuned, input=tmp_path / "a.csv"), QUIET)


def test_outputs_that_are_refused(tuned: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_text("precious")
    for output, message in (
        (tmp_path, "holds other files"),
        (tmp_path / "thesis.doc", "is a file"),
        (tuned, "is a fine"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate(EvaluateSettings(model=tuned, input=tuned.parent / "dev.csv", output=output), QUIET)
    assert (tmp_path / "thesis.doc").read_text() == "precious"
