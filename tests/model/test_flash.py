"""What GPUs do, on the CPU: torch's function for packed sequences is swapped for one of plain operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen

from bertsmith.config import OptimizerSettings
from bertsmith.model import flash, kernels
from bertsmith.model.attention import attend_in_rectangles, packed_attention, plan_attention
from bertsmith.training.loop import Progress, train
from bertsmith.training.optimizer import make_optimizer
from bertsmith.training.schedule import fixed
from bertsmith.training.session import objective
from tests.training.test_loop import sequences, tiny, together

CPU = torch.device("cpu")
STARTS = torch.tensor([0, 1, 8, 11, 20])


def one_by_one(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor,
    max_q: int,
    max_k: int,
    *,
    window_size: tuple[int, int] = (-1, -1),
) -> Tensor:
    """Do what ``varlen_attn`` is documented to do, a sequence at a time."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert query.stride(-1) == 1
    assert max_q == max_k == int(cu_seq_q.diff().max())
    outputs = []
    for first, last in zip(cu_seq_q[:-1].tolist(), cu_seq_q[1:].tolist(), strict=True):
        q, k, v = (part[first:last].transpose(0, 1).float() for part in (query, key, value))
        scores = q @ k.transpose(1, 2) * q.shape[-1] ** -0.5
        if window_size == (-1, 0):
            scores = scores.masked_fill(~torch.ones(last - first, last - first, dtype=torch.bool).tril(), -torch.inf)
        outputs.append((scores.softmax(-1) @ v).transpose(0, 1).to(query.dtype))
    return torch.cat(outputs)


@pytest.fixture
def swapped(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The way of a GPU, and how many times it was taken."""
    taken: list[int] = []

    def counted(*arguments: object, **named: object) -> Tensor:
        taken.append(1)
        return one_by_one(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(varlen, "varlen_attn", counted)
    monkeypatch.setattr(flash, "is_there", lambda device: True)
    monkeypatch.setattr(kernels, "supports", lambda values: False)
    return taken


@pytest.mark.parametrize("left_to_right", [False, True])
def test_it_computes_what_rectangles_do(swapped: list[int], left_to_right: bool) -> None:
    torch.manual_seed(3)
    values = torch.randn(20, 3 * 32, dtype=torch.bfloat16).requires_grad_()
    plan = plan_attention(STARTS, CPU, left_to_right)
    wanted = torch.randn(20, 32)
    found = []
    for attend in (
        lambda: packed_attention(values, plan, 4, 0.0),
        lambda: attend_in_rectangles(values.float(), plan.rectangles, 4, 0.0, left_to_right),
    ):
        out = attend()
        (gradient,) = torch.autograd.grad((out.float() * wanted).sum(), values)
        found.append((out.float(), gradient.float()))
    assert len(swapped) == 1
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.02)


def test_when_it_is_taken(swapped: list[int]) -> None:
    half = torch.zeros(5, 3 * 32, dtype=torch.bfloat16)
    assert flash.supports(half, 4)
    assert flash.supports(half.half(), 4)
    assert not flash.supports(half.float(), 4)
    assert not flash.supports(half, 8)  # heads 4 wide
    assert not flash.supports(torch.zeros(5, 3 * 512, dtype=torch.bfloat16), 1)


def test_a_processor_goes_other_ways() -> None:
    assert not flash.is_there(CPU)
    assert not flash.is_there(torch.device("meta"))


def test_a_model_learns_the_same_with_it(swapped: list[int]) -> None:
    """Steps in bfloat16 by the loop, all layers and the gradient by the GPU's way."""

    def losses(steps: int) -> list[float]:
        model, settings = tiny(0.0, hidden_size=32), OptimizerSettings()
        reports = train(
            model, make_optimizer(model, settings), Progress(fixed(3e-3, 0.1, steps)),
            iter(lambda: [together(sequences(3))], None), objective(True),
            settings=settings, device=CPU, dtype=torch.bfloat16, seed=0,
        )  # fmt: skip
        return [report.loss for report in reports]

    with_it = losses(12)
    assert len(swapped) == 12 * 2
    unswapped: Callable[[Tensor, int], bool] = lambda values, heads: False  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flash, "supports", unswapped)
        without = losses(12)
    assert len(swapped) == 12 * 2
    assert with_it == pytest.approx(without, rel=0.01)
    assert with_it[-1] < 0.8 * with_it[0]
