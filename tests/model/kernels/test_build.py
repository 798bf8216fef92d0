"""Compiling the kernels: once, for this processor, and never a reason to stop."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bertsmith.model.kernels import build

SCRIPT = """
import torch
from bertsmith.model.attention import packed_attention, plan_attention
from bertsmith.model.kernels import supports
values = torch.randn(9, 24, generator=torch.Generator().manual_seed(1))
out = packed_attention(values, plan_attention(torch.tensor([0, 4, 9]), values.device), 2, 0.0)
print(supports(values), f"{float(out.double().sum()):.4f}")
"""


def outcome(**environment: str) -> list[str]:
    """Return whether another process has the kernel, and what its attention gives."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture
def compiler(tmp_path: Path) -> str:
    """Return a compiler of this machine that does not optimise: what is tested here is where its work ends up."""
    script = tmp_path / "quick"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(build._compiler() or [])} "$@" -O0\n')
    script.chmod(0o755)
    return str(script)


needs_compiler = pytest.mark.skipif(build._compiler() is None, reason="no C++ compiler")


@needs_compiler
def test_compiled_once_found_again_and_made_anew_where_it_is_rubbish(tmp_path: Path, compiler: str) -> None:
    here = {"XDG_CACHE_HOME": str(tmp_path), "CXX": compiler}
    assert outcome(**here)[0] == "True"
    (made,) = (tmp_path / "bertsmith").iterdir()
    stamp = made.stat().st_mtime_ns
    assert outcome(**here)[0] == "True"
    assert [path.stat().st_mtime_ns for path in (tmp_path / "bertsmith").iterdir()] == [stamp]
    made.write_bytes(b"not a library")
    assert outcome(**here)[0] == "True"


def test_without_it_the_same_numbers(tmp_path: Path) -> None:
    switched_off = outcome(BERTSMITH_KERNELS="0")
    assert switched_off[0] == "False"
    fails = tmp_path / "fails"
    fails.write_text("#!/bin/sh\nexit 1\n")
    fails.chmod(0o755)
    assert outcome(CXX=str(fails), XDG_CACHE_HOME=str(tmp_path)) == switched_off
    assert outcome()[1] == switched_off[1]


@needs_compiler
def test_a_cache_that_cannot_be_written(tmp_path: Path, compiler: str) -> None:
    a_file = tmp_path / "file"
    a_file.write_text("")
    assert outcome(XDG_CACHE_HOME=str(a_file), CXX=compiler)[0] == "True"
