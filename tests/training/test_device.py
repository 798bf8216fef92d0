"""Which arithmetic a run takes where."""

from __future__ import annotations

import pytest
import torch

from bertsmith.training import device
from bertsmith.training.device import pick_precision


@pytest.mark.parametrize(("has_it", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_gpu_is_asked_and_not_timed(monkeypatch: pytest.MonkeyPatch, has_it: bool, dtype: torch.dtype) -> None:
    """On an H200 products of a small model took as long in float32, which was then taken and 2 to 4 times slower."""
    monkeypatch.setattr(device, "_time_product", lambda *_, **__: pytest.fail("a product was timed"))

    def supported(including_emulation: bool = True) -> bool:
        assert not including_emulation
        return has_it

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert pick_precision("auto", torch.device("cuda"), 20) == dtype


@pytest.mark.parametrize(("seconds", "dtype"), [(0.6, torch.bfloat16), (0.8, torch.float32)])
def test_a_processor_is_timed_and_bfloat16_must_win_clearly(
    monkeypatch: pytest.MonkeyPatch, seconds: float, dtype: torch.dtype
) -> None:
    taken = {torch.float32: 1.0, torch.bfloat16: seconds}
    monkeypatch.setattr(device, "_time_product", lambda kind, *_, **__: taken[kind])
    assert pick_precision("auto", torch.device("cpu"), 20) == dtype
