"""The vocabulary loss in pieces against torch's cross entropy over all logits."""

import pytest
import torch
import torch.nn.functional as F

from bertsmith.model import vocabulary_loss as module
from bertsmith.model.vocabulary_loss import vocabulary_loss


def parts(rows: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tensors = [torch.randn(size, generator=generator, dtype=dtype) for size in ((rows, 12), (37, 12), (37,))]
    return [tensor.requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("piece", [37, 100, 2**23])
@pytest.mark.parametrize("rows", [1, 13])
def test_loss_gradients_and_right_guesses(monkeypatch: pytest.MonkeyPatch, piece: int, rows: int) -> None:
    monkeypatch.setattr(module, "_PIECE", piece)
    labels = torch.arange(rows) * 2
    ours, theirs = parts(rows), parts(rows)
    logits = F.linear(*theirs)
    labels[0] = logits[0].argmax()
    loss, right = vocabulary_loss(*ours, labels)
    reference = F.cross_entropy(logits, labels, reduction="sum")
    torch.testing.assert_close(loss, reference)
    assert int(right) == int((logits.argmax(1) == labels).sum()) > 0
    (loss / 7).backward()
    (reference / 7).backward()
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our.grad, their.grad)


def test_no_masked_position_costs_nothing() -> None:
    tensors = parts(0)
    loss, right = vocabulary_loss(*tensors, torch.empty(0, dtype=torch.int64))
    loss.backward()
    assert (float(loss.detach()), int(right)) == (0.0, 0)
    assert tensors[1].grad is not None
    assert not tensors[1].grad.any()


def test_under_autocast_products_are_rounded_and_the_loss_is_not() -> None:
    ours, theirs = parts(13), parts(13)
    labels = torch.arange(13)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = vocabulary_loss(*ours, labels)
    reference = F.cross_entropy(F.linear(*theirs), labels, reduction="sum")
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, reference, rtol=2e-2, atol=0)
    loss.backward()
    reference.backward()
    for our, their in zip(ours, theirs, strict=True):
        assert our.grad is not None
        assert our.grad.dtype == torch.float32
        torch.testing.assert_close(our.grad, their.grad, rtol=5e-2, atol=5e-2)


def test_a_second_way_back_is_refused() -> None:
    loss, _ = vocabulary_loss(*parts(2), torch.tensor([1, 2]))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="twice"):
        loss.backward()
