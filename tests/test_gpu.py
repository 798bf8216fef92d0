"""What only a GPU can show: its kernels compute what the CPU does, and every stage works there. Skipped without one."""

from __future__ import annotations

import importlib
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import bertsmith
from bertsmith.batch import Batch
from bertsmith.comparison.frozen import FrozenVectors, VectorMemory
from bertsmith.comparison.networks import LearnedEmbeddings
from bertsmith.config import OptimizerSettings
from bertsmith.features.encoder import Encoder
from bertsmith.features.layers import parse_layers
from bertsmith.model import flash
from bertsmith.model.attention import attend_in_rectangles, packed_attention, plan_attention
from bertsmith.model.heads import PretrainingModel
from bertsmith.model.names import from_transformers
from bertsmith.serving.evaluating import evaluate
from bertsmith.task_config import ClassifySettings, EvaluateSettings
from bertsmith.text.store import TokenStore
from bertsmith.training.checkpoint import read_metrics
from bertsmith.training.device import pick_precision
from bertsmith.training.finetune import finetune
from bertsmith.training.loop import Progress, train
from bertsmith.training.optimizer import make_optimizer
from bertsmith.training.pretrain import pretrain
from bertsmith.training.schedule import fixed
from bertsmith.training.session import objective
from tests.comparison.test_networks import ALL, batch_of, small_bert
from tests.conftest import QUIET, tiny_run
from tests.training.test_loop import sequences, tiny, together

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

GPU = torch.device("cuda")
# Of packed sequences; 16 and 17 stand on both sides of a tile, 1 is a sequence of one token.
LENGTHS = (7, 31, 1, 16, 17, 130, 64, 2)


def starts() -> Tensor:
    return torch.tensor([0, *np.cumsum(LENGTHS)])


def random_projections(dtype: torch.dtype, heads: int = 3, width: int = 32) -> Tensor:
    torch.manual_seed(3)
    return torch.randn(sum(LENGTHS), 3 * heads * width, device=GPU).to(dtype).requires_grad_()


def test_what_a_gpu_of_our_days_gets_by_itself() -> None:
    newer = torch.cuda.get_device_capability() >= (8, 0)
    assert flash.is_there(torch.device("cuda", 0)) == newer
    assert pick_precision("auto", GPU, 64) == (torch.bfloat16 if newer else torch.float32)


@pytest.mark.parametrize("left_to_right", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_flash_attention_computes_what_rectangles_do(dtype: torch.dtype, left_to_right: bool) -> None:
    values = random_projections(dtype)
    plan = plan_attention(starts().to(GPU), GPU, left_to_right)
    assert flash.supports(values, 3)
    wanted = torch.randn(sum(LENGTHS), 3 * 32, device=GPU)
    found = []
    for attend in (
        lambda: packed_attention(values, plan, 3, 0.0),
        lambda: attend_in_rectangles(values.float(), plan.rectangles, 3, 0.0, left_to_right),
    ):
        out = attend()
        (gradient,) = torch.autograd.grad((out.float() * wanted).sum(), values)
        found.append((out.float(), gradient.float()))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.03)


def test_flash_attention_drops_a_share_of_the_weights_and_keeps_the_mean() -> None:
    """Keys all 0 make equal weights, and a value of 1 the sum of those that are left."""
    tokens, heads, width = 400, 3, 32
    values = torch.zeros(tokens, 3, heads, width, device=GPU, dtype=torch.bfloat16)
    values[:, 2] = 1
    values = values.flatten(1).requires_grad_()
    plan = plan_attention(torch.tensor([0, 160, tokens], device=GPU), GPU)

    def once(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return packed_attention(values, plan, heads, 0.2)

    first, again, other = once(1), once(1), once(2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    sums = first.float().view(tokens, heads, width)[:, :, 0]
    assert sums.mean().item() == pytest.approx(1.0, abs=0.01)
    # Of n weights 1/n each, a share of 0.2 dropped and the rest scaled: deviation sqrt(0.2 / 0.8 / n).
    assert sums[160:].std().item() == pytest.approx((0.25 / 240) ** 0.5, rel=0.15)
    (gradient,) = torch.autograd.grad(first.float().sum(), values)
    by_values = gradient.view(tokens, 3, heads, width)[:, 2, :, 0].float()
    # What a value gives in the forward pass comes back to it: the same weights were dropped.
    assert by_values[160:].sum().item() == pytest.approx(sums[160:].sum().item(), rel=0.01)
    assert by_values.std().item() > 0.01


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.03)])
def test_losses_and_gradients_are_those_of_transformers(dtype: torch.dtype, tolerance: float) -> None:
    transformers = pytest.importorskip("transformers")
    from tests.model.test_parity import odd_batch, padded, small_config, their_inputs, theirs_like

    config = small_config(hidden_size=48)
    theirs = theirs_like(config, transformers.BertForPreTraining).to(GPU)
    ours = PretrainingModel(config)
    ours.load_state_dict(from_transformers(theirs.cpu().state_dict(), config.num_hidden_layers))
    ours, theirs = ours.to(GPU), theirs.to(GPU)
    batch = odd_batch(config.vocab_size)
    labels = torch.full((batch.num_tokens,), -100)
    labels[batch.masked_positions] = batch.masked_labels
    inputs = their_inputs(batch) | {"labels": padded(batch, labels, -100), "next_sentence_label": batch.labels}
    expected = theirs(**{name: values.to(GPU) for name, values in inputs.items()})
    expected.loss.backward()
    with torch.autocast("cuda", dtype, enabled=dtype != torch.float32):
        losses = ours.losses(batch.to(GPU))
    loss = losses.mlm / len(batch.masked_labels) + losses.nsp / batch.num_sequences
    loss.backward()
    assert loss.item() == pytest.approx(expected.loss.item(), rel=tolerance)
    wanted = torch.cat([p.grad.flatten() for p in theirs.bert.encoder.layer[0].attention.self.query.parameters()])
    width = config.hidden_size
    first = ours.bert.layers[0].query_key_value
    found = torch.cat([first.weight.grad[:width].flatten(), first.bias.grad[:width]])
    assert torch.nn.functional.cosine_similarity(found, wanted, 0).item() > 1 - tolerance
    assert found.norm().item() == pytest.approx(wanted.norm().item(), rel=tolerance)


def curve(device: torch.device, dtype: torch.dtype, dropout: float = 0.0, compiled: bool = False) -> list[float]:
    model, settings = tiny(dropout, hidden_size=32), OptimizerSettings()
    if compiled:
        model.bert.compile_layers()
    model.to(device)
    batches: list[list[Batch]] = [[together(sequences(n % 3))] for n in range(30)]
    reports = train(
        model, make_optimizer(model, settings), Progress(fixed(3e-3, 0.1, 30)), iter(batches), objective(True),
        settings=settings, device=device, dtype=dtype, seed=0,
    )  # fmt: skip
    return [report.loss for report in reports]


def test_a_loss_curve_is_that_of_the_cpu() -> None:
    cpu = curve(torch.device("cpu"), torch.float32)
    assert curve(GPU, torch.float32) == pytest.approx(cpu, rel=1e-3)
    assert curve(GPU, torch.bfloat16) == pytest.approx(cpu, rel=0.03)
    assert curve(GPU, torch.float16) == pytest.approx(cpu, rel=0.03)
    assert curve(GPU, torch.bfloat16, dropout=0.1)[-1] < 0.8 * cpu[0]


def test_compiled_layers_have_the_same_loss_curve() -> None:
    assert curve(GPU, torch.bfloat16, compiled=True) == pytest.approx(curve(GPU, torch.bfloat16), rel=0.02)


def held_out(run: Path) -> list[float]:
    return [entry["mlm_loss"] for entry in read_metrics(run / "metrics.jsonl") if entry["kind"] == "eval"]


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "float32", "dropout": 0.0},
        {"precision": "bfloat16"},
        {"precision": "float16"},
        {"precision": "bfloat16", "direction": "left-to-right", "next_sentence": False},
        {"precision": "auto", "sharding": "fsdp", "devices": 1},
    ],
    ids=["float32", "bfloat16", "float16", "left to right", "fsdp"],
)
def test_pretraining_goes_on_where_it_was_stopped(
    store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    """As on a CPU, but for the order in which a GPU's atomic additions come."""
    changes = {"hidden_size": 32, "steps": 12, "device": "cuda"} | changes
    pretrain(tiny_run(store, tmp_path / "whole", **changes), QUIET)
    whole = read_metrics(tmp_path / "whole" / "metrics.jsonl")
    module = importlib.import_module("bertsmith.training.pretrain")
    written = module.metrics_entry

    def interrupted(report, progress):  # type: ignore[no-untyped-def]
        if report.step == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return written(report, progress)

    with monkeypatch.context() as patch:
        patch.setattr(module, "metrics_entry", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pretrain(tiny_run(store, tmp_path / "stopped", **changes), QUIET)
    pretrain(tiny_run(store, tmp_path / "stopped", resume=True, **changes), QUIET)
    resumed = read_metrics(tmp_path / "stopped" / "metrics.jsonl")
    assert [entry["step"] for entry in resumed] == [entry["step"] for entry in whole]
    found, wanted = ([entry["loss"] for entry in run if "loss" in entry] for run in (resumed, whole))
    assert found == pytest.approx(wanted, rel=0.01)
    assert held_out(tmp_path / "stopped") == pytest.approx(held_out(tmp_path / "whole"), rel=0.01)


def test_the_run_itself_is_the_cpus(store: TokenStore, tmp_path: Path) -> None:
    losses = []
    for device in ("cpu", "cuda"):
        pretrain(tiny_run(store, tmp_path / device, device=device, dropout=0.0), QUIET)
        losses.append(held_out(tmp_path / device))
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_tuning_evaluation_prediction_and_vectors(run: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.tsv"
    lines = [f"{'the cat' if n % 2 else '나는'} sees {n}\t{'yes' if n % 2 else 'no'}" for n in range(40)]
    rows.write_text("\n".join(["text\tlabel", *lines]) + "\n", encoding="utf-8")
    scores = []
    for device in ("cpu", "cuda"):
        output = tmp_path / device
        finetune(
            ClassifySettings(
                model=run, train=rows, dev=rows, output=output, device=device, dropout=0.0, precision="float32",
                max_length=40, learning_rate=1e-3, epochs=3, min_steps=1, quiet=True,
            ),
            QUIET,
        )  # fmt: skip
        scores.append(evaluate(EvaluateSettings(model=output, input=rows, device=device), QUIET))
    texts = [line.split("\t")[0] for line in lines]
    on_cpu, on_gpu = (bertsmith.load(tmp_path / "cpu", device)(texts) for device in ("cpu", "cuda"))
    assert [p.label for p in on_cpu] == [p.label for p in on_gpu]
    assert [p.score for p in on_cpu] == pytest.approx([p.score for p in on_gpu], abs=1e-4)
    other = bertsmith.load(tmp_path / "cuda", "cuda")(texts)
    assert [p.score for p in other] == pytest.approx([p.score for p in on_gpu], abs=0.01)
    vectors = [Encoder.load(run, device=device).encode(texts) for device in ("cpu", "cuda")]
    np.testing.assert_allclose(*vectors, atol=1e-4)
    short = Encoder.load(run, device="cuda", precision="bfloat16").encode(texts)
    assert (short * vectors[0]).sum(1) / np.linalg.norm(short, axis=1) / np.linalg.norm(vectors[0], axis=1) == (
        pytest.approx(1.0, abs=1e-3)
    )


def test_a_batch_moves_whole() -> None:
    batch = replace(together(sequences(1)), idle=True)
    moved = batch.to(GPU)
    assert moved.idle
    assert all(value.device.type == "cuda" for value in vars(moved).values() if isinstance(value, Tensor))


@pytest.mark.parametrize("network", ALL)
@pytest.mark.parametrize("frozen", [False, True])
def test_the_networks_of_a_comparison(network: type[torch.nn.Module], frozen: bool) -> None:
    """Outputs and gradients are those of the CPU, on learned vectors and on the encoder's."""
    found = []
    for device in (torch.device("cpu"), GPU):
        torch.manual_seed(2)
        table = LearnedEmbeddings(40, 12)
        source = FrozenVectors(small_bert().to(device), parse_layers("last", 3), VectorMemory()) if frozen else table
        model = network(source, 12, 3).to(device).train()
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        logits = model(batch_of().to(device))
        logits.square().sum().backward()
        found.append([logits, *(parameter.grad for _, parameter in sorted(model.named_parameters()))])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other.cpu(), one, rtol=0.02, atol=0.01)  # TF32
