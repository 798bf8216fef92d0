"""``--size auto``: it follows the machine's speed and the text, is written down, and is asked once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from bertsmith.config import ModelConfig, PretrainSettings
from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.model.weights import load_pretraining_model
from bertsmith.pretraining.sampler import Sampler
from bertsmith.text.store import TokenStore
from bertsmith.training import sizing
from bertsmith.training.pretrain import pretrain
from bertsmith.training.processes import ALONE
from tests.conftest import tiny_run
from tests.training.test_pretrain import stop_after

OPEN = {"size": "auto", "layers": None, "hidden_size": None, "heads": None, "steps": None}


def run_of_any_size(store: TokenStore, output: Path, budget: str, **changes: object) -> PretrainSettings:
    return tiny_run(store, output, **OPEN, budget=budget, **changes)


class Unbuilt:
    """Stands for a model whose steps are not made, only priced."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config

    def to(self, device: torch.device) -> Unbuilt:
        return self


def steps_taking(seconds: dict[str, float], timed: list[str]) -> Callable[..., float]:
    """Return a clock for steps: seconds by layers and width; it notes what it is asked."""

    def measure(model: Unbuilt, *_: object, **__: object) -> float:
        timed.append(f"{model.config.num_hidden_layers}x{model.config.hidden_size}")
        return seconds[timed[-1]]

    return measure


def chosen(
    store: TokenStore, budget: str, seconds: dict[str, float], monkeypatch: pytest.MonkeyPatch, **changes: object
) -> tuple[str, list[str]]:
    timed: list[str] = []
    monkeypatch.setattr(sizing, "PretrainingModel", Unbuilt)
    monkeypatch.setattr(sizing, "measure_step", steps_taking(seconds, timed))
    # Nothing was built that could be given back, and looking for it takes longer than all else here.
    monkeypatch.setattr(sizing, "give_back_memory", lambda device: None)
    settings = run_of_any_size(store, Path("nowhere"), budget, **changes)
    return sizing.with_size(settings, store, ALONE, lambda: False, Log(mute=True)).size, timed


@pytest.fixture
def long_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Samplers say that a pass over the text is ten million steps."""
    real = sizing.make_sampler

    def long_sampler(*arguments: Any) -> Sampler:
        sampler = real(*arguments)
        sampler.steps_per_epoch = 10**7
        return sampler

    monkeypatch.setattr(sizing, "make_sampler", long_sampler)


SPEED = {"2x128": 0.01, "4x256": 0.03, "4x512": 0.1, "8x512": 0.2}
FAST = dict.fromkeys(SPEED, 1e-6)


def test_the_size_follows_the_time_there_is(
    store: TokenStore, long_text: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [chosen(store, budget, SPEED, monkeypatch)[0] for budget in ("2m", "8h", "24h", "200h")]
    assert list(dict.fromkeys(found)) == ["tiny", "mini", "small", "medium"], found


def test_a_faster_machine_takes_a_larger_size(
    store: TokenStore, long_text: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        chosen(store, "20m", {size: seconds / speed for size, seconds in SPEED.items()}, monkeypatch)[0]
        for speed in (1, 10, 1000)
    ]
    assert found == ["tiny", "mini", "medium"]


def test_what_cannot_be_better_is_not_timed(
    store: TokenStore, long_text: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert chosen(store, "1m", SPEED, monkeypatch) == ("tiny", ["2x128"])


def test_little_text_keeps_it_small(store: TokenStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(store, "100h", FAST, monkeypatch) == ("tiny", ["2x128"])
    # With so much time all that counts is how often the text may be passed over.
    monkeypatch.setattr("bertsmith.planning.sizes._PASSES", 1e12)
    assert chosen(store, "100h", FAST, monkeypatch, max_epochs=20)[0] == "tiny"
    assert chosen(store, "100h", FAST, monkeypatch, max_epochs=1e9)[0] == "medium"


def test_a_size_without_room_on_the_device_ends_the_search(
    store: TokenStore, long_text: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def small_device(model: Unbuilt, *_: object, **__: object) -> float:
        if model.config.hidden_size > 256:
            raise torch.OutOfMemoryError
        return 1e-6

    monkeypatch.setattr(sizing, "PretrainingModel", Unbuilt)
    monkeypatch.setattr(sizing, "measure_step", small_device)
    settings = run_of_any_size(store, Path("nowhere"), "100h")
    assert sizing.with_size(settings, store, ALONE, lambda: False, Log()).size == "mini"
    assert "small 4x512: too large for this device's memory" in capsys.readouterr().err


def test_it_stops_between_sizes(store: TokenStore, long_text: None, monkeypatch: pytest.MonkeyPatch) -> None:
    timed: list[str] = []
    monkeypatch.setattr(sizing, "PretrainingModel", Unbuilt)
    monkeypatch.setattr(sizing, "measure_step", steps_taking(FAST, timed))
    settings = run_of_any_size(store, Path("nowhere"), "100h")
    with pytest.raises(KeyboardInterrupt):
        sizing.with_size(settings, store, ALONE, lambda: bool(timed), Log(mute=True))
    assert timed == ["2x128"]


def test_a_run_writes_its_size_down_and_is_resumed_with_it(
    store: TokenStore,
    long_text: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = run_of_any_size(store, tmp_path / "run", "1h", max_epochs=0.2, quiet=False, learning_rate=None)
    with monkeypatch.context() as patch:
        patch.setattr(sizing, "measure_step", steps_taking({"2x128": 1e-6, "4x256": 2e-6, "4x512": 100.0}, []))
        patch.setattr("bertsmith.training.pretrain.measure_step", lambda *_, **__: 0.05)
        stop_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            pretrain(settings)
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))
    assert (written["size"], written["learning_rate"]) == ("mini", 1e-3)
    said = capsys.readouterr().err
    assert "size auto takes mini" in said
    assert "BERT 4x256" in said

    def again(*_: object) -> str:
        raise AssertionError("the size was chosen a second time")

    monkeypatch.setattr(sizing, "_largest_worth_it", again)
    pretrain(settings.model_copy(update={"resume": True}))
    assert load_pretraining_model(tmp_path / "run" / "model").config.hidden_size == 256


def test_it_needs_a_budget_and_no_size_beside_it(store: TokenStore, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs a budget, such as 20m"):
        tiny_run(store, tmp_path / "run", **OPEN | {"steps": 3})
    with pytest.raises(InputError, match="does not go with sharding fsdp"):
        run_of_any_size(store, tmp_path / "run", "3m", sharding="fsdp")
    with pytest.raises(InputError, match="chooses layers, hidden_size and heads"):
        tiny_run(store, tmp_path / "run", **OPEN | {"layers": 3}, budget="3m")
