"""``--size auto``: it follows the machine's speed and the text, is written down, and is asked once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from torch import nn

from bertsmith.config import SIZES, PretrainSettings
from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.model.heads import PretrainingModel
from bertsmith.text.store import TokenStore
from bertsmith.training import sizing
from bertsmith.training.pretrain import pretrain
from bertsmith.training.processes import ALONE
from tests.conftest import tiny_run

OPEN = {"size": "auto", "layers": None, "hidden_size": None, "heads": None, "steps": None}


def run_of_any_size(store: TokenStore, output: Path, budget: str, **changes: object) -> PretrainSettings:
    return tiny_run(store, output, **OPEN, budget=budget, **changes)


def steps_taking(seconds: dict[int, float], timed: list[int]) -> Callable[..., float]:
    """Return a clock for steps: seconds by the model's width; it notes what it is asked."""

    def measure(model: nn.Module, *_: object, **__: object) -> float:
        assert isinstance(model, PretrainingModel)
        timed.append(model.config.hidden_size)
        return seconds[model.config.hidden_size]

    return measure


def chosen(
    store: TokenStore, budget: str, seconds: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> tuple[str, list[int]]:
    timed: list[int] = []
    monkeypatch.setattr(sizing, "measure_step", steps_taking(seconds, timed))
    settings = run_of_any_size(store, Path("nowhere"), budget)
    return sizing.with_size(settings, store, ALONE, Log(mute=True)).size, timed


@pytest.fixture
def long_text(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> TokenStore:
    """The small store, which says that it holds a thousand million tokens."""
    monkeypatch.setattr(store, "num_tokens", 10**9)
    return store


def test_the_size_follows_the_time_there_is(long_text: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    speed = {128: 0.01, 256: 0.03, 512: 0.1, 768: 0.3, 1024: 1.0}
    budgets = [f"{4**n}m" for n in range(9)]
    found = [chosen(long_text, budget, speed, monkeypatch)[0] for budget in budgets]
    assert found[0] == "tiny"
    assert found == sorted(found, key=list(SIZES).index)
    assert len(set(found)) >= 4


def test_a_faster_machine_takes_a_larger_size(long_text: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, fast = {128: 0.05, 256: 0.2}, {128: 0.0005, 256: 0.0006, 512: 0.001, 768: 0.003}
    assert chosen(long_text, "1h", slow, monkeypatch)[0] == "tiny"
    assert chosen(long_text, "1h", fast, monkeypatch)[0] in ("small", "medium")


def test_what_cannot_be_better_is_not_timed(long_text: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(long_text, "1m", {128: 0.01}, monkeypatch) == ("tiny", [128])


def test_little_text_keeps_it_small(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(store, "100h", {128: 0.0001, 256: 0.0001}, monkeypatch)[0] == "tiny"


def test_a_run_writes_its_size_down_and_keeps_it(
    store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = run_of_any_size(store, tmp_path / "run", "5s", quiet=False)
    pretrain(settings)
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))
    assert written["size"] == "tiny"
    said = capsys.readouterr().err
    assert "tiny 2x128:" in said
    assert "BERT 2x128" in said

    def again(*_: object) -> str:
        raise AssertionError("the size was chosen a second time")

    monkeypatch.setattr(sizing, "_largest_worth_it", again)
    with pytest.raises(InputError, match="holds a finished run"):
        pretrain(settings)


def test_it_needs_a_budget_and_no_size_beside_it(store: TokenStore, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs a budget, such as 20m"):
        tiny_run(store, tmp_path / "run", **OPEN | {"steps": 3})
    with pytest.raises(InputError, match="chooses layers, hidden_size and heads"):
        tiny_run(store, tmp_path / "run", **OPEN | {"layers": 3}, budget="3m")
