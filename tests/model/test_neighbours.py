"""Heads that begin by looking at neighbours."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bertsmith.batch import Batch, pack
from bertsmith.config import ModelConfig
from bertsmith.model.bert import Bert
from bertsmith.model.heads import MaskedLanguageHead
from bertsmith.model.neighbours import compare_with_embeddings, look_at_neighbours


def network(**changes: int) -> Bert:
    numbers = {"vocab_size": 50, "num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 4}
    numbers |= {"intermediate_size": 9, "max_position_embeddings": 300}
    torch.manual_seed(4)
    return Bert(ModelConfig.parse(numbers | changes)).eval()


def weights_of(bert: Bert, batch: Batch, layer: int) -> torch.Tensor:
    """Return (A, T, T), a layer's attention weights for a batch of one sequence."""
    with torch.no_grad():
        outputs = bert(batch, all_layers=True).layers
        assert outputs is not None
        query, key, _ = bert.layers[layer].query_key_value(outputs[layer]).chunk(3, 1)  # type: ignore[operator]
        heads = bert.config.num_attention_heads
        query, key = (part.view(batch.num_tokens, heads, -1).transpose(0, 1) for part in (query, key))
        return (query @ key.transpose(1, 2) / query.shape[-1] ** 0.5).softmax(-1)


def sentence(length: int) -> Batch:
    return pack([np.random.default_rng(1).integers(5, 50, length)])


@pytest.mark.parametrize("length", [23, 299])
def test_heads_look_where_they_should(length: int) -> None:
    bert = network()
    look_at_neighbours(bert, [(-1, 1, -3)], np.random.default_rng(2))
    batch = sentence(length)
    for head, distance in ((0, -1), (1, 1), (2, -3)):
        weights = weights_of(bert, batch, 0)[head]
        inside = torch.arange(max(0, -distance), length - max(0, distance))
        looked_at = weights[inside].argmax(1)
        assert (looked_at == inside + distance).float().mean() > 0.97
        assert weights[inside, inside + distance].mean() > 0.3
    # The last head of the first layer was left as it was: nothing stands out.
    assert weights_of(bert, batch, 0)[3].max() < 3 / length


def test_only_positions_and_the_named_heads_change() -> None:
    plain, changed = network(), network()
    look_at_neighbours(changed, [(-1, 1)], np.random.default_rng(2))
    before = dict(plain.named_parameters())
    different = {name for name, p in changed.named_parameters() if not torch.equal(p, before[name])}
    assert different == {
        "embeddings.position.weight",
        "layers.0.query_key_value.weight",
        "layers.0.attention_output.weight",
    }
    old, new = (
        dict(b.named_parameters())["layers.0.query_key_value.weight"].view(3, 4, 32, 128) for b in (plain, changed)
    )
    assert torch.equal(new[:, 2:], old[:, 2:]), "the other heads are left alone"
    positions = changed.embeddings.position.weight
    assert positions.square().mean().sqrt().item() == pytest.approx(0.02, rel=1e-4)
    assert all(p.is_contiguous() and p.requires_grad for p in changed.parameters())


@pytest.mark.parametrize(
    "changes", [{"hidden_size": 12, "num_attention_heads": 12}, {"hidden_size": 15, "num_attention_heads": 3}]
)
def test_odd_and_tiny_heads(changes: dict[str, int]) -> None:
    bert = network(**changes)
    look_at_neighbours(bert, [(-1, 1, -2, 2, 3, 4, 5)] * 3, np.random.default_rng(2))
    assert bert(sentence(7)).hidden.isfinite().all()


def test_what_stands_there_is_added_to_a_token() -> None:
    bert = network(num_hidden_layers=1)
    look_at_neighbours(bert, [(1,)], np.random.default_rng(2))
    batch = sentence(9)
    with torch.no_grad():
        embedded = bert.embeddings(batch).exact
        values = bert.layers[0].query_key_value(embedded)[:, -128:][:, :32]  # type: ignore[operator]
        handed = values @ bert.layers[0].attention_output.weight[:, :32].T  # type: ignore[operator, index]
    # The first columns come through by half, the others hardly.
    slope = (handed[:, :32] * embedded[:, :32]).sum() / embedded[:, :32].square().sum()
    assert slope.item() == pytest.approx(0.5, abs=0.1)
    assert handed[:, 32:].square().mean() < 0.1 * handed[:, :32].square().mean()


def test_the_output_layer_begins_straight() -> None:
    torch.manual_seed(2)
    config = ModelConfig.parse({"vocab_size": 50, "hidden_size": 96, "num_attention_heads": 3, "intermediate_size": 9})
    head = MaskedLanguageHead(config)
    vectors = torch.nn.functional.layer_norm(torch.randn(70, 96), (96,))
    compare_with_embeddings(head)
    out = head.transformed(vectors) / 2
    assert (out * vectors).mean().item() > 0.95
