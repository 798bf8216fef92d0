"""Which parameters learn, how fast, and which decay."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from bertsmith.batch import pack
from bertsmith.config import ModelConfig
from bertsmith.model.heads import SequenceClassifier
from bertsmith.task_config import ClassifySettings
from bertsmith.training.optimizer import AdamW, apply_gradients, make_finetuning_optimizer

CONFIG = ModelConfig(
    vocab_size=23,
    num_hidden_layers=3,
    hidden_size=10,
    num_attention_heads=2,
    intermediate_size=13,
    max_position_embeddings=11,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
)


def moved(**settings: object) -> dict[str, float]:
    """Return how far each parameter is after a step."""
    torch.manual_seed(1)
    model = SequenceClassifier(CONFIG, 3)
    values = {"model": "m", "train": "a", "dev": "b", "output": "o", "weight_decay": 0.0} | settings
    optimizer = make_finetuning_optimizer(model, ClassifySettings.parse(values))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    logits = model(pack([[3, 4, 5], [6, 7]], [[0, 1, 1], [0, 1]]))
    (100 * torch.nn.functional.cross_entropy(logits, torch.tensor([0, 2]))).backward()
    apply_gradients(model, optimizer, 1e-3, 1e9)
    return {name: float((p.detach() - before[name]).abs().max()) for name, p in model.named_parameters()}


def test_everything_learns_at_the_same_rate_unless_told_otherwise() -> None:
    # The first step of Adam moves every parameter that has a gradient by nearly the learning rate.
    for name, distance in moved().items():
        assert distance == pytest.approx(1e-3, rel=0.05), name


def test_lower_layers_learn_more_slowly() -> None:
    distances = moved(layer_decay=0.5)
    for name, expected in (
        ("classifier.weight", 1e-3),
        ("bert.pooler.weight", 1e-3),
        ("bert.layers.2.output.weight", 0.5e-3),
        ("bert.layers.0.output.weight", 0.125e-3),
        ("bert.embeddings.token.weight", 0.0625e-3),
    ):
        assert distances[name] == pytest.approx(expected, rel=0.05), name


def test_frozen_layers_stay() -> None:
    distances = moved(freeze_layers=2)
    for name, distance in distances.items():
        frozen = name.startswith(("bert.embeddings.", "bert.layers.0.", "bert.layers.1."))
        assert (distance == 0.0) == frozen, name


def test_adamw_is_that_of_torch() -> None:
    def trained(kind: type[torch.optim.AdamW]) -> tuple[list[torch.Tensor], int]:
        torch.manual_seed(0)
        model = torch.nn.Linear(9, 4)
        groups = [{"params": [model.weight], "weight_decay": 0.1}, {"params": [model.bias], "weight_decay": 0.0}]
        optimizer = kind(groups, lr=0.0, betas=(0.9, 0.99), eps=1e-6, fused=True)
        for _ in range(5):
            model(torch.randn(7, 9)).square().sum().backward()
            apply_gradients(model, optimizer, 0.01, 1.0)
        assert model.weight.grad is None
        moments = [optimizer.state[p][name] for p in model.parameters() for name in ("exp_avg", "exp_avg_sq", "step")]
        return [*model.parameters(), *moments], len(optimizer.param_groups)

    ours, groups = trained(AdamW)
    theirs, _ = trained(torch.optim.AdamW)
    assert groups == 2
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_the_compiler_is_not_imported() -> None:
    code = """
import sys, torch
from bertsmith.training.optimizer import AdamW, apply_gradients
model = torch.nn.Linear(2, 1)
optimizer = AdamW(model.parameters(), fused=True)
model(torch.ones(1, 2)).sum().backward()
apply_gradients(model, optimizer, 0.1, 1.0)
sys.exit("torch._dynamo" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("limit", [0.1, 1e6])
def test_gradients_are_clipped_by_their_global_norm(fused: bool, limit: float) -> None:
    def stepped(ours: bool) -> tuple[float, list[torch.Tensor]]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(9, 4), torch.nn.Linear(4, 2))
        model[0].bias.requires_grad_(False)
        optimizer = AdamW(model.parameters(), lr=0.01, betas=(0.9, 0.99), eps=1e-6, fused=fused)
        for _ in range(3):
            model(torch.randn(7, 9)).square().sum().backward()
            if ours:
                norm = apply_gradients(model, optimizer, 0.01, limit)
            else:
                norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), limit))
                optimizer.step()
                optimizer.zero_grad()
        state = [optimizer.state[p][name] for p in optimizer.state for name in ("exp_avg", "exp_avg_sq", "step")]
        return norm, [*model.parameters(), *state]

    (our_norm, ours), (norm, theirs) = stepped(True), stepped(False)
    assert our_norm == norm
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-6, atol=1e-9)
