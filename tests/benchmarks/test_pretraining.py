"""The benchmarks of training steps: they run, and both sides do equal work. Nothing here is about speed."""

import statistics
from pathlib import Path

import pytest
import torch


def small_workload(**changes: object):  # type: ignore[no-untyped-def]
    from steps import Workload

    numbers = {"layers": 2, "width": 24, "heads": 3, "vocabulary": 97, "batch": 7, "length": 33, "dropout": 0.0}
    return Workload("small", **{**numbers, **changes})


def test_both_sides_take_the_same_step() -> None:
    from steps import ENGINES, SIDES

    workload = small_workload()
    first, second = workload.data()[:2]
    after = {}
    for name in SIDES:
        torch.manual_seed(1)
        step, loss = ENGINES[name](workload.config, torch.float32, 0)
        after[name] = [loss(first), step(first, 1e-2), step(second, 1e-2), loss(second)]
    ours, theirs = after.values()
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert len(set(ours)) == 4  # steps change the weights


def test_fill_and_operations() -> None:
    from bertsmith.batch import Batch
    from bertsmith.planning.operations import operations, shape_of

    workload = small_workload(batch=400, fill=0.6)
    batch = workload.data()[0]
    assert batch.num_tokens / (400 * 33) == pytest.approx(0.606, abs=0.03)
    assert small_workload(fill=1.0).data()[0].num_tokens == 7 * 33
    one = Batch(
        *(torch.tensor([5, 6, 7]), torch.zeros(3), torch.arange(3), torch.tensor([0, 3]), 3),
        masked_positions=torch.tensor([1]),
    )
    # By hand, H = 24, one layer kept whole and one for the masked token and [CLS]; twice for forward, times three.
    projections, rest, attention = 3 * 24 * 24, 24 * 24 + 2 * 24 * 96, 2 * 3 * 3 * 24
    products = 2 * (3 * projections + attention) + (3 + 2) * rest + 24 * 24 + 24 * 97 + 24 * 24
    assert operations(workload.config, shape_of(one)) == 6 * products


def test_lines_of_the_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from steps import Outcome

    from pretraining import entry, row, workloads

    small, full = workloads(["mini", "full", "stream"], tmp_path)
    assert (small.fill, full.fill, full.dropout) == (0.59, 1.0, 0.0)
    assert "ko_mixed.txt is not there" in capsys.readouterr().err
    outcomes = {"bertsmith": Outcome([8.0, 12.0, 10.0], 500, 1.5), "transformers": Outcome([4.0, 3.0, 2.0], 1000, 1.5)}
    line = entry(small_workload(), outcomes, ceiling=1e9)
    assert (line["ratio"], line["tokens_per_second"]) == (4.0, 10.0)
    assert row(line).split()[0] == "small"


def test_growth_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import growth
    import steps

    monkeypatch.setattr(growth, "BASE", small_workload(width=64, heads=1))
    monkeypatch.setattr(steps, "_ROUND_SECONDS", 0.0)
    point = growth.measure("layers", 3, torch.float32, 1e9, rounds=2, threads=1)
    assert point.size == 3
    assert point.tokens_per_second > 0
    assert point.peak_mb > 50
    growth.draw({"layers": [point, point]}, tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size > 1000


def test_plan_and_measurement_of_a_small_size(monkeypatch: pytest.MonkeyPatch) -> None:
    import steps

    import planning

    monkeypatch.setattr(steps, "_ROUND_SECONDS", 0.0)
    line = planning.measure(small_workload(width=64, heads=1), torch.float32, rounds=2, threads=1)
    found = planning.figures(line, mfu=line.reached)
    assert found["seconds_ratio"] == 1.0
    assert found["seconds"] == found["predicted_seconds"] > 0
    assert 0.5 < found["peak_ratio"] < 2
    assert 0.9 < found["checkpoint_ratio"] < 1.1
    assert planning.row(line, 0.5).split()[0] == "small"


def test_loss_curves_are_compared_with_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    from loss_curve import Curve, compare

    falling = [10.0 - 0.1 * step for step in range(20)]
    compare({"bertsmith": [Curve(falling, 8.0), Curve(falling, 8.2)], "transformers": [Curve(falling, 8.3)]}, 20)
    last = capsys.readouterr().out.splitlines()[-1].split()
    assert [float(figure) for figure in last[2:]] == pytest.approx([8.1, 8.3, -0.2, 0.2])
    assert statistics.fmean(falling[:2]) == pytest.approx(9.95)
