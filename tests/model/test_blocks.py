"""What stands around a layer's products: the kernels and torch's operators give the same model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from bertsmith.batch import Batch
from bertsmith.config import ModelConfig
from bertsmith.model import blocks, kernels, vocabulary_loss
from bertsmith.model.blocks import Hidden, activated, linear, normalized, residual_norm
from bertsmith.model.heads import PretrainingModel
from bertsmith.model.kernels import products
from tests.model.test_parity import odd_batch, small_config

needs_kernels = pytest.mark.skipif(not kernels.supports(torch.zeros(1)), reason="no C++ compiler")


@pytest.fixture
def torch_alone(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Torch's operators, until the patch is undone."""
    monkeypatch.setattr(kernels, "supports", lambda values: False)
    monkeypatch.setattr(kernels, "multiplies", lambda x, weight, dtype: False)
    return monkeypatch


@pytest.fixture(autouse=True)
def few_rows_are_enough() -> Iterator[None]:
    """The kernels' products also for as few rows as tests have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_LEAST_ROWS", 6)
        patch.setattr(products, "_LEAST_ROWS", 6)
        yield


def gradients(model: PretrainingModel, batch: Batch, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the gradients of all parameters, and the loss."""
    model.zero_grad()
    with nullcontext() if dtype == torch.float32 else torch.autocast("cpu", dtype=dtype):
        losses = model.losses(batch)
    loss = losses.mlm / 17 + losses.nsp / batch.num_sequences
    loss.backward()  # type: ignore[no-untyped-call]
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return found | {"loss": loss.detach()}


def pretraining_model(config: ModelConfig) -> PretrainingModel:
    torch.manual_seed(4)
    model = PretrainingModel(config)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@needs_kernels
@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_of_either(torch_alone: pytest.MonkeyPatch, dtype: torch.dtype, activation: str) -> None:
    config = small_config(intermediate_size=54, hidden_act=activation)
    model, batch = pretraining_model(config), odd_batch(config.vocab_size)
    theirs = gradients(model, batch, dtype)
    exact = gradients(pretraining_model(config).double(), batch, torch.float32)
    torch_alone.undo()
    ours = gradients(model, batch, dtype)
    assert ours.keys() == theirs.keys()
    for name, reference in exact.items():
        if name.endswith("query_key_value.bias"):
            reference = reference.view(3, -1)[[0, 2]]  # the keys' is zero, but for rounding
            ours[name], theirs[name] = ours[name].view(3, -1)[[0, 2]], theirs[name].view(3, -1)[[0, 2]]
        assert ours[name].dtype == torch.float32
        scale = float(reference.norm()) + 1e-6
        error, their_error = (float((found[name].double() - reference).norm()) / scale for found in (ours, theirs))
        # As near to the truth as torch's operators, but for chance where a tensor has two numbers.
        assert error < (1e-5 if dtype == torch.float32 else max(1.3 * their_error, 8e-3)), name


@needs_kernels
def test_micro_batches_add_up_and_frozen_layers_stay(torch_alone: pytest.MonkeyPatch) -> None:
    config = small_config()
    model, batch = pretraining_model(config), odd_batch(config.vocab_size)
    for parameter in [*model.bert.embeddings.parameters(), *model.bert.layers[0].parameters()]:
        parameter.requires_grad_(False)
    theirs = gradients(model, batch, torch.float32)
    torch_alone.undo()
    ours = gradients(model, batch, torch.float32)
    assert ours.keys() == theirs.keys()
    assert "bert.layers.0.output.weight" not in ours
    losses = model.losses(batch)
    (losses.mlm / 17 + losses.nsp / batch.num_sequences).backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        if name in ours:
            assert parameter.grad is not None
            torch.testing.assert_close(parameter.grad, 2 * ours[name])
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-5)


@needs_kernels
def test_dropout_is_drawn_by_the_seed_and_gone_in_evaluation() -> None:
    config = small_config(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.1)
    model, batch = pretraining_model(config), odd_batch(config.vocab_size)
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(gradients(model, batch, torch.float32))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert not torch.equal(found[0]["loss"], found[2]["loss"])
    model.eval()
    assert torch.equal(model.losses(batch).mlm, model.losses(batch).mlm)


class Scaled(nn.Module):
    """Stands where a linear layer was: one that is laid out otherwise, or of 8-bit integers."""

    def forward(self, values: Tensor) -> Tensor:
        return values * 2


@pytest.mark.parametrize("compiled", [True, False])
def test_modules_in_the_place_of_linear_layers_are_called(torch_alone: pytest.MonkeyPatch, compiled: bool) -> None:
    if compiled:
        torch_alone.undo()
    torch.manual_seed(1)
    values, norm = torch.randn(140, 8), nn.LayerNorm(8)
    torch.testing.assert_close(linear(values, Scaled()), values * 2)
    torch.testing.assert_close(
        activated(values, Scaled(), "gelu"), nn.functional.gelu(values * 2), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(residual_norm(values, values, Scaled(), norm, 0.0).exact, norm(3 * values))


@pytest.mark.parametrize("compiled", [True, False])
def test_types(torch_alone: pytest.MonkeyPatch, compiled: bool) -> None:
    if compiled:
        torch_alone.undo()
    values, norm, layer = torch.randn(140, 8), nn.LayerNorm(8), nn.Linear(8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = normalized(values, norm)
        assert linear(hidden.factor, layer).dtype == torch.bfloat16
        assert residual_norm(values, hidden.factor, layer, norm, 0.1).exact.dtype == torch.float32
        assert activated(hidden.factor, layer, "gelu").dtype == torch.bfloat16
    for module in (norm, layer):
        module.double()
    exact = normalized(values.double(), norm)
    assert isinstance(exact, Hidden)
    assert (
        residual_norm(exact.exact, activated(exact.factor, layer, "gelu"), layer, norm, 0.1).exact.dtype
        == torch.float64
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("piece", [2**23, 2_500])
@pytest.mark.parametrize("compiled", [True, False])
def test_the_vocabulary_loss_in_pieces(
    torch_alone: pytest.MonkeyPatch, dtype: torch.dtype, piece: int, compiled: bool
) -> None:
    torch.manual_seed(1)
    rows, table, bias = torch.randn(150, 12) / 2, torch.randn(38, 12), torch.randn(38)
    labels = torch.arange(150) % 38
    if compiled:
        torch_alone.undo()
        if not kernels.multiplies(rows, table, dtype):
            pytest.skip("the processor lacks the instructions")
    torch_alone.setattr(vocabulary_loss, "_PIECE", piece)
    wanted = [tensor.requires_grad_() for tensor in (rows, table, bias)]
    with nullcontext() if dtype == torch.float32 else torch.autocast("cpu", dtype=dtype):
        loss, right = vocabulary_loss.vocabulary_loss(rows, table, bias, labels)
        with torch.no_grad():
            again, _ = vocabulary_loss.vocabulary_loss(rows, table, bias, labels)
    assert loss.dtype == torch.float32
    assert torch.equal(again, loss)
    exact = [tensor.detach().double().requires_grad_() for tensor in wanted]
    logits = nn.functional.linear(*exact)
    reference = nn.functional.cross_entropy(logits, labels, reduction="sum")
    # Two logits that are rounded to the same number are both the best.
    assert abs(int(right) - int((logits.argmax(1) == labels).sum())) <= (0 if dtype == torch.float32 else 2)
    ours = [loss.detach(), *torch.autograd.grad(loss / 7, wanted)]
    theirs = [reference.detach(), *torch.autograd.grad(reference / 7, exact)]
    for one, other in zip(ours, theirs, strict=True):
        assert float((one.double() - other).norm() / other.norm()) < (1e-5 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize("label", [-1, 38])
@pytest.mark.parametrize("compiled", [True, False])
def test_labels_that_are_no_entries(torch_alone: pytest.MonkeyPatch, label: int, compiled: bool) -> None:
    if compiled:
        torch_alone.undo()
    labels = torch.full((150,), label)
    with pytest.raises((IndexError, RuntimeError)):
        vocabulary_loss.vocabulary_loss(torch.randn(150, 12), torch.randn(38, 12), torch.zeros(38), labels)


def test_under_a_compiler_torch_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    monkeypatch.setattr(kernels, "normalize", None)
    assert blocks.normalized(torch.randn(3, 8), nn.LayerNorm(8)).exact.shape == (3, 8)
