"""An ablation from end to end on a tiny store: what differs between variants, and that nothing is done twice."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from bertsmith.ablation import ablate as module
from bertsmith.ablation.ablate import ablate
from bertsmith.ablation.report import ablation_table
from bertsmith.ablation.rows import Row, TaskScores
from bertsmith.ablation.variants import VARIANTS, chosen_variants
from bertsmith.ablation_config import AblateSettings
from bertsmith.config import PretrainSettings
from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.text.store import TokenStore
from tests.conftest import OBJECTS, SUBJECTS

QUIET = Log(quiet=True)


def task_file(directory: Path, **changes: Any) -> Path:
    rng = np.random.default_rng(3)
    for name, count in (("train", 23), ("dev", 11)):
        lines = [
            f"{rng.choice(SUBJECTS)} sees {('the cat', 'a dog')[n % 2]} {rng.choice(OBJECTS)},{('cat', 'dog')[n % 2]}"
            for n in range(count)
        ]
        (directory / f"{name}.csv").write_text("\n".join(["text,label", *lines]) + "\n", encoding="utf-8")
    values = {"task": "classify", "train": str(directory / "train.csv"), "dev": str(directory / "dev.csv")}
    values |= {"epochs": 2, "batch_size": 8, "max_length": 30, "learning_rate": 1e-3, "precision": "float32"}
    (directory / "pets.yaml").write_text(yaml.safe_dump(values | changes), encoding="utf-8")
    return directory / "pets.yaml"


def settings(store: TokenStore, directory: Path, **changes: Any) -> AblateSettings:
    small = {"layers": 1, "hidden_size": 16, "heads": 2, "max_positions": 64, "max_length": 40, "batch_size": 7}
    small |= {"eval_every": 2, "eval_instances": 9, "held_out": 0.2, "precision": "float32", "checkpoint_every": 2}
    (directory / "network.yaml").write_text(yaml.safe_dump(small), encoding="utf-8")
    values = {
        "store": store.path,
        "output": directory / "ablation",
        "tasks": [task_file(directory)],
        "pretraining": directory / "network.yaml",
        "steps": 4,
        "seeds": 2,
        "threads": 1,
    }
    return AblateSettings.parse(values | changes)


def settings_again(directory: Path) -> AblateSettings:
    return AblateSettings.from_yaml(directory / "ablation" / "config.yaml", resume=True)


def files_of(directory: Path) -> dict[str, int]:
    return {str(path.relative_to(directory)): path.stat().st_mtime_ns for path in directory.rglob("model.safetensors")}


def test_variants_differ_in_what_they_are_named_after(store: TokenStore, tmp_path: Path) -> None:
    names = "bert,no-nsp,left-to-right,left-to-right-bilstm,random-weights"
    rows = ablate(settings(store, tmp_path, variants=names), QUIET)
    output = tmp_path / "ablation"
    assert [row.variant for row in rows] == names.split(",")
    runs = {path.parent.name for path in (output / "pretraining").glob("*/seed-0")}
    assert runs == {"bert", "no-nsp", "left-to-right"}, "the others share one of these"
    for name, expected in (("no-nsp", ("both", False)), ("left-to-right", ("left-to-right", False))):
        made = PretrainSettings.from_yaml(output / "pretraining" / name / "seed-0" / "config.yaml")
        assert (made.direction, made.next_sentence) == expected
        assert made.hidden_size == 16
    for row in rows:
        assert [len(task.scores) for task in row.tasks] == [2]
        assert (row.loss is None) == (row.variant == "random-weights")
        assert (row.next_sentence is None) == (row.variant != "bert")
    tuned = output / "tasks" / "pets"
    paths = [tuned / name / "seed-0" / "model" / "config.json" for name in names.split(",")]
    models = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    assert [m["is_decoder"] for m in models] == [False, False, True, True, False]
    assert [m["bilstm"] for m in models] == [False, False, False, True, False]
    page = (output / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 1
    assert "left-to-right-bilstm" in page
    assert len(json.loads((output / "ablation.json").read_text(encoding="utf-8"))) == 5


def test_other_variants_are_added_and_nothing_is_made_twice(store: TokenStore, tmp_path: Path) -> None:
    first = ablate(settings(store, tmp_path, variants="bert"), QUIET)
    made = files_of(tmp_path / "ablation")
    with pytest.raises(InputError, match="go on with: bertsmith ablate"):
        ablate(settings(store, tmp_path, variants="bert,all-masked"), QUIET)
    with pytest.raises(InputError, match="steps"):
        ablate(settings(store, tmp_path, variants="bert", steps=5, resume=True), QUIET)
    second = ablate(settings(store, tmp_path, variants="bert,all-masked", resume=True), QUIET)
    assert second[0] == first[0]
    now = files_of(tmp_path / "ablation")
    assert made.items() < now.items()
    run = tmp_path / "ablation" / "pretraining" / "all-masked" / "seed-0" / "config.yaml"
    assert PretrainSettings.from_yaml(run).mask_mix == "100/0/0"
    task_file(tmp_path, learning_rate=None)
    with pytest.raises(InputError, match=r"seed-0: holds .*learning_rate was 0.001, now 0.0003\."):
        ablate(settings_again(tmp_path), QUIET)
    task_file(tmp_path, epochs=3)
    with pytest.raises(InputError, match="epochs"):
        ablate(settings_again(tmp_path), QUIET)


def test_stopped_and_resumed_is_the_same(store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole = ablate(settings(store, tmp_path / "whole", variants="bert,no-kept"), QUIET)
    real, calls = module.finetune, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "finetune", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ablate(settings(store, tmp_path / "parts", variants="bert,no-kept"), QUIET)
    assert not (tmp_path / "parts" / "ablation" / "ablation.json").exists()
    assert ablate(settings(store, tmp_path / "parts", variants="bert,no-kept", resume=True), QUIET) == whole


def test_a_report_keeps_the_variants_of_before(store: TokenStore, tmp_path: Path) -> None:
    ablate(settings(store, tmp_path, variants="bert", seeds=1), QUIET)
    rows = ablate(settings(store, tmp_path, variants="random-weights", seeds=1, resume=True), QUIET)
    assert [row.variant for row in rows] == ["bert", "random-weights"]


def test_random_weights_are_no_matter_of_the_pre_training(store: TokenStore, tmp_path: Path) -> None:
    rows = ablate(settings(store, tmp_path, variants="bert,random-weights", pretraining_seeds=2), QUIET)
    assert [len(row.tasks[0].scores) for row in rows] == [4, 2]
    assert "of 2 pre-training(s)" in (tmp_path / "ablation" / "report.html").read_text(encoding="utf-8")


def test_a_budget_of_time(store: TokenStore, tmp_path: Path) -> None:
    (row,) = ablate(settings(store, tmp_path, variants="bert", steps=None, budget="3s", seeds=1), QUIET)
    assert row.steps is not None
    assert row.steps > 1


def test_rows_that_changed_are_noticed(store: TokenStore, tmp_path: Path) -> None:
    whole = settings(store, tmp_path, variants="bert", seeds=1)
    ablate(whole, QUIET)
    with (tmp_path / "train.csv").open("a", encoding="utf-8") as file:
        file.write("the cow sees the cat,cat\n")
    with pytest.raises(InputError, match=r"train\.csv: has changed since"):
        ablate(whole.model_copy(update={"resume": True}), QUIET)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learnin_rate": 1e-3}, r"network\.yaml: unknown setting 'learnin_rate'"),
        ({"mask_share": 0.4, "direction": "both"}, r"network\.yaml: sets mask_share, by which the variants differ"),
        ({"max_positions": 29, "max_length": 29}, r"pets\.yaml: max_length 30 is above the network's 29 positions"),
    ],
)
def test_a_network_that_does_not_fit_is_told_first(
    store: TokenStore, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    whole = settings(store, tmp_path)
    path = tmp_path / "network.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text("utf-8")) | changes), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        ablate(whole, QUIET)
    assert not (tmp_path / "ablation").exists()


def test_what_an_ablation_sets_itself_is_said(
    store: TokenStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = settings(store, tmp_path, variants="random-weights", steps=1)
    task_file(tmp_path, seeds=5, bilstm=True, quiet=True)
    ablate(whole, Log())
    said = " ".join(capsys.readouterr().err.split())
    assert "pets.yaml: seeds, bilstm left out" in said


def test_every_variant_is_a_setting_that_exists() -> None:
    assert [v.name for v in chosen_variants("all")] == [v.name for v in VARIANTS]
    for variant in VARIANTS:
        made = PretrainSettings.parse({"store": "s", "output": "o", "steps": 1, **variant.pretraining})
        assert {name: getattr(made, name) for name in variant.pretraining} == dict(variant.pretraining)
        assert variant.pretrained_as in [v.name for v in VARIANTS]
        assert variant.name in str(AblateSettings.model_fields["variants"].description)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": "bert,no-nps"}, "Did you mean 'no-nsp'"),
        ({"variants": "bert,bert"}, "named twice"),
        ({"steps": None}, "give one of budget and steps"),
        ({"budget": "3s"}, "give one of budget and steps"),
    ],
)
def test_settings_that_do_not_fit(store: TokenStore, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ablate(settings(store, tmp_path, **changes), QUIET)
    assert not (tmp_path / "ablation").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "clasify"}, "'clasify'; expected one of classify"),
        ({"texts": "a"}, "unknown setting 'texts'"),
        ({"label": "star"}, "no column 'star'"),
        ({"dev": "nowhere.csv"}, "nowhere.csv"),
    ],
)
def test_a_task_that_does_not_fit_is_told_before_anything_is_trained(
    store: TokenStore, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    whole = settings(store, tmp_path)
    task_file(tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        ablate(whole, QUIET)
    assert not (tmp_path / "ablation").exists()


def test_the_table_shows_means_and_what_is_not_there() -> None:
    rows = [
        Row("bert", "as it is", 10.0, 1_234_000.0, 6.5, 0.625, [TaskScores("pets", "macro_f1", [0.25, 0.75])]),
        Row("random-weights", "nothing", None, None, None, None, [TaskScores("pets", "macro_f1", [0.5])]),
    ]
    head, first, second = ablation_table(rows).splitlines()
    assert head.split() == ["variant", "tokens", "loss", "next", "pets", "(macro", "F1)"]
    assert first.split() == ["bert", "1.23", "M", "6.500", "62.5%", "0.500", "±", "0.354"]
    assert second.split() == ["random-weights", "-", "-", "-", "0.500", "±", "0.000"]
