"""Several processes do what one does: the same losses and weights, a stop, a lost one, a restart by torchrun."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bertsmith.config import PretrainSettings
from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.model.weights import load_pretraining_model
from bertsmith.serving.evaluating import evaluate
from bertsmith.serving.predictor import predict_file
from bertsmith.task_config import ClassifySettings, EvaluateSettings, PredictSettings
from bertsmith.text.store import TokenStore
from bertsmith.training.checkpoint import read_metrics
from bertsmith.training.device import pick_precision
from bertsmith.training.finetune import finetune
from bertsmith.training.launch import launch
from bertsmith.training.pretrain import pretrain
from bertsmith.training.processes import ALONE, Processes
from bertsmith.training.session import check_parts
from bertsmith.training.sharding import shard
from tests.conftest import tiny_run
from tests.training.large import Devices, large_result
from tests.training.test_finetune import write_rows

QUIET = Log(quiet=True)
# Processes that start import torch: a machine with few cores takes its time.
PATIENCE = 120.0
# The machine that tests run on need not have a GPU; accelerate looks at the option alone.
ACCELERATE = ("accelerate.commands.launch", *"--multi_gpu --num_processes 2 --main_process_port 0".split())


def same_run(store: TokenStore, output: Path, **changes: object) -> PretrainSettings:
    values = {"dropout": 0.0, "steps": 6, "batch_size": 8, "micro_batch_size": 2, "eval_every": 3, "threads": 1}
    return tiny_run(store, output, **values | changes)


def numbers(run: Path) -> np.ndarray:
    """The run's losses and gradient norms by step, and those of its evaluations."""
    rows = []
    for e in read_metrics(run / "metrics.jsonl"):
        rows.append([e["step"], e["mlm_loss"], e["nsp_loss"], e.get("grad_norm", 0.0), e.get("tokens", 0)])
    return np.array(rows)


def assert_same_weights(one: Path, other: Path, tolerance: float = 2e-6, part: str = "model") -> None:
    a, b = (load_file(run / part / "model.safetensors") for run in (one, other))
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        # A bias of all keys changes no softmax: its gradient is nothing but rounding, which AdamW scales up.
        if not name.endswith("key.bias"):
            largest = float(tensor.abs().max())
            np.testing.assert_allclose(tensor.numpy(), b[name].numpy(), rtol=0, atol=tolerance * largest, err_msg=name)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)


def command(settings: PretrainSettings, *engine: str) -> subprocess.Popen[str]:
    """Start the command line with a run's settings from a file."""
    path = settings.output.with_suffix(".yaml")
    settings.model_copy(update={"quiet": False}).write(path)
    return subprocess.Popen(
        [sys.executable, "-m", *engine, "bertsmith", "pretrain", "--config", str(path)],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def children(pid: int) -> list[int]:
    """The processes that ``pid`` started and that take part in the training."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
    mine = [(int(a), args) for a, b, args in rows if int(b) == pid]
    return [child for child, args in mine if "resource_tracker" not in args and "<defunct>" not in args]


def steps_done(run: Path) -> int:
    path = run / "metrics.jsonl"
    return max((e["step"] for e in read_metrics(path)), default=0) if path.exists() else 0


@pytest.fixture(scope="module")
def alone(store: TokenStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("alone") / "run"
    pretrain(same_run(store, output), QUIET)
    return output


@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_equal_one(store: TokenStore, tmp_path: Path, alone: Path, count: int) -> None:
    result = pretrain(same_run(store, tmp_path / "run", devices=count), QUIET)
    assert result.steps == 6
    np.testing.assert_allclose(numbers(tmp_path / "run"), numbers(alone), rtol=1e-6)
    assert_same_weights(tmp_path / "run", alone)


def test_a_run_of_two_under_accelerate_goes_on_alone(store: TokenStore, tmp_path: Path, alone: Path) -> None:
    run = tmp_path / "run"
    process = command(same_run(store, run, checkpoint_every=3), *ACCELERATE, "-m")
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said[-2000:]
    assert "2 processes" in said
    np.testing.assert_allclose(numbers(run), numbers(alone), rtol=1e-6)
    shutil.rmtree(run / "model")
    shutil.rmtree(run / "checkpoints" / "step-00000006")
    pretrain(same_run(store, run, checkpoint_every=3, resume=True), QUIET)
    np.testing.assert_allclose(numbers(run), numbers(alone), rtol=1e-6)
    assert_same_weights(run, alone)


def test_sharded_weights_equal_whole_ones(store: TokenStore, tmp_path: Path, alone: Path) -> None:
    """Two processes that each hold a part of the weights; their checkpoint is one that a process alone goes on from."""
    run = tmp_path / "run"
    pretrain(same_run(store, run, checkpoint_every=3, devices=2, sharding="fsdp"), QUIET)
    for _ in ("with parts", "alone from the middle"):
        np.testing.assert_allclose(numbers(run), numbers(alone), rtol=1e-6)
        # Gradients are added up over processes before micro-batches, so the last digits differ.
        assert_same_weights(run, alone, tolerance=1e-5)
        assert_same_weights(run, alone, tolerance=1e-5, part="best")
        shutil.rmtree(run / "model")
        shutil.rmtree(run / "checkpoints" / "step-00000006")
        pretrain(same_run(store, run, checkpoint_every=3, resume=True), QUIET)


def test_fine_tuning_in_two_processes(run: Path, tmp_path: Path) -> None:
    """10 rows in batches of 3: the last one leaves a process without a row."""
    found = []
    for count, sharding in ((1, "none"), (2, "none"), (2, "fsdp")):
        settings = ClassifySettings.parse(
            {
                "model": run,
                "train": write_rows(tmp_path / "train.csv", 10, 1),
                "dev": write_rows(tmp_path / "dev.csv", 7, 2),
                "output": tmp_path / f"tuned-{count}-{sharding}",
                "epochs": 2,
                "batch_size": 3,
                "dropout": 0.0,
                "max_length": 30,
                "precision": "float32",
                "threads": 1,
                "devices": count,
                "sharding": sharding,
            }
        )
        result = finetune(settings, QUIET)
        entries = read_metrics(settings.output / "metrics.jsonl")
        losses = [[e["step"], e["loss"], e["tokens"]] for e in entries if e["kind"] == "train"]
        found.append((np.array(losses), result.mean))
    for losses, mean in found[1:]:
        np.testing.assert_allclose(found[0][0], losses, rtol=1e-5)
        assert found[0][1] == pytest.approx(mean)
    # With 3 rows a step many gradients are nearly 0, and AdamW makes steps of full size from their rounding.
    for name in ("tuned-2-none", "tuned-2-fsdp"):
        assert_same_weights(tmp_path / "tuned-1-none", tmp_path / name, tolerance=1e-4)


def test_a_stop_reaches_all_and_leaves_a_checkpoint(store: TokenStore, tmp_path: Path) -> None:
    settings = same_run(store, tmp_path / "run", devices=2, steps=100_000)
    process = command(settings)
    wait_until(lambda: steps_done(settings.output) >= 2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "the checkpoint is whole" in said
    assert "Traceback" not in said
    assert any((settings.output / "checkpoints").glob("step-*/checksums.json"))


def test_a_lost_process_ends_the_others_with_the_reason(store: TokenStore, tmp_path: Path) -> None:
    settings = same_run(store, tmp_path / "run", devices=2, steps=100_000, checkpoint_every=2)
    process = command(settings)
    wait_until(lambda: steps_done(settings.output) >= 3)
    os.kill(children(process.pid)[1], signal.SIGKILL)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert re.search("process [01] of 2 was ended by signal 9", said)
    assert "Traceback" not in said
    assert any((settings.output / "checkpoints").glob("step-*/checksums.json"))


def test_torchrun_starts_a_lost_run_again(store: TokenStore, tmp_path: Path) -> None:
    """With parts of the weights in each process: they read what they have written."""
    whole = same_run(store, tmp_path / "whole", steps=40, checkpoint_every=5)
    pretrain(whole, QUIET)
    settings = same_run(store, tmp_path / "run", steps=40, checkpoint_every=5, resume=True, sharding="fsdp")
    engine = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1", "-m")
    process = command(settings, *engine)
    wait_until(lambda: steps_done(settings.output) >= 6)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said[-2000:]
    assert "going on after step" in said
    np.testing.assert_allclose(numbers(settings.output), numbers(whole.output), rtol=1e-5)


def test_evaluation_and_prediction_are_shared(run: Path, tmp_path: Path) -> None:
    """Scores of two processes under torchrun and predictions of two under accelerate are those of one, written once."""
    rows = write_rows(tmp_path / "rows.csv", 11, 3)
    tuned = tmp_path / "tuned"
    finetune(
        ClassifySettings.parse(
            {"model": run, "train": rows, "dev": rows, "output": tuned, "epochs": 1, "max_length": 30, "threads": 1}
        ),
        QUIET,
    )
    said = tmp_path / "two"
    alone = evaluate(EvaluateSettings(model=tuned, input=rows), QUIET)
    words = ["bertsmith", "evaluate", str(tuned), "--input", str(rows), "-o", str(said)]
    shared(["torch.distributed.run", "--standalone", "--nproc-per-node", "2"], words)
    found = json.loads((said / "scores.json").read_text(encoding="utf-8"))["metrics"]
    assert found == pytest.approx(alone.metrics)

    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    assert predict_file(PredictSettings(model=tuned, input=rows, output=one), QUIET).rows == 11
    words = ["bertsmith", "predict", str(tuned), "--input", str(rows), "-o", str(two)]
    shared(ACCELERATE, words)
    # Matrix products of another alignment in memory round otherwise, in the seventh digit.
    rows_of_two, rows_of_one = ([json.loads(line) for line in path.open(encoding="utf-8")] for path in (two, one))
    assert len(rows_of_two) == 11
    for found, wanted in zip(rows_of_two, rows_of_one, strict=True):
        assert found.pop("score") == pytest.approx(wanted.pop("score"), abs=1e-6)
        assert found.pop("scores") == pytest.approx(wanted.pop("scores"), abs=1e-6)
        assert found == wanted


def shared(engine: Sequence[str], words: list[str]) -> None:
    """Run a command in the processes that an engine starts."""
    done = subprocess.run([sys.executable, "-m", *engine, "-m", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_an_error_of_the_user_comes_through(store: TokenStore, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="each of 2 processes needs a sequence"):
        pretrain(same_run(store, tmp_path / "run", devices=2, batch_size=1, micro_batch_size=None), QUIET)


def test_a_step_in_more_parts_than_sequences_is_refused_at_once(store: TokenStore, tmp_path: Path) -> None:
    settings = tiny_run(store, tmp_path / "run", batch_size=16, micro_batch_size=1)
    with pytest.raises(InputError, match="3 processes with micro_batch_size 1 would cut a step into 18 parts"):
        check_parts(settings, replace(ALONE, size=3))


def test_a_result_larger_than_a_pipe_holds(tmp_path: Path) -> None:
    """All say more than the parent takes in before they end."""
    assert len(launch(large_result, Devices(2), QUIET)) == 1_000_000


def test_how_items_are_dealt() -> None:
    items = [10, 11, 12, 13]
    assert Processes(0, 3).dealt(items, evenly=False) == [(10, True), (13, True)]
    assert Processes(2, 3).dealt(items, evenly=False) == [(12, True)]
    assert Processes(2, 3).dealt(items, evenly=True) == [(12, True), (10, False)]
    assert Processes(3, 4).dealt(items[:2], evenly=True) == [(10, False)]
    assert Processes().dealt(items, evenly=True) == [(item, True) for item in items]


def test_devices_without_an_engine(alone: Path) -> None:
    """MPS computes in one process, and not in float16; a CPU has everything, for trying it."""
    mps = torch.device("mps")
    with pytest.raises(InputError, match="fsdp works on cuda and cpu, not on mps"):
        shard(load_pretraining_model(alone), mps, Processes(0, 2))
    with pytest.raises(InputError, match="float16 works on cuda, not on mps"):
        pick_precision("float16", mps, 20)
    assert pick_precision("bfloat16", mps, 20) == torch.bfloat16
    assert pick_precision("float16", torch.device("cpu"), 20) == torch.float16


def test_how_a_step_is_cut() -> None:
    assert [list(Processes(rank, 3).own(6)) for rank in range(3)] == [[0, 1], [2, 3], [4, 5]]
    assert [Processes(0, 3).parts(wanted) for wanted in (1, 3, 4)] == [3, 3, 6]


def test_what_a_run_says_about_its_processes(store: TokenStore, tmp_path: Path, alone: Path) -> None:
    state = json.loads((alone / "checkpoints" / "step-00000006" / "state.json").read_text(encoding="utf-8"))
    assert state["processes"] == 1
