"""Bad steps: what counts as one, that it changes nothing, and the three ways to go on."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bertsmith.console import Log
from bertsmith.errors import DivergedError, InputError
from bertsmith.task_config import ClassifySettings
from bertsmith.text.store import TokenStore
from bertsmith.training import loop
from bertsmith.training.checkpoint import read_metrics
from bertsmith.training.finetune import finetune
from bertsmith.training.guard import TOO_MANY, refusal
from bertsmith.training.pretrain import pretrain
from tests.conftest import tiny_run
from tests.training.test_finetune import write_rows

QUIET = Log(quiet=True)
CALM = [4.0 + 0.1 * (n % 3) for n in range(30)]


@pytest.mark.parametrize(
    ("loss", "norm", "recent", "spike", "why"),
    [
        (4.0, 1.0, CALM, 2.0, None),
        (math.nan, 1.0, CALM, None, "the loss is nan"),
        (4.0, math.inf, [], None, "norm is inf"),
        (8.3, 1.0, CALM, 2.0, "8.300, but 4.100 in the median of the last 30"),
        (8.3, 1.0, CALM, None, None),
        (8.3, 1.0, CALM[:19], 2.0, None),
        (0.9, 1.0, [0.1] * 30, 2.0, None),  # nine times as much, but near 0
    ],
)
def test_what_a_bad_step_is(
    loss: float, norm: float, recent: list[float], spike: float | None, why: str | None
) -> None:
    found = refusal(loss, norm, recent, spike)
    assert found is None if why is None else why in (found or "")


def spoil(monkeypatch: pytest.MonkeyPatch, bad: Callable[[int], bool]) -> None:
    """Make the gradient of the steps (counted from 1) for which ``bad`` is true a NaN, the first time they are made."""
    real, made = loop.accumulate_gradients, 0

    def spoiled(model: torch.nn.Module, *arguments: object, **more: object) -> dict[str, float]:
        nonlocal made
        made += 1
        losses = real(model, *arguments, **more)
        if bad(made):
            next(p for p in model.parameters() if p.grad is not None).grad[0] = math.nan
        return losses

    monkeypatch.setattr(loop, "accumulate_gradients", spoiled)


def entries(run: Path) -> list[dict[str, object]]:
    return read_metrics(run / "metrics.jsonl")


def test_a_bad_step_is_left_out(store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, lambda step: step == 6)
    result = pretrain(tiny_run(store, tmp_path / "run"), QUIET)
    assert result.steps == 13
    assert math.isfinite(result.final.mlm_loss)
    kinds = {e["step"]: e for e in entries(tmp_path / "run") if e["kind"] != "eval"}
    assert sorted(kinds) == list(range(1, 14))
    bad = kinds[6]
    assert bad["kind"] == "refused"
    assert "norm is nan" in str(bad["reason"])
    assert bad["grad_norm"] is None
    # Every text of the batch is named by its file and line.
    assert all(str(place).split(":")[-1].isdigit() and "corpus.txt" in str(place) for place in bad["documents"])
    lines = (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8")
    assert "NaN" not in lines
    json.loads(lines.splitlines()[0])


def test_weights_do_not_change_in_a_bad_step(monkeypatch: pytest.MonkeyPatch) -> None:
    from bertsmith.training.optimizer import AdamW, apply_gradients

    model = torch.nn.Linear(3, 2)
    optimizer = AdamW(model.parameters(), lr=0.1, fused=True)
    model(torch.ones(1, 3)).sum().backward()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    norm = apply_gradients(model, optimizer, 0.1, 1.0, accept=lambda norm: False)
    assert norm > 0
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())
    assert not optimizer.state
    assert all(p.grad is None for p in model.parameters())


def test_a_run_that_goes_back(store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 7 is bad; the last checkpoint is of step 4, so steps 5 to 7 are made again, of other batches."""
    with monkeypatch.context() as patch:
        spoil(patch, lambda made: made == 7)
        pretrain(tiny_run(store, tmp_path / "run", bad_steps="rollback"), QUIET)
    found = entries(tmp_path / "run")
    steps = [e["step"] for e in found if e["kind"] == "train"]
    assert steps == list(range(1, 14))
    (back,) = [e for e in found if e["kind"] == "rollback"]
    assert (back["step"], back["from_step"]) == (4, 7)
    state = json.loads((tmp_path / "run/checkpoints/step-00000013/state.json").read_text(encoding="utf-8"))
    assert state["progress"]["offset"] == 3
    # A stop right after the return does not forget what is left out.
    pretrain(tiny_run(store, tmp_path / "usual"), QUIET)
    usual = [e["tokens"] for e in entries(tmp_path / "usual") if e["kind"] == "train"]
    tokens = [e["tokens"] for e in found if e["kind"] == "train"]
    assert tokens[:4] == usual[:4]
    assert tokens[4] - tokens[3] == usual[7] - usual[6]


def test_a_return_names_the_texts_of_the_bad_step(
    store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for how in ("skip", "rollback"):
        with monkeypatch.context() as patch:
            spoil(patch, lambda made: made == 7)
            pretrain(tiny_run(store, tmp_path / how, bad_steps=how), QUIET)
        found += [e["documents"] for e in entries(tmp_path / how) if "documents" in e]
    assert len(found) == 2
    assert found[0] == found[1]


@pytest.mark.parametrize("checkpoint_every", [4, 1])
def test_a_run_that_always_goes_back_ends(
    store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint_every: int
) -> None:
    made = []

    def always(step: int) -> bool:
        made.append(step)
        return len(made) > 6

    spoil(monkeypatch, always)
    with pytest.raises(DivergedError, match=f"after each of {TOO_MANY} returns to step-0000000"):
        pretrain(tiny_run(store, tmp_path / "run", bad_steps="rollback", checkpoint_every=checkpoint_every), QUIET)
    assert len(made) < 6 + TOO_MANY + 2


def test_a_run_that_goes_back_can_be_stopped(
    store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def always(step: int) -> bool:
        made.append(step)
        if len(made) == 8:
            signal.raise_signal(signal.SIGINT)
        return len(made) > 6

    spoil(monkeypatch, always)
    with pytest.raises(KeyboardInterrupt):
        pretrain(tiny_run(store, tmp_path / "run", bad_steps="rollback"), QUIET)
    assert len(made) == 8


def test_weights_that_are_no_numbers_are_not_saved(
    store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With few steps left no ten bad ones come; the checkpoint and the model from before stay."""
    real = loop.apply_gradients
    made = []

    def far(model: torch.nn.Module, *arguments: Any) -> float:
        made.append(1)
        norm = real(model, *arguments)
        if len(made) == 10:
            with torch.no_grad():
                next(iter(model.parameters())).fill_(torch.nan)
        return norm

    monkeypatch.setattr(loop, "apply_gradients", far)
    with pytest.raises(DivergedError, match=r"after step 1[0-3] the weights are no numbers"):
        pretrain(tiny_run(store, tmp_path / "run"), QUIET)
    assert not (tmp_path / "run" / "model").exists()
    checkpoints = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert [path.name for path in checkpoints] == ["step-00000004", "step-00000008"]


def test_a_run_that_stops_at_a_bad_step_and_goes_on(
    store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        spoil(patch, lambda made: made == 6)
        with pytest.raises(InputError, match=r"step 6 was bad.*--bad-steps skip"):
            pretrain(tiny_run(store, tmp_path / "run", bad_steps="stop"), QUIET)
    result = pretrain(tiny_run(store, tmp_path / "run", bad_steps="skip", resume=True), QUIET)
    assert result.steps == 13


def test_too_many_bad_steps_end_a_run(store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, lambda made: made > 2)
    with pytest.raises(InputError, match=f"{TOO_MANY} steps in a row, up to step 12"):
        pretrain(tiny_run(store, tmp_path / "run"), QUIET)


def test_a_jump_of_the_loss(store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = loop.accumulate_gradients
    made = 0

    def jumping(*arguments: object, **more: object) -> dict[str, float]:
        nonlocal made
        made += 1
        losses = real(*arguments, **more)
        return {name: 3 * loss for name, loss in losses.items()} if made == 25 else losses

    monkeypatch.setattr(loop, "accumulate_gradients", jumping)
    pretrain(tiny_run(store, tmp_path / "run", steps=27, eval_every=30), QUIET)
    bad = [e["step"] for e in entries(tmp_path / "run") if e["kind"] == "refused"]
    assert bad == [25]


@pytest.mark.parametrize("how", ["skip", "stop"])
def test_fine_tuning_with_a_bad_step(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    settings = ClassifySettings.parse(
        {
            "model": run,
            "train": write_rows(tmp_path / "train.csv", 20, 1),
            "dev": write_rows(tmp_path / "dev.csv", 7, 2),
            "output": tmp_path / "tuned",
            "epochs": 2,
            "batch_size": 6,
            "max_length": 30,
            "threads": 1,
            "bad_steps": how,
        }
    )
    spoil(monkeypatch, lambda made: made == 6)
    if how == "stop":
        with pytest.raises(InputError, match="step 6 was bad"):
            finetune(settings, QUIET)
    else:
        finetune(settings, QUIET)
    (bad,) = [e for e in entries(settings.output) if e["kind"] == "refused"]
    assert bad["step"] == 6
    assert len(bad["examples"]) == 6
    assert all(0 <= number < 20 for number in bad["examples"])
