"""The padded forward pass gives what the packed model gives, whatever stands in the padding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bertsmith.batch import Batch, pack
from bertsmith.errors import InputError
from bertsmith.exporting.padded import PaddedModel
from bertsmith.exporting.subject import VectorModel
from bertsmith.features.layers import Layers
from bertsmith.features.recipe import Recipe
from bertsmith.model.bert import Bert
from tests.exporting.small import network

LENGTHS = (11, 2, 41, 17, 3)


def rectangle(batch: Batch, filling: int) -> tuple[torch.Tensor, ...]:
    lengths = batch.sequence_starts.diff()
    mask = torch.arange(batch.max_length) < lengths[:, None]
    ids = torch.full(mask.shape, filling)
    ids[mask] = batch.token_ids
    segments = torch.zeros_like(ids)
    segments[mask] = batch.segment_ids
    return ids, mask.long(), segments


@pytest.fixture(scope="module")
def batch() -> Batch:
    draw = np.random.default_rng(1)
    segments = [(np.arange(n) > n // 2).astype(np.int64) for n in LENGTHS]
    return pack([draw.integers(0, 34, n) for n in LENGTHS], segments)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("classify", {}),
        ("classify", {"hidden_act": "gelu_new"}),
        ("classify", {"is_decoder": True, "hidden_act": "relu"}),
        ("choose", {}),
        ("tag", {}),
        ("tag", {"is_decoder": True}),
        ("qa", {}),
    ],
)
def test_tasks(name: str, changes: dict[str, Any], batch: Batch) -> None:
    model = network(name, **changes)
    ids, mask, segments = rectangle(batch, filling=9)
    with torch.no_grad():
        expected = model(batch)
        found = PaddedModel(model)(ids, mask, segments)
    assert expected.std() > 0.1
    if name in ("tag", "qa"):
        found = found[mask.bool()]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("is_decoder", [False, True])
def test_vectors(pooling: Any, normalize: bool, is_decoder: bool, batch: Batch) -> None:
    bert = network("vectors", is_decoder=is_decoder)
    assert isinstance(bert, Bert)
    recipe = Recipe(Layers((2,)), pooling, normalize, 41)
    with torch.no_grad():
        expected = VectorModel(bert, recipe)(batch)
        found = PaddedModel(bert, recipe)(*rectangle(batch, filling=9))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_an_lstm_is_refused() -> None:
    with pytest.raises(InputError, match="with an LSTM on top"):
        PaddedModel(network("classify", bilstm=True))
