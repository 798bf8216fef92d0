"""The start of a pre-training run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bertsmith.config import PretrainSettings
from bertsmith.errors import InputError
from bertsmith.model.heads import PretrainingModel
from bertsmith.pretraining.statistics import log_unigram
from bertsmith.text.store import TokenStore
from bertsmith.training.initial import initial_model, peak_rate
from tests.conftest import QUIET, tiny_run

RANDOM = {"initial_bias": "zero", "initial_embeddings": "random", "initial_layers": "random"}


def start(store: TokenStore, tmp_path: Path, **changes: object) -> PretrainingModel:
    return initial_model(tiny_run(store, tmp_path, **changes), store, np.arange(40), QUIET)


def test_random_start_is_bert_s(store: TokenStore, tmp_path: Path) -> None:
    model = start(store, tmp_path, **RANDOM)
    assert not model.mlm.bias.any()
    assert model.bert.embeddings.token.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_counted_start_changes_the_bias_and_known_tokens_only(store: TokenStore, tmp_path: Path) -> None:
    plain = start(store, tmp_path, **RANDOM)
    counted = start(store, tmp_path, initial_layers="random")
    different = {n for n, p in counted.named_parameters() if not torch.equal(p, dict(plain.named_parameters())[n])}
    assert different == {"mlm.bias", "bert.embeddings.token.weight"}
    assert torch.equal(counted.mlm.bias, torch.from_numpy(log_unigram(store.token_counts)))
    before, after = (model.bert.embeddings.token.weight.detach() for model in (plain, counted))
    special = store.tokenizer.special_ids
    assert torch.equal(after[special], before[special])
    changed = (before != after).any(1)
    seen = np.unique(np.concatenate([store.document(document) for document in range(40)]))
    assert np.array_equal(np.flatnonzero(changed.numpy()), seen)
    assert after[changed].square().mean().sqrt().item() == pytest.approx(0.02, rel=0.01)


def test_the_counted_start_knows_frequencies_at_once(store: TokenStore, tmp_path: Path) -> None:
    from bertsmith.pretraining.sampler import Sampler

    batch = Sampler(store, max_length=33, batch_size=40, seed=3).batch(0)
    losses = []
    for bias in ("zero", "unigram"):
        model = start(store, tmp_path, initial_bias=bias, initial_layers="random").eval()
        losses.append(float(model.losses(batch).mlm.detach()) / len(batch.masked_labels))
    entropy = -float(log_unigram(store.token_counts)[batch.masked_labels.numpy()].mean())
    assert losses[0] > entropy + 0.3
    assert losses[1] == pytest.approx(entropy, abs=0.05)


@pytest.mark.parametrize(("direction", "before"), [("both", False), ("left-to-right", True)])
def test_neighbours_are_looked_at_from_the_first_step(
    store: TokenStore, tmp_path: Path, direction: str, before: bool
) -> None:
    plain = start(store, tmp_path, initial_layers="random", direction=direction)
    model = start(store, tmp_path, direction=direction)
    different = {n for n, p in model.named_parameters() if not torch.equal(p, dict(plain.named_parameters())[n])}
    assert different == {
        "bert.embeddings.position.weight",
        "bert.layers.0.query_key_value.weight",
        "bert.layers.0.attention_output.weight",
        "mlm.transform.weight",
        "mlm.transform.bias",
        "mlm.norm.weight",
    }
    # The first head looks at the token before in both; the second at the one after, where it can be seen.
    query, key, _ = model.bert.layers[0].query_key_value.weight.detach().view(3, 2, 10, 20)  # type: ignore[operator]
    waves = model.bert.embeddings.position.weight.detach()[:30, -10:]
    for head, distance in enumerate((-1, -2) if before else (-1, 1)):
        scores = (waves @ query[head, :, -10:].T) @ (waves @ key[head, :, -10:].T).T
        inside = torch.arange(2, 28)
        assert torch.equal(scores[inside].argmax(1), inside + distance)


@pytest.mark.parametrize(
    ("given", "rate"),
    [
        ({"size": "tiny"}, 2e-3),
        ({"size": "mini"}, 1e-3),
        ({"size": "medium"}, 5e-4),
        ({"size": "mini", "hidden_size": 640}, 4e-4),
        ({"size": "mini", "hidden_size": 20}, 2e-3),
        ({"size": "small", "learning_rate": 3e-4}, 3e-4),
    ],
)
def test_the_rate_is_in_inverse_proportion_to_the_width(tmp_path: Path, given: dict[str, Any], rate: float) -> None:
    settings = PretrainSettings.parse({"store": tmp_path, "output": tmp_path, **given})
    assert peak_rate(settings) == pytest.approx(rate)


def test_recipe_paper_fills_what_is_not_given(tmp_path: Path) -> None:
    common = {"store": tmp_path, "output": tmp_path}
    paper = PretrainSettings.parse({**common, "recipe": "paper", "batch_size": 64})
    assert paper.dropout == 0.1
    assert {name: getattr(paper, name) for name in RANDOM} == RANDOM
    assert (paper.learning_rate, paper.warmup, paper.batch_size) == (1e-4, 0.01, 64)
    left_open = PretrainSettings.parse({**common, "recipe": "paper", "learning_rate": None})
    assert left_open.learning_rate == 1e-4
    with pytest.raises(InputError, match="dropout"):
        PretrainSettings.parse({**common, "recipe": "paper", "dropout": None})
    assert PretrainSettings.parse(common).initial_bias == "unigram"
    paper.write(tmp_path / "config.yaml")
    assert PretrainSettings.from_yaml(tmp_path / "config.yaml") == paper
