"""The networks beside BERT: packed equals one by one, and every weight learns."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bertsmith.batch import Batch, pack
from bertsmith.comparison.frozen import FrozenVectors, VectorMemory
from bertsmith.comparison.networks import (
    BagOfVectors,
    CnnClassifier,
    LearnedEmbeddings,
    LstmClassifier,
    LstmTagger,
    weighted_sum,
)
from bertsmith.config import ModelConfig
from bertsmith.features.layers import Layers, parse_layers, token_vectors
from bertsmith.model.bert import Bert

LENGTHS = (7, 2, 13, 5, 1, 13)
ALL = [BagOfVectors, LstmClassifier, CnnClassifier, LstmTagger]


def batch_of(lengths: tuple[int, ...] = LENGTHS) -> Batch:
    rng = np.random.default_rng(3)
    return pack([rng.integers(5, 40, n) for n in lengths])


def pieces(batch: Batch) -> list[Batch]:
    ids = batch.token_ids.numpy()
    return [pack([ids[start:end]]) for start, end in itertools.pairwise(batch.sequence_starts.tolist())]


def small_bert() -> Bert:
    torch.manual_seed(5)
    numbers = {"vocab_size": 40, "num_hidden_layers": 3, "hidden_size": 12, "num_attention_heads": 2}
    return Bert(ModelConfig.parse(numbers | {"intermediate_size": 17, "max_position_embeddings": 20})).eval()


@pytest.mark.parametrize("network", ALL)
def test_packed_equals_one_by_one_and_all_weights_learn(network: type[nn.Module]) -> None:
    torch.manual_seed(2)
    model = network(LearnedEmbeddings(40, 11), 11, 3)
    batch = batch_of()
    together = model.eval()(batch)
    alone = torch.cat([model(piece) for piece in pieces(batch)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-5)
    assert together.shape == ((sum(LENGTHS) if network is LstmTagger else len(LENGTHS)), 3)
    F.cross_entropy(model.train()(batch), torch.arange(len(together)) % 3).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_order_counts_for_all_but_the_bag() -> None:
    batch = batch_of((9,))
    reversed_batch = pack([batch.token_ids.numpy()[::-1].copy()])
    for network in (BagOfVectors, LstmClassifier, CnnClassifier):
        torch.manual_seed(2)
        model = network(LearnedEmbeddings(40, 11), 11, 3).eval()
        same = torch.allclose(model(batch), model(reversed_batch), atol=1e-6)
        assert same == (network is BagOfVectors)


@pytest.mark.parametrize("choice", ["last", "second-to-last", "1,3"])
def test_frozen_vectors_are_the_encoder_s_and_made_once(choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bert, layers, memory = small_bert(), parse_layers(choice, 3), VectorMemory()
    source = FrozenVectors(bert, layers, memory)
    batch = batch_of()
    expected = token_vectors(bert, batch, layers, firsts_only=False)
    torch.testing.assert_close(source(batch), expected, atol=2e-3, rtol=2e-3)  # remembered in float16
    assert source.width == expected.shape[1]
    assert not list(source.parameters())

    def never(*arguments: object, **more: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr("bertsmith.comparison.frozen.token_vectors", never)
    part = batch_of((7, 2))
    torch.testing.assert_close(FrozenVectors(bert, layers, memory)(part), source(batch)[:9])


def test_vectors_are_exact_whatever_the_model_on_top_computes_in() -> None:
    bert, layers, batch = small_bert(), parse_layers("last", 3), batch_of()
    expected = FrozenVectors(bert, layers, VectorMemory())(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(FrozenVectors(bert, layers, VectorMemory())(batch), expected)
        logits = CnnClassifier(FrozenVectors(bert, layers, VectorMemory()), 12, 3)(batch)
    assert logits.isfinite().all()


def test_segments_tell_sequences_apart() -> None:
    bert, memory = small_bert(), VectorMemory()
    source = FrozenVectors(bert, parse_layers("last", 3), memory)
    ids = np.arange(5, 12)
    first, second = (source(pack([ids], [np.full(7, n)])) for n in (0, 1))
    assert not torch.allclose(first, second, atol=1e-2)


def test_vectors_without_room_are_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    bert, layers, batch = small_bert(), parse_layers("last", 3), batch_of()
    expected = FrozenVectors(bert, layers, VectorMemory())(batch)
    monkeypatch.setattr("bertsmith.comparison.frozen._MOST_BYTES", 12 * 2 * LENGTHS[0])
    memory = VectorMemory()
    for _ in range(2):
        torch.testing.assert_close(FrozenVectors(bert, layers, memory)(batch), expected, atol=2e-3, rtol=2e-3)
    assert memory.is_full


def test_weighted_layers_learn_their_weights() -> None:
    bert = small_bert()
    layers = Layers((0, 1, 2, 3))
    source = FrozenVectors(bert, layers, VectorMemory(), weighted=True)
    batch = batch_of()
    every = token_vectors(bert, batch, layers, firsts_only=False).view(-1, 4, 12)
    torch.testing.assert_close(source(batch), every.mean(1), atol=2e-3, rtol=2e-3)  # equal shares at first
    assert source.weights is not None
    with torch.no_grad():
        source.weights.copy_(torch.tensor([0.0, 9.0, 0.0, 0.0]))
    torch.testing.assert_close(source(batch), every[:, 1], atol=2e-2, rtol=2e-2)
    source(batch).square().sum().backward()
    assert source.weights.grad is not None
    assert source.weights.grad.abs().sum() > 0
    by_hand = (every * torch.tensor([0.1, 0.2, 0.3, 0.4])[:, None]).sum(1)
    torch.testing.assert_close(weighted_sum(every, torch.tensor([0.1, 0.2, 0.3, 0.4]).log()), by_hand)
