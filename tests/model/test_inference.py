"""Encoders that are fixed for inference give what they gave before, in float32 and nearly so in bfloat16."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from bertsmith.batch import Batch, pack
from bertsmith.config import ModelConfig
from bertsmith.model import inference
from bertsmith.model.bert import Bert
from bertsmith.model.inference import fix_weights

CONFIG = ModelConfig(
    vocab_size=99,
    hidden_size=52,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=76,
    max_position_embeddings=61,
)


def some_batch(seed: int, lengths: tuple[int, ...] = (1, 17, 3, 60, 9)) -> Batch:
    draw = np.random.default_rng(seed)
    ids = [draw.integers(0, 99, length) for length in lengths]
    return pack(ids, [np.arange(length) * 2 // length for length in lengths])


@pytest.fixture
def bert() -> Bert:
    torch.manual_seed(5)
    made = Bert(CONFIG).eval()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
@torch.inference_mode()
def test_fixed_weights_give_the_same_vectors(bert: Bert, dtype: torch.dtype, tolerance: float) -> None:
    fixed = copy.deepcopy(bert)
    if not fix_weights(fixed, dtype):
        pytest.skip("torch cannot lay out weights here")
    for seed, wanted in ((0, None), (1, torch.tensor([0, 4, 19]))):
        batch = some_batch(seed)
        before = bert(batch, wanted=wanted, all_layers=wanted is None)
        after = fixed(batch, wanted=wanted, all_layers=wanted is None)
        pairs = [(before.hidden, after.hidden), (before.pooled, after.pooled)]
        pairs += zip(before.layers or (), after.layers or (), strict=True)
        assert len(pairs) == (2 if wanted is not None else 2 + 4)
        for old, new in pairs:
            assert new.dtype == torch.float32
            torch.testing.assert_close(new, old, atol=tolerance, rtol=tolerance)
            assert torch.nn.functional.cosine_similarity(old, new).min() > 0.999


@torch.inference_mode()
def test_a_sequence_does_not_depend_on_the_others(bert: Bert) -> None:
    fix_weights(bert, torch.float32)
    together, lengths = some_batch(3), (1, 17, 3, 60, 9)
    vectors = bert(together).hidden.split(lengths)
    for number, ids in enumerate(together.token_ids.split(lengths)):
        alone = bert(pack([ids.numpy()], [together.segment_ids.split(lengths)[number].numpy()])).hidden
        torch.testing.assert_close(alone, vectors[number], atol=1e-5, rtol=1e-5)


def test_without_the_operators_nothing_changes(bert: Bert, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "_can_lay_out", lambda dtype: False)
    before = {name: type(module) for name, module in bert.named_modules()}
    assert not fix_weights(bert, torch.float32)
    assert {name: type(module) for name, module in bert.named_modules()} == before
