"""The loss of our steps and of transformers' over thousands of steps of the same real batches.

python benchmarks/loss_curve.py --data ../shared/data --steps 2000 --picture curve.png

The same initial weights, batches, masks, learning rates and optimiser; dropout draws different bits. So two seeds of
dropout of each side are run, and the difference between the sides is shown beside the difference between seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from machine import describe
from steps import ENGINES, SIDES, Workload

from bertsmith.batch import Batch
from bertsmith.config import ModelConfig
from bertsmith.pretraining.sampler import Sampler
from bertsmith.training.device import pick_precision, set_up_process
from bertsmith.training.schedule import Schedule, fixed
from pretraining import SIZES, make_store

_HELD_OUT = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto", help="of our side")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--picture", type=Path, help="draw the curves here")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    set_up_process(options.threads)
    text = options.data / "raw" / "ko_mixed.txt"
    if not text.exists():
        sys.exit(f"{text} is not there; give the folder of the data with --data")
    dtypes = {
        "bertsmith": pick_precision(options.precision, torch.device("cpu"), SIZES[options.size][1]),
        "transformers": torch.float32,
    }
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(text, Path(folder))
        documents = np.random.default_rng(0).permutation(store.num_documents)
        cut = len(documents) // 20
        sampler, unseen = (
            Sampler(store, max_length=128, batch_size=options.batch_size, seed=0, documents=np.sort(part))
            for part in (documents[cut:], documents[:cut])
        )
        config = Workload(options.size, *SIZES[options.size], store.tokenizer.vocab_size).config
        plan = Plan(
            sampler, fixed(options.learning_rate, 0.1, options.steps), [unseen.batch(n) for n in range(_HELD_OUT)]
        )
        curves: dict[str, list[Curve]] = {engine: [] for engine in SIDES}
        for seed in range(options.seeds):
            for engine in SIDES:
                curves[engine].append(train(engine, config, dtypes[engine], seed, plan))
                print(f"{engine}, seed {seed}: held-out loss {curves[engine][-1].held_out:.4f}", flush=True)
    compare(curves, options.steps)
    if options.picture:
        draw(curves, options.picture)
    if options.json:
        found = {"machine": describe(), "settings": {n: str(v) for n, v in vars(options).items()}}
        found["curves"] = {engine: [asdict(curve) for curve in runs] for engine, runs in curves.items()}
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Plan:
    """What every run does: the steps' batches and learning rates, and batches of documents that are not trained on."""

    sampler: Sampler
    schedule: Schedule
    held_out: list[Batch]


@dataclass(frozen=True)
class Curve:
    """A run's training loss at every step (both losses, nats), and its held-out loss at the end."""

    losses: list[float]
    held_out: float


def train(engine: str, config: ModelConfig, dtype: torch.dtype, seed: int, plan: Plan) -> Curve:
    """Train from the same initial weights as every other run; ``seed`` is that of dropout."""
    torch.manual_seed(1)
    step, loss = ENGINES[engine](config, dtype, seed)
    losses = [
        step(plan.sampler.batch(number), plan.schedule.learning_rate(number))
        for number in range(plan.schedule.total_steps)
    ]
    return Curve(losses, statistics.fmean(loss(batch) for batch in plan.held_out))


def compare(curves: dict[str, list[Curve]], steps: int) -> None:
    """Print the mean loss in tenths of the run, the difference of the sides, and how far seeds of one side differ."""
    print(f"{'steps':>12}{'bertsmith':>11}{'transformers':>14}{'difference':>12}{'between seeds':>15}")
    for tenth in range(10):
        part = slice(tenth * steps // 10, (tenth + 1) * steps // 10)
        means = {e: [statistics.fmean(curve.losses[part]) for curve in runs] for e, runs in curves.items()}
        print_row(f"{part.start}-{part.stop}", means)
    print_row("held out", {e: [curve.held_out for curve in runs] for e, runs in curves.items()})


def print_row(title: str, means: dict[str, list[float]]) -> None:
    """Print the means of both sides' seeds and the largest difference between two seeds of one side."""
    ours, theirs = (statistics.fmean(values) for values in means.values())
    spread = max(max(values) - min(values) for values in means.values())
    print(f"{title:>12}{ours:>11.4f}{theirs:>14.4f}{ours - theirs:>+12.4f}{spread:>15.4f}", flush=True)


def draw(curves: dict[str, list[Curve]], path: Path) -> None:
    """Draw every run, smoothed over 1/50 of its steps."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    for colour, (engine, runs) in zip(("tab:blue", "tab:orange"), curves.items(), strict=True):
        for number, curve in enumerate(runs):
            width = max(1, len(curve.losses) // 50)
            smooth = np.convolve(curve.losses, np.ones(width) / width, mode="valid")
            label = engine if number == 0 else None
            axes.plot(np.arange(len(smooth)) + width, smooth, color=colour, linewidth=1, label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("loss of both tasks (nats)")
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    main()
