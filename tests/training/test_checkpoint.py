"""Optimiser states and the metrics log on disk."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest
import torch
from torch import nn

from bertsmith.config import OptimizerSettings
from bertsmith.configuration import CONFIG
from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.task_config import ClassifySettings
from bertsmith.training.checkpoint import (
    FREE,
    MetricsLog,
    begun_with,
    load_optimizer,
    optimizer_tensors,
    read_metrics,
    refuse_other_settings,
    save_checkpoint,
    save_optimizer,
    tidy_run,
)
from bertsmith.training.evaluate import unigram_entropy
from bertsmith.training.optimizer import apply_gradients, make_optimizer
from bertsmith.training.report import bar_rows, confusion_table, highlighted, paragraph, table


def stepped(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Linear(5, 3)
    optimizer = make_optimizer(model, OptimizerSettings())
    for _ in range(3):
        model(torch.randn(7, 5)).square().sum().backward()
        apply_gradients(model, optimizer, 0.01, 1.0)
    return model, optimizer


def test_the_optimizer_goes_on_where_it_was(tmp_path: Path) -> None:
    model, optimizer = stepped(1)
    save_optimizer(tmp_path, optimizer_tensors(model, optimizer))
    other, fresh = stepped(2)
    other.load_state_dict(model.state_dict())
    load_optimizer(tmp_path, other, fresh)
    for network, state in ((model, optimizer), (other, fresh)):
        network(torch.ones(2, 5)).sum().backward()
        apply_gradients(network, state, 0.01, 1.0)
    assert torch.equal(model.weight, other.weight)


def test_the_state_of_another_model(tmp_path: Path) -> None:
    model, optimizer = stepped(1)
    save_optimizer(tmp_path, optimizer_tensors(model, optimizer))
    larger = nn.Linear(6, 3)
    with pytest.raises(InputError, match="of the right shape for weight"):
        load_optimizer(tmp_path, larger, make_optimizer(larger, OptimizerSettings()))
    (tmp_path / "optimizer.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="not a readable state"):
        load_optimizer(tmp_path, model, optimizer)


def test_a_run_goes_on_with_what_it_chose_where_it_is_left_open(tmp_path: Path) -> None:
    open_ones = ClassifySettings(model=Path("model"), train=Path("train.csv"), output=tmp_path)
    assert begun_with(open_ones, tmp_path) == {}
    chosen = open_ones.model_copy(update={"precision": "bfloat16", "learning_rate": 2e-4})
    chosen.write(tmp_path / CONFIG)
    assert begun_with(open_ones, tmp_path) == {"precision": "bfloat16", "learning_rate": 2e-4}
    refuse_other_settings(chosen, FREE, tmp_path)
    given = open_ones.model_copy(update={"learning_rate": 3e-4})
    assert begun_with(given, tmp_path) == {"precision": "bfloat16"}
    with pytest.raises(InputError, match=r"configuration: learning_rate was 0.0002, now 0.0003\."):
        refuse_other_settings(given.model_copy(update={"precision": "bfloat16"}), FREE, tmp_path)
    with pytest.raises(InputError, match=r"configuration: patience was None, now 3\."):
        refuse_other_settings(chosen.model_copy(update={"patience": 3}), FREE, tmp_path)


def test_a_configuration_that_left_things_open(tmp_path: Path) -> None:
    # As releases wrote it that did not name what they chose.
    open_ones = ClassifySettings(model=Path("model"), train=Path("train.csv"), output=tmp_path)
    open_ones.write(tmp_path / CONFIG)
    assert begun_with(open_ones, tmp_path) == {"precision": "auto", "learning_rate": None}
    refuse_other_settings(open_ones.model_copy(update={"precision": "float32", "learning_rate": 2.0}), FREE, tmp_path)
    (tmp_path / CONFIG).write_text("learning_rate: fast\n", encoding="utf-8")
    for read in (begun_with, lambda settings, path: refuse_other_settings(settings, FREE, path)):
        with pytest.raises(InputError, match=r"config.yaml: .*learning_rate: .*got 'fast'"):
            read(open_ones, tmp_path)


def test_old_checkpoints_go_only_after_the_new_one_is_whole(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        save_checkpoint(tmp_path, step, lambda d: (d / "a").write_text("x") and None)
    folder = tmp_path / "checkpoints"
    assert sorted(p.name for p in folder.iterdir()) == ["step-00000010", "step-00000015"]

    def fails(directory: Path) -> None:
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        save_checkpoint(tmp_path, 20, fails)
    assert sorted(p.name for p in folder.iterdir()) == ["step-00000010", "step-00000015"]


def test_a_run_is_tidied_before_it_goes_on(tmp_path: Path) -> None:
    """What a kill left of a checkpoint, and an old checkpoint that it kept from being deleted."""
    folder = tmp_path / "checkpoints"
    for name in ("step-00000005", "step-00000010", "step-00000015", ".step-00000020.abcd1234"):
        (folder / name).mkdir(parents=True)
    (tmp_path / ".model.abcd1234").mkdir()
    tidy_run(tmp_path)
    assert sorted(p.name for p in folder.iterdir()) == ["step-00000010", "step-00000015"]
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoints"]


def test_a_resumed_log_has_each_step_once_and_no_half_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        for step in range(1, 8):
            log.write({"step": step, "kind": "train"})
    with path.open("a") as file:
        file.write('{"step": 8, "ki')
    with MetricsLog(path, keep=lambda entry: entry["step"] <= 5) as log:
        log.write({"step": 6, "kind": "train"})
    assert [e["step"] for e in read_metrics(path)] == [1, 2, 3, 4, 5, 6]


def test_a_log_is_not_in_memory_when_a_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [f'{{"step": {step}, "kind": "train", "note": "{"가" * 50}"}}\n' for step in range(1, 5001)]
    # Cut lines, bytes that are no text, and another way to write JSON.
    lines[7:7] = ["{\n", "\n", '{"kind": "train"}\n', "[1]\n"]
    path.write_bytes("".join(lines).encode() + b'{"step":4000,"note":"\xff"}')
    tracemalloc.start()
    MetricsLog(path, keep=lambda entry: entry["step"] <= 4000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000 < path.stat().st_size
    kept = [line for line in lines if "step" in line][:4000]
    assert path.read_text(encoding="utf-8") == "".join(kept) + '{"step":4000,"note":"\ufffd"}\n'
    assert len(read_metrics(path)) == 4001


@pytest.mark.parametrize("step", ['"7"', "null", "7.5", "true"])
def test_a_line_that_is_no_entry_is_named(tmp_path: Path, step: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 6}}\nno\n{{"step": {step}, "kind": "train"}}\n', encoding="utf-8")
    whole = path.read_bytes()
    for use in (read_metrics, lambda path: MetricsLog(path, keep=lambda entry: entry["step"] <= 9)):
        with pytest.raises(InputError, match=r"metrics\.jsonl:3: is no entry of a run: its step is .*remove the line"):
            use(path)
    assert path.read_bytes() == whole
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_log_is_brought_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append((os.fstat(file).st_ino, os.fstat(file).st_size)))
    with MetricsLog(path := tmp_path / "metrics.jsonl") as log:
        # Its name, which is new.
        assert [inode for inode, _ in synced] == [tmp_path.stat().st_ino]
        log.write({"step": 1, "kind": "train"})
        log.sync()
    assert synced[1:] == [(path.stat().st_ino, path.stat().st_size)]


def test_missing_entries_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        for seed in (3, 4):
            for step in range(1, 8):
                log.write({"seed": seed, "step": step, "kind": ("train", "refused", "skipped")[step % 3]})
                log.write({"seed": seed, "step": step, "kind": "eval"})
    whole = MetricsLog(path, keep=lambda entry: (entry["seed"], entry["step"]) <= (4, 5))
    whole.warn_of_gaps({3: 7, 4: 5}, Log())
    assert not capsys.readouterr().err
    whole.warn_of_gaps({3: 7, 4: 8}, Log())
    assert "metrics.jsonl lacks 3 of the 15 steps before the checkpoint" in " ".join(capsys.readouterr().err.split())
    path.unlink()
    MetricsLog(path).warn_of_gaps({None: 1200}, Log())
    assert "lacks 1,200 of the 1,200 steps" in " ".join(capsys.readouterr().err.split())


def test_unigram_entropy_by_hand() -> None:
    import math
    from dataclasses import replace

    import numpy as np

    from bertsmith.batch import pack

    batch = replace(pack([[0, 1, 2]]), masked_labels=torch.tensor([1, 1, 2]))
    # Counts 3, 5, 1 with one added to each: shares 4, 6 and 2 of 12.
    expected = -(2 * math.log(6 / 12) + math.log(2 / 12)) / 3
    assert unigram_entropy(np.array([3, 5, 1]), [batch]) == pytest.approx(expected)


def test_reports_escape_what_users_wrote() -> None:
    nasty = "<script>alert('가')</script>"
    for block in (
        paragraph(nasty),
        table((nasty, "n"), [(nasty, 1)]),
        table(("text",), [(highlighted(nasty, [(3, 5, "gold")]),)]),
        bar_rows([(nasty, 0.5)]),
        confusion_table([[1, 0], [0, 2]], (nasty, "b")),
    ):
        assert "<script>" not in block
        assert "가" in block


def test_spans_are_highlighted() -> None:
    marked = highlighted("a <b> c d", [(6, 7, "both"), (2, 5, "gold"), (3, 4, "predicted")])
    assert marked == 'a <mark class="gold">&lt;b&gt;</mark> <mark class="both">c</mark> d'
    assert str(marked) in table(("text", "n"), [(marked, 1)])
