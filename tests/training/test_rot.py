"""A flipped bit in any file of a checkpoint or a model is found before the file is used, and named."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.model.weights import load_encoder, model_directory, read_info
from bertsmith.text.tokenizer import Tokenizer
from bertsmith.training.checkpoint import last_checkpoint

FILES = {"checksums.json", "config.json", "model.safetensors", "tokenizer.json", "vocab.txt"}


def flipped(directory: Path, seed: int) -> Iterator[Path]:
    """Flip a random bit in every file in turn, twice each, and put it right again."""
    rng = np.random.default_rng(seed)
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    assert {path.name for path in paths} >= FILES
    for path in [*paths, *paths]:
        whole = path.read_bytes()
        at, bit = int(rng.integers(len(whole))), int(rng.integers(8))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        yield path
        path.write_bytes(whole)


def as_fine_tuning_does(directory: Path) -> None:
    read_info(model_directory(directory))


@pytest.mark.parametrize("seed", range(3))
def test_in_a_model(run: Path, tmp_path: Path, seed: int) -> None:
    model = tmp_path / "model"
    shutil.copytree(run / "model", model)
    for path in flipped(model, seed):
        with pytest.raises(InputError) as caught:
            load_encoder(model)
        assert caught.value.path == path
        # Before the weights are read, and without them: a start from scratch, a tokenizer alone.
        early: list[Callable[[Path], object]] = [] if path.suffix == ".safetensors" else [as_fine_tuning_does]
        early += [Tokenizer.load] if path.name in ("tokenizer.json", "vocab.txt", "checksums.json") else []
        for use in early:
            with pytest.raises(InputError) as caught:
                use(model)
            assert caught.value.path == path
    load_encoder(model)


def test_in_a_checkpoint(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = tmp_path / "checkpoints"
    shutil.copytree(run / "checkpoints", checkpoints)
    before, newest = sorted(checkpoints.iterdir())
    named = set()
    for path in flipped(newest, 5):
        assert last_checkpoint(tmp_path, Log()) == before
        assert path.name in capsys.readouterr().err.replace("\n", "")
        named.add(path.name)
    assert named >= {"optimizer.safetensors", "state.json", *FILES}
    assert last_checkpoint(tmp_path, Log()) == newest
