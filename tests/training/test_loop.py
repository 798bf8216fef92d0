"""The step: one denominator over micro-batches, dropout by key, and a stop that ends on a whole step."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import nn

from bertsmith.batch import Batch, pack
from bertsmith.config import ModelConfig, OptimizerSettings
from bertsmith.model.heads import PretrainingModel
from bertsmith.training.budget import Budget, measure_step
from bertsmith.training.loop import (
    Progress,
    StopRequest,
    accumulate_gradients,
    dropout_seed,
    metrics_entry,
    train,
)
from bertsmith.training.optimizer import make_optimizer
from bertsmith.training.schedule import fixed
from bertsmith.training.session import objective as _objective

CPU = torch.device("cpu")


def tiny(dropout: float, hidden_size: int = 20) -> PretrainingModel:
    torch.manual_seed(6)
    return PretrainingModel(
        ModelConfig(
            vocab_size=41,
            num_hidden_layers=2,
            hidden_size=hidden_size,
            num_attention_heads=2,
            intermediate_size=33,
            max_position_embeddings=19,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
    )


def sequences(seed: int, count: int = 7) -> list[Batch]:
    """Sequences of their own as batches of one, each with a different number of masked tokens."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for n in range(count):
        length = 5 + 2 * n
        batch = pack([torch.randint(5, 41, (length,), generator=generator).numpy()], labels=[n % 2])
        masked = torch.arange(1, 2 + n % 4)
        batches.append(replace(batch, masked_positions=masked, masked_labels=masked + 20))
    return batches


def together(batches: list[Batch]) -> Batch:
    starts = torch.cat([b.sequence_starts[-1:] for b in batches]).cumsum(0)
    offsets = [0, *starts[:-1].tolist()]
    return Batch(
        token_ids=torch.cat([b.token_ids for b in batches]),
        segment_ids=torch.cat([b.segment_ids for b in batches]),
        position_ids=torch.cat([b.position_ids for b in batches]),
        sequence_starts=torch.tensor([0, *starts.tolist()]),
        max_length=max(b.max_length for b in batches),
        masked_positions=torch.cat([b.masked_positions + o for b, o in zip(batches, offsets, strict=True)]),
        masked_labels=torch.cat([b.masked_labels for b in batches]),
        labels=torch.cat([b.labels for b in batches]),
    )


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("next_sentence", [True, False])
def test_micro_batches_have_one_denominator(next_sentence: bool) -> None:
    parts = sequences(1)
    whole, split = tiny(0.0), tiny(0.0)
    objective = _objective(next_sentence)
    arguments = (objective, 3, CPU, torch.float32, 0)
    for parameter in (*whole.parameters(), *split.parameters()):
        parameter.grad = torch.zeros_like(parameter)
    losses = accumulate_gradients(whole, [together(parts)], *arguments)
    split_losses = accumulate_gradients(split, [together(parts[:2]), together(parts[2:6]), parts[6]], *arguments)
    assert losses == pytest.approx(split_losses, rel=1e-6)
    assert ("nsp_loss" in losses) == next_sentence
    for (name, a), b in zip(gradients(whole).items(), gradients(split).values(), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-7), name


def test_dropout_depends_on_the_step_and_nothing_before() -> None:
    batch = [together(sequences(2))]
    losses = []
    for step, noise in ((5, 0), (5, 99), (6, 0)):
        torch.manual_seed(noise)
        losses.append(accumulate_gradients(tiny(0.4), batch, _objective(True), step, CPU, torch.float32, 0)["mlm_loss"])
    assert losses[0] == losses[1] != losses[2]
    assert dropout_seed(1, 2) != dropout_seed(2, 1)


def test_loss_falls_and_the_optimizer_decays_matrices_only() -> None:
    model = tiny(0.0)
    settings = OptimizerSettings(weight_decay=0.3)
    optimizer = make_optimizer(model, settings)
    decayed, plain = optimizer.param_groups
    assert decayed["weight_decay"] == 0.3
    assert plain["weight_decay"] == 0.0
    assert all(p.ndim == 1 for p in plain["params"])
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))

    def forever() -> Iterator[list[Batch]]:
        while True:
            yield [together(sequences(3))]

    progress = Progress(fixed(3e-3, 0.1, 60))
    reports = list(
        train(
            model, optimizer, progress, forever(), _objective(True),
            settings=settings, device=CPU, dtype=torch.float32, seed=0,
        )
    )  # fmt: skip
    assert [r.step for r in reports] == list(range(1, 61))
    assert reports[-1].loss < 0.3 * reports[0].loss
    assert progress.tokens == 60 * together(sequences(3)).num_tokens
    assert all(r.grad_norm > 0 for r in reports)


def test_first_signal_asks_and_second_interrupts() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_measuring_a_step_leaves_the_model_alone() -> None:
    model = tiny(0.1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    seconds = measure_step(
        model, lambda step: [together(sequences(step))], _objective(True), OptimizerSettings(), CPU, torch.float32,
        at_most=0.01,
    )  # fmt: skip
    assert 0 < seconds < 10
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("most_steps", "planned", "step_seconds", "made"),
    [
        (1_000, 100, 1.0, 50),  # the machine turns out to be half as fast as measured
        (17, 17, 0.25, 17),  # the text is used up before the time
        (60, 60, 1.0, 50),  # both: a slow machine still ends on time
    ],
)
def test_a_budget_follows_the_speed_and_the_text(
    monkeypatch: pytest.MonkeyPatch, most_steps: int, planned: int, step_seconds: float, made: int
) -> None:
    now = 100.0
    monkeypatch.setattr("bertsmith.training.budget.time.monotonic", lambda: now)
    budget = Budget(seconds=50.0, start=100.0, most_steps=most_steps)
    progress = Progress(fixed(1.0, 0.1, budget.last_step(0, 0.5)))
    assert progress.schedule.total_steps == planned
    while progress.step < progress.schedule.total_steps:
        now += step_seconds
        progress.step += 1
        progress.seconds += step_seconds
        progress.schedule = budget.refit(progress)
    assert abs(progress.step - made) <= 1
    assert progress.schedule.learning_rate(progress.step - 1) < 0.1
    assert len(progress.schedule.segments) <= 52


def _forever(seed: int) -> Iterator[list[Batch]]:
    while True:
        yield [together(sequences(seed))]


def test_float16_scales_the_loss_and_skips_what_overflows() -> None:
    """At a factor of 2^25 a gradient is above 65,504; the factor is halved until it fits, and doubled after 3 steps."""
    model, settings = tiny(0.0), OptimizerSettings()
    optimizer = make_optimizer(model, settings)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = {
        "scale": 2.0**25,
        "growth_factor": 2.0,
        "backoff_factor": 0.5,
        "growth_interval": 3,
        "_growth_tracker": 0,
    }
    progress = Progress(fixed(3e-3, 0.1, 60), loss_scale=state)
    steps = train(
        model, optimizer, progress, _forever(3), _objective(True),
        settings=settings, device=CPU, dtype=torch.float16, seed=0,
    )  # fmt: skip
    first = next(steps)
    assert first.overflow == 2.0**25
    assert first.refusal is None
    assert metrics_entry(first, progress)["kind"] == "skipped"
    assert "33,554,432" in metrics_entry(first, progress)["reason"]
    assert progress.loss_scale["scale"] == 2.0**24
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    reports = [first, *steps]
    # More steps than may be bad in a row.
    assert sum(r.overflow is not None for r in reports) > 10
    assert progress.refused == 0
    good = [r for r in reports if r.overflow is None]
    assert good[-1].loss < 0.5 * good[0].loss
    assert all(r.grad_norm < 1e3 for r in good)


def test_a_gradient_that_no_scale_helps_is_a_bad_step() -> None:
    model, settings = tiny(0.0), OptimizerSettings()
    objective = _objective(True)

    def sums(model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        # A finite loss with an infinite gradient.
        return {name: value + (value - value.detach()).sqrt() for name, value in objective.sums(model, batch).items()}

    progress = Progress(fixed(3e-3, 0.1, 60), loss_scale={**torch.amp.GradScaler("cpu").state_dict(), "scale": 2.0})
    steps = train(
        model, make_optimizer(model, settings), progress, _forever(3), replace(objective, sums=sums),
        settings=settings, device=CPU, dtype=torch.float16, seed=0,
    )  # fmt: skip
    skipped, bad = next(steps), next(steps)
    assert (skipped.overflow, skipped.refusal) == (2.0, None)
    assert bad.overflow is None
    assert "norm" in str(bad.refusal)
    assert progress.refused == 1


def test_compiled_layers_take_any_number_of_tokens() -> None:
    """One graph for all layers and lengths, and what comes out is the same."""
    from torch._dynamo.utils import counters

    plain, compiled = tiny(0.0), tiny(0.0)
    compiled.bert.compile_layers(backend="aot_eager")
    counters.clear()
    for count in (3, 5, 4, 7):
        found = []
        for model in (plain, compiled):
            model.zero_grad()
            losses = accumulate_gradients(
                model, [together(sequences(count, count))], _objective(True), 0, CPU, torch.float32, 0
            )
            found.append([*losses.values(), *(p.grad.norm() for p in model.parameters() if p.grad is not None)])
        torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert compiled.state_dict().keys() == plain.state_dict().keys()
