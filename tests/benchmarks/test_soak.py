"""The soak: a few kills of every long job, and that it would see a difference."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_killed_jobs_leave_what_others_leave() -> None:
    arguments = [sys.executable, str(BENCHMARKS / "soak.py"), "--kills", "2"]
    made = subprocess.run(arguments, capture_output=True, text=True, timeout=280, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    lines = made.stdout.splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["vocab", "prepare", "pretrain", "finetune", "embed"]
    assert all(line.endswith("the same bytes") for line in lines)


def test_a_difference_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    from soak import difference

    for name, loss in (("one", 2.5), ("two", 2.5), ("other", 2.25)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_bytes(b"same")
        entry = {"step": 1, "loss": loss, "seconds": hash(name) % 7}
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps(entry) + "\n", encoding="utf-8")
    assert difference(tmp_path / "one", tmp_path / "two") is None
    assert difference(tmp_path / "one", tmp_path / "other") == "metrics.jsonl differs"
    (tmp_path / "two" / "weights").write_bytes(b"another")
    assert difference(tmp_path / "one", tmp_path / "two") == "weights differs"
    (tmp_path / "two" / "more").touch()
    assert "more" in (difference(tmp_path / "one", tmp_path / "two") or "")
