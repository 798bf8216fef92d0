"""What `bertsmith plan` says, over what is measured here: peak memory, checkpoint on disk, time of a step.

python benchmarks/planning.py --threads 1              # all sizes
python benchmarks/planning.py mini small --rounds 5 --json figures.json

Matrix products, timed after every round of steps, give the device's TFLOP/s. The share of them that a step reaches
(--mfu of plan) is fitted on --fit-on and applied to the other sizes. Each size trains in a process of its own; its
largest resident memory is what counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from machine import describe, matrix_ceiling
from steps import Workload, run

from bertsmith.config import SIZES, OptimizerSettings
from bertsmith.model.heads import PretrainingModel
from bertsmith.model.weights import write_model
from bertsmith.plan_config import PlanSettings
from bertsmith.planning.operations import operations, shape_of
from bertsmith.planning.plan import Plan, plan
from bertsmith.text.tokenizer import Tokenizer
from bertsmith.training.checkpoint import optimizer_tensors, save_optimizer
from bertsmith.training.device import pick_precision, set_up_process
from bertsmith.training.optimizer import make_optimizer

_ROOT = {name: Workload(name, *numbers, fill=0.9, dropout=0.0) for name, numbers in SIZES.items()}
LINES = {
    "tiny": _ROOT["tiny"],
    "mini": _ROOT["mini"],
    "mini 8k": replace(_ROOT["mini"], name="mini 8k", vocabulary=8000, batch=16),
    "mini dropout": replace(_ROOT["mini"], name="mini dropout", dropout=0.1),
    "small": _ROOT["small"],
    "small 512": replace(_ROOT["small"], name="small 512", batch=8, length=512),
    "medium": replace(_ROOT["medium"], batch=16),
    "base": replace(_ROOT["base"], batch=8),
}


@dataclass(frozen=True)
class Line:
    """What was measured with one size, and what the plan says.

    Attributes:
        name: of the line.
        peak, checkpoint: bytes.
        reached: the share of the matrix products' rate that a step reaches, of the median round.
        ceiling: that rate, operations a second, of the median round.
        plan: with that rate and an mfu of 1.
    """

    name: str
    peak: float
    checkpoint: float
    reached: float
    ceiling: float
    plan: Plan

    def seconds(self, mfu: float) -> float:
        """Return the time of a step when ``mfu`` is reached."""
        return self.plan.tokens_per_step / self.plan.tokens_per_second / mfu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", nargs="*", help=f"of {', '.join(LINES)}; all if not given")
    parser.add_argument("--fit-on", default="mini", help="the line whose share of the matrix products all get")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    unknown = {*options.lines, options.fit_on} - set(LINES)
    if unknown:
        sys.exit(f"no line called {', '.join(sorted(unknown))}")
    set_up_process(options.threads)
    dtype = pick_precision(options.precision, torch.device("cpu"), 384)
    print(f"{str(dtype).removeprefix('torch.')}, {torch.get_num_threads()} threads; ratios are predicted over measured")
    names = [options.fit_on, *(name for name in options.lines or LINES if name != options.fit_on)]
    print(
        f"{'':<14}{'peak MB':>9}{'predicted':>11}{'ratio':>7}{'disk MB':>9}{'ratio':>7}{'TFLOP/s':>9}{'mfu':>6}"
        f"{'step s':>8}{'predicted':>11}{'ratio':>7}"
    )
    found: list[Line] = []
    for name in names:
        found.append(measure(LINES[name], dtype, options.rounds, options.threads))
        print(row(found[-1], found[0].reached), flush=True)
    if options.json:
        entries = [figures(line, found[0].reached) for line in found]
        whole: dict[str, Any] = {"machine": describe(), "lines": entries}
        options.json.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def measure(workload: Workload, dtype: torch.dtype, rounds: int, threads: int) -> Line:
    """Train for ``rounds`` rounds of about a second, write a checkpoint, and ask the plan for the same.

    Matrix products are timed after each round: a shared machine is not always as fast.
    """
    ceilings: list[float] = []
    outcome = run(
        workload, ["bertsmith"], {"bertsmith": dtype}, rounds, threads, lambda: ceilings.append(matrix_ceiling(dtype))
    )["bertsmith"]
    batches = workload.data()
    tokens = statistics.fmean(batch.num_tokens for batch in batches)
    settings = PlanSettings(
        tokens=round(tokens),
        layers=workload.layers,
        hidden_size=workload.width,
        heads=workload.heads,
        vocab_size=workload.vocabulary,
        max_length=workload.length,
        fill=tokens / (workload.batch * workload.length),
        dropout=workload.dropout,
        batch_size=workload.batch,
        precision="bfloat16" if dtype == torch.bfloat16 else "float32",
        on="cpu",
        device_tflops=statistics.median(ceilings) / 1e12,
        mfu=1.0,
    )
    work = statistics.fmean(operations(workload.config, shape_of(batch)) for batch in batches) / tokens
    reached = statistics.median(
        work * rate / ceiling for rate, ceiling in zip(outcome.tokens_per_second, ceilings, strict=True)
    )
    checkpoint = checkpoint_bytes(workload)
    return Line(workload.name, outcome.peak_mb * 1e6, checkpoint, reached, statistics.median(ceilings), plan(settings))


def checkpoint_bytes(workload: Workload) -> int:
    """Return the size of a checkpoint's files after a step with gradients of 0."""
    model = PretrainingModel(workload.config)
    optimizer = make_optimizer(model, OptimizerSettings())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    with tempfile.TemporaryDirectory() as folder:
        words = Path(folder) / "vocab.txt"
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        entries = [*special, *(f"word{number}" for number in range(workload.vocabulary - len(special)))]
        words.write_text("\n".join(entries) + "\n", encoding="utf-8")
        written = Path(folder) / "checkpoint"
        written.mkdir()
        write_model(model, written, Tokenizer.load(folder))
        save_optimizer(written, optimizer_tensors(model, optimizer))
        return sum(path.stat().st_size for path in written.rglob("*") if path.is_file())


def figures(line: Line, mfu: float) -> dict[str, Any]:
    """Return a line as plain values; ratios are predicted over measured."""
    return {
        "name": line.name,
        "peak": line.peak / 1e6,
        "predicted_peak": line.plan.memory.peak / 1e6,
        "peak_ratio": line.plan.memory.peak / line.peak,
        "checkpoint": line.checkpoint / 1e6,
        "checkpoint_ratio": line.plan.checkpoint / line.checkpoint,
        "tflops": line.ceiling / 1e12,
        "reached": line.reached,
        "seconds": line.seconds(line.reached),
        "predicted_seconds": line.seconds(mfu),
        "seconds_ratio": line.reached / mfu,
    }


def row(line: Line, mfu: float) -> str:
    """Return a line of the table as text."""
    return (
        "{name:<14}{peak:>9,.0f}{predicted_peak:>11,.0f}{peak_ratio:>7.2f}{checkpoint:>9,.1f}{checkpoint_ratio:>7.2f}"
        "{tflops:>9.3f}{reached:>6.0%}{seconds:>8.3f}{predicted_seconds:>11.3f}{seconds_ratio:>7.2f}"
    ).format(**figures(line, mfu))


if __name__ == "__main__":
    main()
