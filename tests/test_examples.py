"""The commands of examples/README.md, as they stand there."""

from __future__ import annotations

import csv
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", ["korean", "english"])
def test_labelled_files_do_not_overlap(name: str) -> None:
    rows = {}
    for part in ("train", "dev"):
        with (ROOT / "examples" / f"{name}-{part}.csv").open(encoding="utf-8", newline="") as file:
            rows[part] = list(csv.DictReader(file))
    assert (len(rows["train"]), len(rows["dev"])) == (33, 9)
    assert {r["label"] for r in rows["train"]} == {r["label"] for r in rows["dev"]}
    assert not {r["text"] for r in rows["train"]} & {r["text"] for r in rows["dev"]}


def test_every_command_works(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    block = re.search(r"```\n(.*?)```", (ROOT / "examples" / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    lines = block[1].strip().splitlines()
    assert len(lines) == 7
    for line in lines:
        command = [sys.executable, "-m", *shlex.split(line)]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=120)
        assert result.returncode == 0, f"{line}\n{result.stderr}"
    assert len(result.stdout.splitlines()) == 9
