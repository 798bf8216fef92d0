"""The cache gives what the encoder gives, never another model's vectors, and serves two processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bertsmith.errors import InputError
from bertsmith.features.cache import encode_cached
from bertsmith.features.encoder import Encoder
from tests.features.small import save, some_texts


def test_what_is_known_is_not_made_again(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder.load(model, threads=1)
    texts = [*some_texts(1201), "", ("a b", "c"), "a", "a"]
    expected = encoder.encode(texts)
    made: list[object] = []
    encode = Encoder.encode
    monkeypatch.setattr(Encoder, "encode", lambda self, given: made.extend(given) or encode(self, given))
    first = encode_cached(encoder, texts, tmp_path / "cache")
    np.testing.assert_allclose(first, expected, atol=1e-5)
    assert len(made) == len(set(texts))
    made.clear()
    again = encode_cached(encoder, [*texts[::-1], "new"], tmp_path / "cache")
    np.testing.assert_array_equal(again[:-1], first[::-1])
    assert made == ["new"]


def test_vectors_of_another_model_or_recipe_are_not_taken(tmp_path: Path, model: Path) -> None:
    encoders = [
        Encoder.load(model),
        Encoder.load(save(tmp_path / "other", seed=6)),
        Encoder.load(model, pooling="cls"),
        Encoder.load(model, layers="all"),
    ]
    for encoder in encoders:
        found = encode_cached(encoder, ["a b", "cd"], tmp_path / "cache")
        np.testing.assert_allclose(found, encoder.encode(["a b", "cd"]), atol=1e-5)


def test_two_processes_at_once(tmp_path: Path, model: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from bertsmith.features.cache import encode_cached\n"
        "from bertsmith.features.encoder import Encoder; from tests.features.small import some_texts\n"
        "encoder = Encoder.load(sys.argv[1], threads=1)\n"
        "for n in range(0, 400, 20): encode_cached(encoder, some_texts(400)[n : n + 40], Path(sys.argv[2]))"
    )
    arguments = [sys.executable, "-c", code, str(model), str(tmp_path / "cache")]
    processes = [subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        assert process.wait(120) == 0, process.stderr.read()
    encoder = Encoder.load(model)
    texts = some_texts(400)
    np.testing.assert_allclose(encode_cached(encoder, texts, tmp_path / "cache"), encoder.encode(texts), atol=1e-5)


def test_a_cache_that_is_none(tmp_path: Path, model: Path) -> None:
    encoder = Encoder.load(model)
    (tmp_path / "vectors.sqlite3").write_text("not a database at all, but long enough to look like one" * 9)
    with pytest.raises(InputError, match=r"vectors\.sqlite3: cannot be used as a cache"):
        encode_cached(encoder, ["a"], tmp_path)
    with pytest.raises(InputError, match="expected a directory"):
        encode_cached(encoder, ["a"], tmp_path / "vectors.sqlite3")
    assert encode_cached(encoder, [], tmp_path).shape == (0, 20)
