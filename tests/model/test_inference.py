"""Encoders that are fixed for inference give what they gave before, in float32 and nearly so in bfloat16."""

from __future__ import annotations

import copy
import ctypes
import os
import subprocess
import sys

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


_GROWTH = """
import ctypes
import torch
from bertsmith.batch import pack
from bertsmith.config import ModelConfig
from bertsmith.model.bert import Bert
from bertsmith.model.inference import fix_weights

names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
class Use(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in names]

use = ctypes.CDLL(None).mallinfo2
use.restype = Use
torch.set_num_threads(1)
bert = Bert(ModelConfig(vocab_size=99, hidden_size=64, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=128, max_position_embeddings=700)).eval()
assert fix_weights(bert, torch.float32)
with torch.inference_mode():
    for rows in range(20, 600):
        bert(pack([[7] * rows]))
        if rows == 200:
            before = use().uordblks
print((use().uordblks - before) / 1e6)
"""


def test_memory_does_not_grow_with_lengths_of_batches() -> None:
    if not hasattr(ctypes.CDLL(None), "mallinfo2") or not inference._can_lay_out(torch.float32):
        pytest.skip("this machine cannot tell, or has no products to remember")
    environment = {name: value for name, value in os.environ.items() if name not in inference._CACHES}
    found = subprocess.run(
        [sys.executable, "-c", _GROWTH], capture_output=True, text=True, check=True, env=environment, timeout=120
    )
    assert float(found.stdout) < 15
