"""A comparison from end to end on tiny rows."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bertsmith.compare_config import CompareClassifySettings, CompareTagSettings
from bertsmith.comparison import compare as module
from bertsmith.comparison import fit as fit_module
from bertsmith.comparison.compare import WEIGHTED, compare_models
from bertsmith.comparison.contenders import CLASSIFY, TAG, suited_to
from bertsmith.comparison.measures import Interval
from bertsmith.comparison.outcome import Standing, conclusion, usual_answer
from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.features.encoder import Encoder
from bertsmith.training import loop as loop_module
from bertsmith.training.guard import TOO_MANY
from bertsmith.training.tuning import Session
from tests.conftest import OBJECTS, SUBJECTS

QUIET = Log(quiet=True)


@pytest.fixture(autouse=True)
def short_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertsmith.comparison.fit._FEWEST_STEPS", 20)


def write_rows(path: Path, count: int, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    lines = ["text,label"]
    for n in range(count):
        label = ("cat", "dog")[n % 2]
        lines.append(f"{rng.choice(SUBJECTS)} {n + 1000 * seed} sees the {label} {rng.choice(OBJECTS)},{label}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_tags(path: Path, count: int, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    sentences = []
    for n in range(count):
        words = [("the", "O"), (str(n + 1000 * seed), "O"), ("sees", "O"), ("a", "B-PET")]
        words.append(((("cat", "dog")[int(rng.integers(2))]), "I-PET"))
        sentences.append("\n".join(f"{word}\t{tag}" for word, tag in words))
    path.write_text("\n\n".join(sentences) + "\n", encoding="utf-8")
    return path


def settings(run: Path, directory: Path, **changes: Any) -> CompareClassifySettings:
    values = {
        "model": run,
        "train": write_rows(directory / "train.csv", 33, 1),
        "dev": write_rows(directory / "dev.csv", 11, 2),
        "test": write_rows(directory / "test.csv", 13, 3),
        "output": directory / "comparison",
        "models": "majority,tfidf,bag,bert-logistic,bert",
        "curves": "tfidf,bag",
        "trials": 2,
        "seeds": 2,
        "epochs": 1,
        "max_length": 30,
        "threads": 1,
    }
    return CompareClassifySettings.parse(values | changes)


def test_every_model_for_labels(run: Path, tmp_path: Path) -> None:
    whole = settings(run, tmp_path, models="all", curves="none", trials=1, seeds=1)
    standings = compare_models(whole, QUIET)
    assert [s.name for s in standings] == [c.name for c in CLASSIFY]
    by_name = {s.name: s for s in standings}
    assert by_name["tfidf"].mean == 1.0, "one word tells the label"
    assert by_name["majority"].mean < 0.5
    assert by_name["bert"].difference is None
    assert by_name["tfidf"].difference is not None
    assert by_name["bert-lstm"].parameters > by_name["bert"].parameters > by_name["bag"].parameters / 2
    report = json.loads((tmp_path / "comparison" / "report.json").read_text(encoding="utf-8"))
    assert report["test_rows"] == 13
    assert "use that" in report["conclusion"]
    page = (tmp_path / "comparison" / "report.html").read_text(encoding="utf-8")
    for words in (report["conclusion"], "Only tfidf is right", "All models"):
        assert words in page


def test_curves_seeds_and_settings(run: Path, tmp_path: Path) -> None:
    standings = {s.name: s for s in compare_models(settings(run, tmp_path), QUIET)}
    assert [len(s.scores) for s in standings.values()] == [1, 1, 2, 1, 2], "only networks draw at random"
    assert [rows for rows, _ in standings["tfidf"].curve] == [2, 4, 8, 16, 33]
    assert not standings["bert"].curve
    assert standings["majority"].setting is None
    assert standings["tfidf"].setting in (10.0, 1.0)
    fits = [json.loads(line) for line in (tmp_path / "comparison" / "fits.jsonl").read_text("utf-8").splitlines()]
    assert len(fits) == 1 + (2 + 4) + (2 + 1 + 4) + 2 + (2 + 1)
    page = (tmp_path / "comparison" / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2


def test_every_network_has_as_many_passes(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, passes = fit_module.tune, {}

    def watched(session: Session, *arguments: Any) -> bool:
        if len(session.data.train.lengths) == 33:  # not a part of the rows
            model = session.data.task.model(session.config, session.data.facts)
            name = f"{type(model).__name__} {session.encoder is None}"
            passes[name] = session.settings.epochs, session.settings.patience
        return real(session, *arguments)

    monkeypatch.setattr(fit_module, "tune", watched)
    names = "bag,lstm,cnn,bert-lstm,bert-scratch,bert"
    compare_models(
        settings(run, tmp_path, models=names, curves="none", trials=1, seeds=1, epochs=11, patience=2), QUIET
    )
    assert len(passes) == 5, "both LSTMs are one class"
    assert set(passes.values()) == {(11.0, 2)}


@pytest.mark.parametrize(("hidden_size", "first"), [(256, 3e-4), (384, 1e-4), (768, 5e-5)])
def test_narrow_encoders_are_tuned_faster(hidden_size: int, first: float) -> None:
    suited = [suited_to(contender, hidden_size) for contender in CLASSIFY]
    assert suited[-1].settings[0] == first
    assert min(suited[-1].settings) < first < max(suited[-1].settings)
    assert suited[:-1] == list(CLASSIFY[:-1])


def test_stopped_and_resumed_is_the_same(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = compare_models(settings(run, tmp_path / "whole"), QUIET)
    real, calls = module.fit, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments[1:4])
        if len(calls) == 9:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    parts = settings(run, tmp_path / "parts")
    with monkeypatch.context() as patch:
        patch.setattr(module, "fit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            compare_models(parts, QUIET)
    log = tmp_path / "parts" / "comparison" / "fits.jsonl"
    log.write_text(log.read_text(encoding="utf-8") + '{"key": ["bert", 0.1', encoding="utf-8")  # cut by a kill
    with pytest.raises(InputError, match="--resume"):
        compare_models(parts, QUIET)
    again = compare_models(parts.model_copy(update={"resume": True}), QUIET)
    for one, other in zip(whole, again, strict=True):
        assert (one.name, one.scores, one.setting, one.curve) == (other.name, other.scores, other.setting, other.curve)
        assert one.difference == other.difference


def test_every_model_for_tags_and_the_weights_of_layers(run: Path, tmp_path: Path) -> None:
    files = {name: write_tags(tmp_path / f"{name}.conll", n, n) for name, n in (("train", 31), ("dev", 9), ("test", 7))}
    values = {"model": run, "output": tmp_path / "comparison", "max_length": 30, "curves": "frequency", "threads": 1}
    tagging = CompareTagSettings.parse(files | values | {"trials": 1, "seeds": 1, "epochs": 1, "overlap": 5})
    standings = {s.name: s for s in compare_models(tagging, QUIET)}
    left_out = {"bert-lstm-sum-last-4", "bert-lstm-concat-last-4"}  # the model has two layers
    assert set(standings) == {c.name for c in TAG} - left_out
    assert standings["frequency"].mean == 1.0
    assert standings["frequency"].curve[0][1] <= 1.0
    report = json.loads((tmp_path / "comparison" / "report.json").read_text(encoding="utf-8"))
    assert report["measure"] == "f1"

    path = tmp_path / "comparison" / WEIGHTED
    shares = json.loads(path.read_text(encoding="utf-8"))["shares"]
    assert len(shares) == 3
    assert sum(shares) == pytest.approx(1)
    weighted = Encoder.load(run, layers=f"weighted:{path}", threads=1)
    every = Encoder.load(run, layers="0,1,2", threads=1).encode(["the cat sees"]).reshape(3, -1)
    assert np.allclose(weighted.encode(["the cat sees"])[0], np.array(shares) @ every, atol=1e-5)
    for damage, message in (
        ({"shares": shares[:2]}, "add up to 1"),
        ({"shares": [0.5, 0.5]}, "another model"),
        ({"model": "0" * 64}, "another model"),
        ({"shares": "all"}, "add up to 1"),
    ):
        other = tmp_path / "other.json"
        other.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | damage), encoding="utf-8")
        with pytest.raises(InputError, match=message):
            Encoder.load(run, layers=f"weighted:{other}")
    with pytest.raises(InputError, match="weighted:FILE"):
        Encoder.load(run, layers="weighted")


def test_overlap_is_counted_and_refused(run: Path, tmp_path: Path) -> None:
    bad = settings(run, tmp_path, models="majority", curves="none")
    train = bad.train.read_text(encoding="utf-8").splitlines()
    bad.test.write_text("\n".join([*train[:4], "a new one,cat"]) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"3 of 4 test rows stand in the training rows too \(lines 2, 3, 4\)"):
        compare_models(bad, QUIET)
    assert not (tmp_path / "comparison" / "config.yaml").exists()
    compare_models(bad.model_copy(update={"allow_overlap": True}), QUIET)


def test_dev_rows_that_are_test_rows_are_refused(run: Path, tmp_path: Path) -> None:
    bad = settings(run, tmp_path, models="majority", curves="none")
    with pytest.raises(InputError, match="11 of 11 test rows stand in the dev rows too"):
        compare_models(bad.model_copy(update={"test": bad.dev}), QUIET)


def test_rows_that_changed_are_noticed(run: Path, tmp_path: Path) -> None:
    whole = settings(run, tmp_path, models="majority,tfidf", curves="none")
    compare_models(whole, QUIET)
    write_rows(whole.test, 17, 5)
    with pytest.raises(InputError, match="has changed since") as caught:
        compare_models(whole.model_copy(update={"resume": True}), QUIET)
    assert str(whole.test) in str(caught.value)


def test_other_models_are_added_and_none_is_lost(run: Path, tmp_path: Path) -> None:
    compare_models(settings(run, tmp_path, models="majority,bag", curves="bag"), QUIET)
    again = settings(run, tmp_path, models="tfidf", curves="none").model_copy(update={"resume": True})
    standings = compare_models(again, QUIET)
    assert [s.name for s in standings] == ["majority", "tfidf", "bag"]
    assert [bool(s.curve) for s in standings] == [False, False, True]
    assert CompareClassifySettings.from_yaml(again.output / "config.yaml").models == "majority,tfidf,bag"


def test_a_comparison_keeps_to_its_arithmetic(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def picked(wish: str, *_: object) -> torch.dtype:
        asked.append(wish)
        return torch.bfloat16

    monkeypatch.setattr(module, "pick_precision", picked)
    whole = settings(run, tmp_path, models="majority", curves="none")
    for _ in range(2):
        compare_models(whole, QUIET)
        whole = whole.model_copy(update={"resume": True})
    assert asked == ["auto", "bfloat16"]


@pytest.mark.parametrize("good_steps", [0, 20])
@pytest.mark.parametrize("task", ["classify", "tag"])
def test_a_fit_whose_numbers_go_bad_does_not_end_the_others(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    task: str,
    good_steps: int,
) -> None:
    real, calls = loop_module.apply_gradients, []

    def bad(model: Any, *arguments: Any) -> float:
        calls.append(model)
        if len(calls) > good_steps:
            next(model.parameters()).grad[:] = torch.nan
        return real(model, *arguments)

    monkeypatch.setattr(loop_module, "apply_gradients", bad)
    if task == "classify":
        given = settings(run, tmp_path, models="tfidf,bert", curves="none", trials=1, seeds=1, batch_size=2)
        standings = compare_models(given, QUIET)
    else:
        files = {
            n: write_tags(tmp_path / f"{n}.tsv", c, s)
            for n, c, s in (("train", 33, 1), ("dev", 11, 2), ("test", 13, 3))
        }
        numbers = {"trials": 1, "seeds": 1, "epochs": 1, "max_length": 30, "overlap": 5, "threads": 1, "batch_size": 2}
        values = {"model": run, "output": tmp_path / "comparison", "models": "frequency,bert", "curves": "none"}
        standings = compare_models(CompareTagSettings.parse(files | values | numbers), QUIET)
    assert len(calls) == good_steps + TOO_MANY
    assert [len(s.scores) for s in standings] == [1, 1]
    if not good_steps:
        assert standings[1].parameters == 1, "nothing was learned, so what is most frequent is said"
    assert "bert with 0.0003, seed 0: the gradient of 10 steps was no number" in capfd.readouterr().err


def test_a_part_of_the_rows_with_one_label(run: Path, tmp_path: Path) -> None:
    rare = settings(run, tmp_path, models="tfidf,bert-logistic", curves="all")
    rows = [f"{SUBJECTS[n % 3]} {n} sees it,{'rare' if n % 16 == 7 else 'often'}" for n in range(48)]
    rare.train.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    for path in (rare.dev, rare.test):
        path.write_text(f"text,label\nthis {path.stem},often\nthat {path.stem},rare\n", encoding="utf-8")
    standings = compare_models(rare, QUIET)
    assert [[rows for rows, _ in s.curve] for s in standings] == [[3, 6, 12, 24, 48]] * 2


def test_pairs_and_what_the_report_says_of_the_run(run: Path, tmp_path: Path) -> None:
    pairs = settings(run, tmp_path, models="tfidf,bag", curves="none")
    for path in (pairs.train, pairs.dev, pairs.test):
        lines = path.read_text(encoding="utf-8").splitlines()
        path.write_text("\n".join(["text,label,other", *(f"{line},it" for line in lines[1:])]) + "\n", encoding="utf-8")
    compare_models(pairs.model_copy(update={"text_b": "other"}), QUIET)
    report = json.loads((pairs.output / "report.json").read_text(encoding="utf-8"))
    assert (report["train_rows"], report["dev_rows"], report["test_rows"]) == (33, 11, 13)
    assert report["test_rows_in_train"] == 0
    assert "1 threads" in report["device"]
    assert all(model["dev"] > 0.5 for model in report["models"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": "tfidf,brt"}, "'brt'"),
        ({"models": "tfidf,tfidf"}, "named twice"),
        ({"curves": "lstmm"}, "Did you mean 'lstm'"),
        ({"models": "none"}, "no model to compare"),
        ({"label": "stars"}, "stars"),
        ({"max_length": 99}, "positions"),
        ({"model": Path("nowhere")}, "no such directory"),
    ],
)
def test_what_does_not_fit(run: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare_models(settings(run, tmp_path, **changes), QUIET)


def standing(name: str, mean: float, gap: tuple[float, float, float] | None, *, pretrained: bool = False) -> Standing:
    difference = None if gap is None else Interval(*gap)
    return Standing(name, f"about {name}", pretrained, None, mean, [mean], difference, 1.0, 1.0, 5)


@pytest.mark.parametrize(
    ("other", "gap", "words"),
    [
        (0.7, (-0.1, -0.15, -0.05), "Fine-tuned BERT is better here than the best model without it, tfidf: accuracy"),
        (0.79, (-0.01, -0.02, 0.03), "tfidf is as good here as fine-tuned BERT; use that"),
        (0.75, (-0.05, -0.33, 0.02), "These test rows cannot tell tfidf from fine-tuned BERT"),
        (0.9, (0.1, 0.05, 0.15), "tfidf is better here than fine-tuned BERT; use that: accuracy 0.900 against 0.800"),
    ],
)
def test_the_conclusion_is_plain(other: float, gap: tuple[float, float, float], words: str) -> None:
    bert = standing("bert", 0.8, None, pretrained=True)
    worse = standing("majority", 0.1, (-0.7, -0.8, -0.6))
    frozen = standing("bert-lstm", 0.81, (0.01, -0.01, 0.03), pretrained=True)
    sentence = conclusion([worse, standing("tfidf", other, gap), frozen, bert], "accuracy")
    assert words in sentence
    assert sentence.count(".\n") == 0


def test_the_conclusion_names_frozen_vectors_where_they_are_best() -> None:
    models = [
        standing("tfidf", 0.79, (-0.01, -0.02, 0.03)),
        standing("bert-logistic", 0.95, (0.15, 0.1, 0.2), pretrained=True),
        standing("bert", 0.8, None, pretrained=True),
    ]
    assert "On frozen BERT vectors bert-logistic is better here than fine-tuned BERT" in conclusion(models, "accuracy")


def test_dev_chooses_what_bert_is_measured_against() -> None:
    lucky = replace(standing("tfidf", 0.9, (0.1, 0.05, 0.15)), dev=0.5)
    models = [lucky, standing("bag", 0.7, (-0.1, -0.2, -0.05)), standing("bert", 0.8, None, pretrained=True)]
    assert "the best model without it, bag" in conclusion(models, "accuracy")


def test_without_bert_the_best_is_named() -> None:
    assert "Best here: tfidf" in conclusion([standing("tfidf", 0.5, None), standing("bag", 0.4, None)], "accuracy")


def test_an_example_shows_what_most_runs_say() -> None:
    runs = [[0, 2], [1, 0], [1, 1]]
    assert [usual_answer(runs, row) for row in (0, 1)] == [1, 2]
    tags = [[np.array([0, 0])], [np.array([0, 1])], [np.array([0, 1])]]
    assert usual_answer(tags, 0).tolist() == [0, 1]
