"""Layers weighed by what a model on top has learned (Peters et al. 2018, equation 1): a file with one share a layer."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

from bertsmith import files
from bertsmith.errors import InputError
from bertsmith.features.layers import Layers

PREFIX = "weighted:"
"""Before the file's name, where layers are chosen."""


def write_shares(path: Path, directory: Path, shares: Sequence[float]) -> None:
    """Write the shares (L + 1,) of a model's layers, the embeddings' first, with what tells the model apart."""
    files.write_json(path, {"shares": list(shares), "model": _fingerprint(directory)})


def read_shares(path: Path, directory: Path, num_layers: int) -> Layers:
    """Return all layers of a model with the shares of a file.

    Args:
        path: as :func:`write_shares` made it.
        directory: the model's.
        num_layers: L.

    Raises:
        InputError: the file cannot be read, is no such file, or is about another model.
    """
    values = files.read_json(path, what="the learned weights of layers")
    shares = values.get("shares")
    if not isinstance(shares, list) or not all(isinstance(share, int | float) and share >= 0 for share in shares):
        shares = []
    if not math.isclose(sum(shares), 1, abs_tol=1e-3):
        raise InputError("expected 'shares', a list of numbers from 0 that add up to 1", path=path)
    if len(shares) != num_layers + 1 or values.get("model") != _fingerprint(directory):
        raise InputError(
            f"its {len(shares)} weights were learned with another model than {directory} ({num_layers} layers and the "
            "embeddings)",
            path=path,
        )
    return Layers(tuple(range(num_layers + 1)), "weighted", tuple(float(share) for share in shares))


def _fingerprint(directory: Path) -> str:
    """Return a hash of the model's weights."""
    parts = [files.sha256(path) for path in sorted(directory.glob("*.safetensors"))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
