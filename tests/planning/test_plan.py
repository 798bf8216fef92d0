"""Plans: the counts are those of the real model, step and files; the rest is arithmetic; nonsense is refused."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from bertsmith.batch import Batch, pack
from bertsmith.cli import cli
from bertsmith.config import ModelConfig, PretrainSettings
from bertsmith.errors import InputError
from bertsmith.model.heads import PretrainingModel
from bertsmith.plan_config import PlanSettings
from bertsmith.planning.memory import activations, memory, parameters
from bertsmith.planning.operations import StepShape, operations, shape_of
from bertsmith.planning.plan import plan, step_shape
from bertsmith.planning.show import show_plan
from bertsmith.text.store import TokenStore
from bertsmith.training.device import autocast
from bertsmith.training.initial import model_config
from bertsmith.training.processes import Processes
from tests.conftest import tiny_run

SMALL = {
    "layers": 3,
    "hidden_size": 40,
    "heads": 2,
    "vocab_size": 211,
    "max_positions": 48,
    "max_length": 33,
    "batch_size": 14,
    "device_tflops": 2.0,
    "mfu": 0.5,
    "fill": 0.8,
    "tokens": "50k",
}


def settings(**changes: object) -> PlanSettings:
    return PlanSettings.parse({**SMALL, **changes})


def batch(config: ModelConfig, sequences: int = 9, length: int = 31) -> Batch:
    rng = np.random.default_rng(3)
    ids = [rng.integers(5, config.vocab_size, length) for _ in range(sequences)]
    plain = pack(ids, [np.zeros(length, dtype=np.int64) for _ in ids], [0] * sequences)
    positions = torch.arange(2, sequences * length, 7)
    return Batch(*plain_fields(plain), positions, plain.token_ids[positions], plain.labels)


def plain_fields(made: Batch) -> tuple[object, ...]:
    return made.token_ids, made.segment_ids, made.position_ids, made.sequence_starts, made.max_length


@pytest.mark.parametrize("size", ["tiny", "base", "large"])
def test_the_model_is_the_one_that_pretrain_takes(size: str, tmp_path: Path) -> None:
    run = PretrainSettings.parse({"store": tmp_path, "output": tmp_path, "size": size, "max_positions": 177})
    planned = PlanSettings.parse({"size": size, "max_positions": 177, "tokens": 1, "device_tflops": 1, "dropout": 0.0})
    assert planned.encoder == model_config(run, 30_000)
    with torch.device("meta"):
        model = PretrainingModel(planned.encoder)
    assert parameters(planned.encoder) == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_activations_are_what_autograd_keeps(precision: str, dropout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    from bertsmith.model import kernels

    config = settings(dropout=dropout).encoder
    model, one = PretrainingModel(config).train(), batch(config)
    if not kernels.supports(torch.zeros(1)):
        pytest.skip("no compiler here: attention keeps more without it")
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack_one(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack_one, lambda tensor: tensor),
        autocast(getattr(torch, precision), torch.device("cpu")),
    ):
        losses = model.losses(one)
    assert losses.mlm.requires_grad
    predicted = activations(config, shape_of(one), precision, "cpu")  # type: ignore[arg-type]
    assert predicted == pytest.approx(sum(kept.values()), rel=0.05)


def test_a_checkpoint_and_a_store_on_disk(store: TokenStore, run: Path) -> None:
    made = PretrainSettings.from_yaml(run / "config.yaml")
    planned = plan(
        settings(
            layers=made.layers, hidden_size=20, heads=2, vocab_size=store.vocab_size, tokens=store.num_tokens, epochs=1
        )
    )
    checkpoint = sum(path.stat().st_size for path in (run / "checkpoints" / "step-00000040").iterdir())
    weights = planned.parameters * 12
    assert 0 < planned.checkpoint - weights < checkpoint - weights < 40_000  # names and JSON weigh on so small a model
    shards = sum(path.stat().st_size for path in store.path.glob("shard-*.arrow"))
    assert planned.store / shards > 0.5
    assert planned.store < shards


def test_arithmetic() -> None:
    found = plan(settings(devices=2, price_per_hour=3.0, epochs=4))
    per_step = 14 * 33 * 0.8
    assert found.tokens_per_step == pytest.approx(per_step)
    assert found.steps == -(-50_000 // per_step)
    work = operations(settings().encoder, step_shape(settings(), 14))
    assert found.operations == pytest.approx(found.steps * work)
    assert found.seconds == pytest.approx(found.steps * work / (2 * 2e12 * 0.5))
    assert found.tokens_per_second == pytest.approx(found.steps * per_step / found.seconds)
    assert found.cost == pytest.approx(2 * 3.0 * found.seconds / 3600)
    assert found.micro_batch == 7
    assert found.store == pytest.approx(12_500 * 2.21)
    assert plan(settings()).cost is None


def test_base_counts_as_the_literature_does() -> None:
    found = plan(settings(size="base", layers=None, hidden_size=None, heads=None, vocab_size=30_522, max_length=48))
    assert found.parameters == pytest.approx(110e6, rel=0.01)
    # 6 operations a weight and token, less what the last layer and the vocabulary leave out.
    assert 0.7 < found.operations / (6 * 85.6e6 * 50_000) < 1.1


def test_memory_follows_what_is_held() -> None:
    config, one = settings().encoder, StepShape(1000, 30, 150, 33_000)
    held = memory(config, one, "float32", "cpu", accumulates=False)
    assert (held.weights, held.optimizer) == (4 * parameters(config), 8 * parameters(config))
    more = memory(config, one, "float32", "cpu", accumulates=True)
    assert more.peak - held.peak == pytest.approx(1.08 * held.weights)
    double = memory(config, StepShape(2000, 60, 300, 66_000), "float32", "cpu", accumulates=False)
    assert double.activations == pytest.approx(2 * held.activations)
    short = memory(config, one, "bfloat16", "cpu", accumulates=False)
    assert short.activations < held.activations
    assert memory(config, one, "float32", "gpu", accumulates=False).activations > held.activations


def test_what_fits(capsys: pytest.CaptureFixture[str]) -> None:
    big = {"size": "base", "layers": None, "hidden_size": None, "heads": None, "batch_size": 512, "on": "gpu"}
    need = plan(settings(**big, micro_batch_size=128)).memory.peak / 1e9
    found = show_plan(settings(**big, device_memory=need))
    assert found.most_sequences == 128
    assert "--micro-batch-size 128 would fit" in capsys.readouterr().out
    assert show_plan(settings(**big, device_memory=0.1)).most_sequences == 0
    assert "so is a single sequence" in capsys.readouterr().out


def test_a_whole_batch_may_fit_where_a_part_does_not() -> None:
    """Parts add to gradients that are there already."""
    large = {"size": "large", "layers": None, "hidden_size": None, "heads": None, "batch_size": 16, "vocab_size": "30k"}
    large |= {"max_length": 128, "max_positions": 512}
    need = plan(settings(**large)).memory.peak / 1e9
    assert plan(settings(**large, micro_batch_size=8)).memory.peak / 1e9 > need
    assert plan(settings(**large, device_memory=need)).most_sequences == 16
    assert plan(settings(**large, device_memory=need - 0.01)).most_sequences in range(1, 8)
    assert plan(settings(**large, devices=16, device_memory=0.1)).most_sequences == 0


@pytest.mark.parametrize(
    ("batch", "devices", "at_most", "held"), [(256, 8, 20, 16), (256, 1, 100, 86), (14, 2, 5, 4), (14, 7, 9, 2)]
)
def test_parts_are_those_that_pretrain_makes(batch: int, devices: int, at_most: int, held: int) -> None:
    parts = Processes(0, devices).parts(-(-batch // at_most))
    edges = [part * batch // parts for part in range(parts + 1)]
    assert max(np.diff(edges)) == held
    assert plan(settings(batch_size=batch, devices=devices, micro_batch_size=at_most)).micro_batch == held


def test_the_log_of_a_run_on_disk(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    steps = [len(line) for line in lines if json.loads(line)["kind"] == "train"]
    few, many = plan(settings()), plan(settings(tokens="50M"))
    a_step = (many.run - few.run) / (many.steps - few.steps)
    assert 1.0 < a_step / np.mean(steps) < 1.1


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("137e9", 137 * 10**9),
        ("3.3B", 3_300_000_000),
        ("10k", 10_000),
        ("1,000", 1000),
        (" 12 g ", 12 * 10**9),
        ("1e3M", 10**9),
        (1e6, 10**6),
        (7, 7),
    ],
)
def test_numbers(written: object, number: int) -> None:
    assert settings(tokens=written).tokens == number


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": "many"}, "3.3B or 137e9, got 'many'"),
        ({"tokens": "0"}, "tokens"),
        ({"tokens": "-3"}, "tokens"),
        ({"tokens": "1.5"}, "whole number"),
        ({"tokens": "nan"}, "tokens"),
        ({"tokens": True}, "tokens"),
        ({"tokens": "10e"}, "tokens"),
        ({"tokens": "1e30"}, "suffix too much"),
        ({"tokens": "٣"}, "tokens"),
        ({"mfu": 45}, "mfu"),
        ({"device_tflops": float("nan")}, "device_tflops"),
        ({"device_tflops": 1e-300}, "device_tflops"),
        ({"mfu": 1e-300}, "mfu"),
        ({"epochs": float("inf")}, "epochs"),
        ({"epochs": 1e-300}, "epochs"),
        ({"price_per_hour": float("inf")}, "price_per_hour"),
        ({"price_per_hour": float("nan")}, "price_per_hour"),
        ({"device_memory": float("inf")}, "device_memory"),
        ({"fill": 1e-300}, "fill"),
        ({"mask_share": 1e-320}, "mask_share"),
        ({"vocab_size": "1e18"}, "vocab_size"),
        ({"batch_size": "1e18"}, "batch_size"),
        ({"devices": "1e9", "batch_size": "1e9"}, "devices"),
        ({"max_positions": 10**12}, "max_positions"),
        ({"heads": 10**9}, "heads"),
        ({"heads": 7}, "hidden_size 40 is not a multiple"),
        ({"devices": 3}, "batch_size 14 cannot be shared equally by devices 3"),
        ({"max_length": 49}, "max_positions 48"),
    ],
)
def test_nonsense(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan(settings(**changes))


def test_the_command() -> None:
    typed = ["plan", "--tokens", "3.3B", "--device-tflops", "100", "--size", "small", "--batch-size", "1k"]
    result = CliRunner().invoke(cli, [*typed, "--devices", "4", "--price-per-hour", "2"])
    assert result.exit_code == 0, result.output
    for words in ("28.8 M parameters", "28,646 of 1,000 sequences", "4 devices", "memory", "cost"):
        assert words in result.output
    assert "bertsmith pretrain store --size small --max-length 128 --batch-size 1000 " in result.output
    found = json.loads(CliRunner().invoke(cli, [*typed, "--json"]).output)
    assert found["steps"] == 28_646
    assert found["settings"]["tokens"] == 3_300_000_000
    assert found["memory"]["weights"] == 4 * found["parameters"]


def test_the_printed_command_is_one_that_pretrain_takes(
    store: TokenStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"micro_batch_size": 5, "mask_share": 0.2, "precision": "float32", "dropout": 0.12345678, "on": "cpu"}
    show_plan(settings(**changes))
    command = capsys.readouterr().out.split("bertsmith pretrain store ")[1].split()
    values = dict(zip(command[::2], command[1::2], strict=True))
    names = {name.removeprefix("--").replace("-", "_"): value for name, value in values.items() if name != "-o"}
    accepted = tiny_run(store, tmp_path / "run", **names)
    assert (accepted.layers, accepted.micro_batch_size, accepted.steps) == (3, 5, plan(settings()).steps)
    assert (accepted.mask_share, accepted.precision, accepted.dropout) == (0.2, "float32", 0.12345678)
    assert (accepted.device, accepted.max_positions, accepted.batch_size) == ("cpu", 48, 14)


def test_the_widest_numbers_make_a_plan() -> None:
    """JSON has no infinity."""
    slowest = {"tokens": "1e18", "device_tflops": 1e-6, "mfu": 0.0001, "fill": 0.01, "mask_share": 0.0001}
    widest = {"size": "large", "layers": 1000, "hidden_size": 100_000, "vocab_size": 10_000_000, "heads": 1000}
    found = plan(settings(**slowest, **widest, price_per_hour=1e9, epochs=0.001, device_memory=1e6))
    json.dumps(asdict(found), allow_nan=False)
