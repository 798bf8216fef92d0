"""Fine-tuning and prediction from end to end, on a task that can be learned from a few rows."""

from __future__ import annotations

import io
import itertools
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bertsmith
from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.model.weights import load_encoder, load_pretraining_model, save_model
from bertsmith.serving.predictor import predict_file
from bertsmith.task_config import ClassifySettings, PredictSettings
from bertsmith.text.store import TokenStore
from bertsmith.text.tokenizer import Tokenizer
from bertsmith.training import loop, tuning
from bertsmith.training.checkpoint import MetricsLog, read_metrics
from bertsmith.training.finetune import finetune
from bertsmith.training.pretrain import pretrain
from bertsmith.training.report import finetuning_sections
from tests.conftest import OBJECTS, SUBJECTS, tiny_run

QUIET = Log(quiet=True)


def write_rows(path: Path, count: int, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    lines = ["text,label"]
    for n in range(count):
        label = ("고양이", "dog")[n % 2]
        subject = "우리 고양이는" if label == "고양이" else "a dog"
        lines.append(f"{rng.choice(SUBJECTS[2:5])} sees {subject} {rng.choice(OBJECTS)},{label}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def settings(run: Path, directory: Path, **changes: object) -> ClassifySettings:
    values = {
        "model": run,
        "train": write_rows(directory / "train.csv", 48, 1),
        "dev": write_rows(directory / "dev.csv", 21, 2),
        "output": directory / "tuned",
        "epochs": 12,
        "batch_size": 9,
        "learning_rate": 5e-3,
        "seed": 2,
        "max_length": 30,
        "precision": "float32",
        "threads": 1,
    }
    return ClassifySettings.parse(values | changes)


@pytest.fixture(scope="module")
def tuned(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tuned")
    result = finetune(settings(run, directory, seeds=2), QUIET)
    assert result.scores.metrics["accuracy"] == 1.0
    return directory / "tuned"


def test_what_a_tuned_model_leaves(tuned: Path) -> None:
    scores = json.loads((tuned / "scores.json").read_text(encoding="utf-8"))
    assert scores["labels"] == ["dog", "고양이"]
    assert len(scores["seeds"]) == 2
    values = [s["accuracy"] for s in scores["seeds"]]
    assert scores["mean"]["accuracy"] == pytest.approx(np.mean(values))
    assert scores["deviation"]["accuracy"] == pytest.approx(np.std(values, ddof=1))
    always = dict(scores["tables"][1]["rows"][1:])
    assert next(iter(always.values())) in (pytest.approx(10 / 21), pytest.approx(11 / 21))
    page = (tuned / "report.html").read_text(encoding="utf-8")
    assert "고양이" in page
    assert "Confusion matrix" in page
    assert next(s.title for s in finetuning_sections(tuned)) == "What came out"


def test_the_same_seed_gives_the_same_model(run: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for name in "ab":
        finetune(settings(run, tmp_path / name, epochs=1), QUIET)
    first, second = (tmp_path / name / "tuned" / "model" / "model.safetensors" for name in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_from_scratch_starts_elsewhere(run: Path, tmp_path: Path) -> None:
    finetune(settings(run, tmp_path, epochs=0.5, from_scratch=True), QUIET)
    scratch = bertsmith.Bert.load(tmp_path / "tuned").embeddings.token.weight
    start = bertsmith.Bert.load(run).embeddings.token.weight
    assert (scratch - start).abs().mean() > 0.01


def test_predictions_do_not_depend_on_company(tuned: Path) -> None:
    predict = bertsmith.load(tuned, long_texts="cut")
    texts = ["a dog", "나는 우리 고양이는 밥을 먹었다", "my sister sees a dog the river " * 5, "the cat"]
    together = predict(texts)
    for text, prediction in zip(texts, together, strict=True):
        alone = predict(text)
        assert (alone.label, alone.text) == (prediction.label, text)
        assert alone.scores == pytest.approx(prediction.scores, abs=1e-5)
        assert sum(alone.scores.values()) == pytest.approx(1.0, abs=1e-5)
    assert together[0].label == "dog"
    assert together[1].label == "고양이"
    assert together[2].truncated > 0
    assert [p.label for p in predict.stream(iter(texts))] == [p.label for p in together]


def test_predicting_files_and_standard_input(tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows(tmp_path / "new.csv", 7, 5)
    summary = predict_file(PredictSettings(model=tuned, input=tmp_path / "new.csv", output=tmp_path / "o.jsonl"), QUIET)
    assert summary.rows == 7
    lines = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["label"] for line in lines] == ["고양이", "dog"] * 3 + ["고양이"]

    class Stdin:
        buffer = io.BytesIO("a dog\r\n우리 고양이는 집에 갔다\n".encode())

    monkeypatch.setattr("sys.stdin", Stdin)
    predict_file(PredictSettings(model=tuned, input=Path("-"), output=tmp_path / "p.jsonl"), QUIET)
    assert len((tmp_path / "p.jsonl").read_text(encoding="utf-8").splitlines()) == 2


def test_an_error_in_the_middle_leaves_the_old_output(tuned: Path, tmp_path: Path) -> None:
    (tmp_path / "new.txt").write_text("a dog\n\nthe cat\n", encoding="utf-8")
    (tmp_path / "o.jsonl").write_text("old", encoding="utf-8")
    with pytest.raises(InputError, match=r"new\.txt:2: the text is empty"):
        predict_file(PredictSettings(model=tuned, input=tmp_path / "new.txt", output=tmp_path / "o.jsonl"), QUIET)
    assert (tmp_path / "o.jsonl").read_text(encoding="utf-8") == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new.txt", "o.jsonl"]


def test_a_pretraining_run_does_not_predict(run: Path) -> None:
    with pytest.raises(InputError, match="bertsmith finetune classify"):
        bertsmith.load(run)


def interrupt_at(patch: pytest.MonkeyPatch, step: int) -> None:
    """Send Ctrl-C at the n-th step that is made from now on."""
    entry, steps = tuning.metrics_entry, itertools.count(1)

    def count(report: object, progress: object) -> object:
        if next(steps) == step:
            signal.raise_signal(signal.SIGINT)
        return entry(report, progress)

    patch.setattr(tuning, "metrics_entry", count)


def test_a_stopped_run_goes_on_with_the_same_result(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def changed(name: str, **changes: object) -> ClassifySettings:
        (tmp_path / name).mkdir(exist_ok=True)
        return settings(run, tmp_path / name, epochs=3, seeds=2, metric="accuracy", **changes)

    finetune(changed("whole"), QUIET)
    # In the first seed's second epoch, at the end of an epoch, and early in the second seed.
    for stop_at in (8, 12, 19):
        name = f"stopped-{stop_at}"
        with monkeypatch.context() as patch:
            interrupt_at(patch, stop_at)
            with pytest.raises(KeyboardInterrupt):
                finetune(changed(name), Log())
        assert "--resume" in capsys.readouterr().err
        with pytest.raises(InputError, match=r"holds a run that was stopped; go on with: .*--resume"):
            finetune(changed(name), QUIET)
        with pytest.raises(InputError, match=r"learning_rate was 0\.005, now 0\.1"):
            finetune(changed(name, resume=True, learning_rate=0.1), QUIET)
        finetune(changed(name, resume=True), QUIET)
        both = [tmp_path / n / "tuned" for n in ("whole", name)]
        for file in ("model/model.safetensors", "scores.json"):
            assert (both[0] / file).read_bytes() == (both[1] / file).read_bytes(), file
        logs = [[(e["seed"], e["step"], e["kind"]) for e in read_metrics(d / "metrics.jsonl")] for d in both]
        assert logs[0] == logs[1]
        assert not (both[1] / "checkpoints").exists()


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def changed(name: str, **changes: object) -> ClassifySettings:
        (tmp_path / name).mkdir(exist_ok=True)
        return settings(run, tmp_path / name, epochs=3, metric="accuracy", **changes)

    finetune(changed("whole"), QUIET)
    done: list[str] = []
    sync, save = MetricsLog.sync, tuning.save_checkpoint
    with monkeypatch.context() as patch:
        interrupt_at(patch, 8)
        patch.setattr(MetricsLog, "sync", lambda log: done.append("metrics") or sync(log))
        patch.setattr(tuning, "save_checkpoint", lambda *arguments: done.append("checkpoint") or save(*arguments))
        with pytest.raises(KeyboardInterrupt):
            finetune(changed("stopped"), QUIET)
    # The entries of its steps are on the disk before a checkpoint is.
    assert done == ["metrics", "checkpoint"] * 2
    tuned = tmp_path / "stopped" / "tuned"
    assert [path.name for path in sorted((tuned / "checkpoints").iterdir())] == ["step-00000006", "step-00000008"]
    file = tuned / "checkpoints" / "step-00000008" / "epoch.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    log = tuned / "metrics.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
    log.write_text("".join(lines[:2]), encoding="utf-8")
    capsys.readouterr()
    finetune(changed("stopped", resume=True), Log())
    said = " ".join(capsys.readouterr().err.split())
    assert "epoch.safetensors: does not match its checksum" in said
    assert "looking for an earlier checkpoint" in said
    assert "metrics.jsonl lacks 4 of the 6 steps before the checkpoint" in said
    for name in ("model/model.safetensors", "scores.json"):
        assert (tuned / name).read_bytes() == (tmp_path / "whole" / "tuned" / name).read_bytes(), name


def test_the_learning_rate_follows_the_width_where_it_is_not_given(run: Path, tmp_path: Path) -> None:
    finetune(settings(run, tmp_path, learning_rate=None, warmup=0.0, epochs=1), QUIET)
    scores = json.loads((tmp_path / "tuned" / "scores.json").read_text(encoding="utf-8"))
    assert scores["chosen"]["learning_rate"] == 3e-4
    assert read_metrics(tmp_path / "tuned" / "metrics.jsonl")[0]["learning_rate"] == 3e-4


def test_a_search_chooses_settings_and_goes_on_after_a_stop(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")

    def searching(name: str, **changes: object) -> ClassifySettings:
        (tmp_path / name).mkdir(exist_ok=True)
        return settings(run, tmp_path / name, search=5, min_steps=1, metric="accuracy", learning_rate=None, **changes)

    result = finetune(searching("whole"), QUIET)
    scores = json.loads((tmp_path / "whole" / "tuned" / "scores.json").read_text(encoding="utf-8"))
    assert len(scores["trials"]) == 5
    assert scores["trials"][0]["settings"] == {"learning_rate": 3e-4, "epochs": 3, "batch_size": 32, "warmup": 0.1}
    assert scores["trials"][1]["settings"]["learning_rate"] in (1.8e-4, 1.2e-4)
    best = max((t for t in scores["trials"] if t["value"] is not None), key=lambda t: t["value"])
    assert scores["chosen"] == best["settings"]
    assert result.scores.metrics["accuracy"] == best["value"]
    assert "Search" in (tmp_path / "whole" / "tuned" / "report.html").read_text(encoding="utf-8")

    # In the first trial, when no table of trials stands there yet, and in a later one.
    for stop_at in (3, 25):
        name = f"stopped-{stop_at}"
        with monkeypatch.context() as patch:
            interrupt_at(patch, stop_at)
            with pytest.raises(KeyboardInterrupt):
                finetune(searching(name), Log())
        assert "the trials so far are kept" in capsys.readouterr().err
        with pytest.raises(InputError, match="holds a search that was stopped"):
            finetune(searching(name), QUIET)
        finetune(searching(name, resume=True), QUIET)
        again = json.loads((tmp_path / name / "tuned" / "scores.json").read_text(encoding="utf-8"))
        assert again["trials"] == scores["trials"]
        assert again["mean"] == scores["mean"]


@pytest.mark.parametrize("bad_steps", [10, 10_000])
def test_a_trial_whose_numbers_go_bad_does_not_end_a_search(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad_steps: int
) -> None:
    pytest.importorskip("optuna")
    real, calls = loop.apply_gradients, []

    def bad(model: torch.nn.Module, *arguments: Any) -> float:
        calls.append(model)
        if len(calls) <= bad_steps:
            next(p for p in model.parameters() if p.grad is not None).grad[:] = torch.nan
        return real(model, *arguments)

    monkeypatch.setattr(loop, "apply_gradients", bad)
    searching = settings(run, tmp_path, epochs=None, min_steps=40, search=2)
    if bad_steps > 10:
        with pytest.raises(InputError, match="no trial of the search came to its end"):
            finetune(searching, QUIET)
        return
    finetune(searching, QUIET)
    scores = json.loads((tmp_path / "tuned" / "scores.json").read_text(encoding="utf-8"))
    assert [trial["value"] is None for trial in scores["trials"]] == [True, False]
    assert scores["chosen"] == scores["trials"][1]["settings"]


def test_patience_ends_early(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finetune(settings(run, tmp_path, epochs=9, patience=2, learning_rate=1e-12), Log())
    assert "no better for 2 evaluations, stopped early" in capsys.readouterr().err
    entries = read_metrics(tmp_path / "tuned" / "metrics.jsonl")
    assert [e["epoch"] for e in entries if e["kind"] == "eval"] == [1, 2, 3]


def test_repeated_rows_are_warned_about(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = settings(run, tmp_path, epochs=0.2)
    finetune(chosen.model_copy(update={"dev": chosen.train}), Log())
    assert "every dev row stands among the training rows" in capsys.readouterr().err
    data = json.loads((tmp_path / "tuned" / "scores.json").read_text(encoding="utf-8"))["data"]
    assert data["shared"] == data["dev"]["rows"] == 48


def test_refusals(run: Path, tuned: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="above the model's 48 positions"):
        finetune(settings(run, tmp_path, max_length=49), QUIET)
    with pytest.raises(InputError, match="already"):
        finetune(settings(run, tmp_path, output=tuned), QUIET)
    (tmp_path / "dev.csv").write_text("text,label\na dog,bird\n", encoding="utf-8")
    broken = settings(run, tmp_path).model_copy(update={"dev": tmp_path / "other.csv", "output": tmp_path / "new"})
    (tmp_path / "other.csv").write_text("text,label\na dog,bird\n", encoding="utf-8")
    with pytest.raises(InputError, match="label 'bird'"):
        finetune(broken, QUIET)
    assert not (tmp_path / "new").exists()


def test_the_directory_of_another_stage_is_left_as_it_was(store: TokenStore, tmp_path: Path) -> None:
    pretraining = tiny_run(store, tmp_path / "pretraining", steps=9)
    pretrain(pretraining, QUIET)
    before = sorted(str(p) for p in pretraining.output.rglob("*"))
    tuning_there = settings(pretraining.output, tmp_path, output=pretraining.output)
    with pytest.raises(InputError, match=r"holds what another command wrote \(its config.yaml sets '"):
        finetune(tuning_there, QUIET)
    with pytest.raises(InputError, match="another command"):
        finetune(tuning_there.model_copy(update={"resume": True}), QUIET)
    assert sorted(str(p) for p in pretraining.output.rglob("*")) == before


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_a_folder_of_somebody_else_is_left_as_it_was(run: Path, store: TokenStore, tmp_path: Path, stage: str) -> None:
    theirs = tmp_path / "theirs"
    (theirs / ".backup.20240101").mkdir(parents=True)
    for name in ("README", ".env.template", ".backup.20240101/precious"):
        (theirs / name).write_text("mine", encoding="utf-8")
    before = sorted(str(p) for p in theirs.rglob("*"))
    tuning_there, pretraining_there = settings(run, tmp_path, output=theirs), tiny_run(store, theirs)
    with pytest.raises(InputError, match=r"holds other files \(.backup.20240101, .env.template, README\)"):
        pretrain(pretraining_there, QUIET) if stage == "pretrain" else finetune(tuning_there, QUIET)
    assert sorted(str(p) for p in theirs.rglob("*")) == before


@pytest.mark.parametrize("changed", ["train.csv", "dev.csv", "model"])
def test_what_a_stopped_run_reads_must_not_change(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(run / "model", model)
    chosen = settings(model, tmp_path, precision="auto")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            finetune(chosen, QUIET)
    if changed == "model":
        shutil.rmtree(model)
        pretrained = load_pretraining_model(run / "model")
        with torch.no_grad():
            pretrained.bert.pooler.bias.add_(0.5)
        save_model(pretrained, model, Tokenizer.load(run / "model"))
    else:
        path = tmp_path / changed
        path.write_text(path.read_text(encoding="utf-8").replace("우리", "너희"), encoding="utf-8")
    with pytest.raises(InputError, match="has changed since"):
        finetune(chosen.model_copy(update={"resume": True}), QUIET)


def test_a_run_keeps_to_what_it_has_chosen(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finetune(settings(run, tmp_path, precision="bfloat16", output=tmp_path / "whole"), QUIET)
    chosen = settings(run, tmp_path, precision="auto", learning_rate=None)
    with monkeypatch.context() as patch:
        patch.setattr("bertsmith.training.finetune.pick_precision", lambda *arguments: torch.bfloat16)
        patch.setattr("bertsmith.training.finetune.tuning_rates", lambda hidden_size: (hidden_size * 5e-3 / 20, 0, 0))
        interrupt_at(patch, 4)
        with pytest.raises(KeyboardInterrupt):
            finetune(chosen, QUIET)
    monkeypatch.setattr(
        "bertsmith.training.finetune.pick_precision",
        lambda name, *others: torch.float32 if name == "auto" else getattr(torch, name),
    )
    finetune(chosen.model_copy(update={"resume": True}), QUIET)
    written = ClassifySettings.from_yaml(tmp_path / "tuned" / "config.yaml")
    assert (written.precision, written.learning_rate) == ("bfloat16", 5e-3)
    both = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("tuned", "whole")]
    assert both[0] == both[1]


def test_cut_texts_and_a_collapse_are_said(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finetune(settings(run, tmp_path, epochs=1, learning_rate=1e-9, max_length=6), Log())
    said = capsys.readouterr().err
    assert "training rows: 48 of 48 texts are longer than 6 tokens" in said
    assert "collapsed" in said


def test_few_rows_get_at_least_min_steps_and_a_search_stretches_its_epochs(run: Path, tmp_path: Path) -> None:
    finetune(settings(run, tmp_path, epochs=None, min_steps=100, output=tmp_path / "plain"), QUIET)
    scores = json.loads((tmp_path / "plain" / "scores.json").read_text(encoding="utf-8"))
    # 48 rows in batches of 9 are 6 steps: 17 epochs are the first with 100, and every second of them is evaluated.
    entries = read_metrics(tmp_path / "plain" / "metrics.jsonl")
    assert scores["chosen"]["epochs"] == 17
    assert max(e["step"] for e in entries) == 102
    assert [e["epoch"] for e in entries if e["kind"] == "eval"] == [2, 4, 6, 8, 10, 12, 14, 16, 17]

    pytest.importorskip("optuna")
    finetune(settings(run, tmp_path, epochs=None, min_steps=40, search=1, output=tmp_path / "search"), QUIET)
    scores = json.loads((tmp_path / "search" / "scores.json").read_text(encoding="utf-8"))
    # The first trial is 3 epochs in batches of 32, which are 2 steps an epoch: 20 epochs have 40.
    assert scores["trials"][0]["settings"]["epochs"] == 20 == scores["chosen"]["epochs"]


def test_enough_rows_get_three_epochs(run: Path, tmp_path: Path) -> None:
    finetune(settings(run, tmp_path, epochs=None, min_steps=18), QUIET)
    scores = json.loads((tmp_path / "tuned" / "scores.json").read_text(encoding="utf-8"))
    assert scores["chosen"]["epochs"] == 3


def test_numbers_as_labels_stay_names_and_a_very_long_text_is_cut(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{text},{label}" for text, label in (("a dog", "10"), ("my sister", "2"), ("나는 집에", "01"))] * 3
    (tmp_path / "n.csv").write_text("\n".join(["text,label", *rows, f"{'a dog ' * 17_000},2"]) + "\n", "utf-8")
    changes = {"train": tmp_path / "n.csv", "dev": tmp_path / "n.csv", "epochs": 0.1}
    finetune(settings(run, tmp_path, **changes), Log())
    said = capsys.readouterr().err
    assert "1 of 10 texts are longer than 30 tokens" in said
    assert "every dev row stands among the training rows" in said
    predictor = bertsmith.load(tmp_path / "tuned", long_texts="cut")
    assert set(predictor("a dog").scores) == {"10", "2", "01"}
    assert predictor("a dog " * 17_000).truncated > 10_000


def test_with_an_lstm_on_top(run: Path, tmp_path: Path) -> None:
    result = finetune(settings(run, tmp_path, bilstm=True, epochs=8), QUIET)
    assert result.scores.metrics["accuracy"] == 1.0
    config = json.loads((tmp_path / "tuned" / "model" / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "bertsmith_bilstm", "transformers must not read it as a BERT"
    predictor = bertsmith.load(tmp_path / "tuned")
    rows = [line.split(",") for line in (tmp_path / "dev.csv").read_text(encoding="utf-8").splitlines()[1:]]
    assert [p.label for p in predictor([text for text, _ in rows])] == [label for _, label in rows]
    # From such a model the LSTM's weights are taken over too: nothing is left to learn.
    again = settings(tmp_path / "tuned", tmp_path, output=tmp_path / "again", epochs=1, learning_rate=1e-9)
    finetune(again, QUIET)
    before, after = (load_encoder(tmp_path / name).state_dict() for name in ("tuned", "again"))
    name = "bilstm.weight_hh_l0_reverse"
    assert torch.allclose(before[name], after[name], atol=1e-6)
