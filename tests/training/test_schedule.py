"""Learning rates: the triangle of the paper, and runs whose length is learned on the way."""

from __future__ import annotations

import pytest

from bertsmith.training.schedule import fixed


def test_rises_then_falls_to_zero() -> None:
    schedule = fixed(peak=2.0, warmup=0.2, steps=50)
    rates = [schedule.learning_rate(step) for step in range(50)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == pytest.approx(2.0)
    assert rates[30] == pytest.approx(2.0 * 20 / 40)
    assert rates[49] == pytest.approx(2.0 / 40)
    assert rates == sorted(rates[:10]) + sorted(rates[10:], reverse=True)


def test_without_warmup_starts_at_the_peak() -> None:
    assert fixed(1.0, 0.0, 7).learning_rate(0) == 1.0


def test_one_step() -> None:
    assert fixed(1.0, 0.1, 1).learning_rate(0) > 0


def test_refit_is_continuous_and_still_ends_at_zero() -> None:
    schedule = fixed(1.0, 0.1, 1000).refit(300, 500)
    assert schedule.total_steps == 500
    assert schedule.progress(300) == pytest.approx(0.3)
    assert schedule.learning_rate(299) > schedule.learning_rate(300) > schedule.learning_rate(400)
    assert schedule.progress(499) == pytest.approx(1 - 0.7 / 200)
    assert schedule.progress(500) == 1.0
    # What was before the refit is as it was.
    assert schedule.progress(200) == pytest.approx(0.2)


def test_refit_never_ends_in_the_past() -> None:
    assert fixed(1.0, 0.1, 1000).refit(300, 5).total_steps == 301
