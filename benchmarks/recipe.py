"""What is learned in the same time: `bertsmith pretrain --budget` beside the usual loop on transformers' model.

python benchmarks/recipe.py ko_store --budget 20m
python benchmarks/recipe.py ko_store --budget 20m --sides bertsmith --threads 1 --json ours.json
python benchmarks/recipe.py ko_store --budget 60m --device cuda --rates bertsmith=13200 transformers=3600 --seeds 3

The usual loop: BertForPreTraining from random weights, the same kind of instances padded to the longest of a
batch, batches of 32, dropout 0.1, AdamW with a peak of 5e-4, 5 % warm-up and a linear decay to the end of the budget.
Both are evaluated on the same held-out instances with the same masks; evaluating does not count. With --rates a second
is so many tokens of a side, whatever the machine: what is learned depends on the tokens alone, so a fast machine tells
in minutes what a slow one with these rates would have learned in hours.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from machine import describe
from steps import loop_of, their_model

from bertsmith.batch import Batch
from bertsmith.config import SIZES, PretrainSettings
from bertsmith.console import Log
from bertsmith.model.heads import PretrainingModel
from bertsmith.model.names import from_transformers
from bertsmith.pretraining.heldout import evaluation_batches, held_out_documents
from bertsmith.pretraining.sampler import Sampler
from bertsmith.text.store import TokenStore
from bertsmith.training.checkpoint import read_metrics
from bertsmith.training.device import pick_device, pick_precision, set_up_process
from bertsmith.training.evaluate import evaluate, unigram_entropy
from bertsmith.training.initial import model_config
from bertsmith.training.pretrain import pretrain
from bertsmith.training.schedule import fixed

_BATCH, _PEAK, _WARMUP, _DROPOUT = 32, 5e-4, 0.05, 0.1


@dataclass(frozen=True)
class Point:
    """How far a side was: seconds of training, tokens seen, held-out loss (nats) and next-sentence accuracy."""

    seconds: float
    tokens: int
    mlm_loss: float
    nsp_accuracy: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="a token store made by bertsmith prepare")
    parser.add_argument("--budget", default="20m")
    parser.add_argument("--size", default="mini", help="a name, or layers and width as in 6x384")
    parser.add_argument(
        "--sides", nargs="*", choices=("transformers", "bertsmith"), default=["transformers", "bertsmith"]
    )
    parser.add_argument("--points", type=int, default=10, help="evaluations in a run")
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each side")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--rates", nargs="+", default=[], metavar="SIDE=TOKENS", help="tokens a second of each side, instead of a clock"
    )
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument(
        "--precision", choices=("auto", "float32", "bfloat16"), default="auto", help="of both sides; auto: the faster"
    )
    parser.add_argument(
        "--cpu-time", action="store_true", help="count the usual loop's CPU time, on a busy machine (with --threads 1)"
    )
    parser.add_argument("--picture", type=Path, help="draw the curves here")
    parser.add_argument(
        "--curves", type=Path, nargs="+", default=[], help="curves of earlier runs (--json) to show too"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not options.store.exists():
        sys.exit(f"{options.store} is not there; make a store with: bertsmith prepare TEXTS --vocab VOCAB -o STORE")
    curves: dict[str, list[Point]] = {}
    for path in options.curves:
        found = json.loads(path.read_text(encoding="utf-8"))
        curves |= {side: [Point(**point) for point in points] for side, points in found["curves"].items()}
    rates = {side: float(rate) for side, _, rate in (given.partition("=") for given in options.rates)}
    clock = time.process_time if options.cpu_time else time.perf_counter
    with tempfile.TemporaryDirectory() as folder:
        for seed, side in itertools.product(range(options.seed, options.seed + options.seeds), options.sides):
            settings = PretrainSettings.parse(
                {
                    "store": options.store,
                    "output": Path(folder) / f"run-{seed}",
                    **network(options.size),
                    "budget": options.budget,
                    "seed": seed,
                    "threads": options.threads,
                    "precision": options.precision,
                    "device": options.device,
                    "quiet": True,
                }
            )
            name = side if options.seeds == 1 else f"{side}, seed {seed}"
            if side == "transformers":
                curves[name] = usual_loop(settings, options.points, clock, rates.get(side))
            else:
                curves[name] = ours(settings, options.points, rates.get(side))
            print(f"{name}: loss {curves[name][-1].mlm_loss:.3f}", flush=True)
    print_table(curves)
    if options.picture:
        draw(curves, options.picture)
    if options.json:
        found = {"machine": describe(), "settings": {name: str(value) for name, value in vars(options).items()}}
        found["curves"] = {side: [asdict(point) for point in points] for side, points in curves.items()}
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def network(size: str) -> dict[str, str | int]:
    """Return the settings that a size stands for."""
    if size in SIZES:
        return {"size": size}
    layers, width = size.split("x")
    return {"layers": int(layers), "hidden_size": int(width)}


def ours(settings: PretrainSettings, points: int, rate: float | None = None) -> list[Point]:
    """Pre-train with the defaults, for the steps that a ``rate`` makes where there is one; return the evaluations."""
    if rate is not None:
        assert settings.budget is not None
        sampler, _ = instances(settings, settings.batch_size)
        steps = round(settings.budget * rate / sampler.tokens_per_step)
        settings = settings.model_copy(update={"budget": None, "steps": steps})
    pretrain(settings, Log(quiet=True))
    entries = read_metrics(settings.output / "metrics.jsonl")
    trained = {entry["step"]: entry for entry in entries if entry["kind"] == "train"}
    held = [entry for entry in entries if entry["kind"] == "eval" and entry["step"]]
    every = max(1, len(held) // points)
    found = []
    for entry in held[every - 1 :: every]:
        at = trained[entry["step"]]
        seconds = at["seconds"] if rate is None else at["tokens"] / rate
        found.append(Point(seconds, at["tokens"], entry["mlm_loss"], entry["nsp_accuracy"]))
    return found


def instances(settings: PretrainSettings, batch_size: int) -> tuple[Sampler, np.ndarray]:
    """Return the sampler of the training documents, and the documents that are held out."""
    store = TokenStore.open(settings.store)
    documents, unseen = held_out_documents(store, settings.held_out, settings.seed)
    numbers = {"max_length": settings.max_length, "batch_size": batch_size, "seed": settings.seed}
    return Sampler(store, documents=documents, **numbers), unseen


def usual_loop(
    settings: PretrainSettings,
    points: int,
    clock: Callable[[], float] = time.perf_counter,
    rate: float | None = None,
) -> list[Point]:
    """Train transformers' model for as long, and return evaluations at equal distances."""
    assert settings.budget is not None
    set_up_process(settings.threads)
    sampler, unseen = instances(settings, _BATCH)
    store = sampler.store
    held_out = evaluation_batches(
        store, unseen, max_length=settings.max_length, instances=settings.eval_instances, seed=settings.seed
    )
    config = model_config(settings.model_copy(update={"dropout": _DROPOUT}), store.vocab_size)
    torch.manual_seed(settings.seed)
    device = pick_device(settings.device)
    model = their_model(config).to(device)
    dtype = pick_precision(settings.precision, device, config.hidden_size)
    step, _ = loop_of(model, dtype, settings.seed)
    schedule = fixed(_PEAK, _WARMUP, 1_000_000)  # by millionths of the budget
    found: list[Point] = []
    seconds, tokens, number = 0.0, 0, 0
    while seconds < settings.budget:
        batch = sampler.batch(number)
        begun = clock()
        step(batch, schedule.learning_rate(int(1_000_000 * seconds / settings.budget)))
        seconds += clock() - begun if rate is None else batch.num_tokens / rate
        tokens, number = tokens + batch.num_tokens, number + 1
        if seconds >= settings.budget * (len(found) + 1) / points:
            loss, accuracy = score(model, PretrainingModel(config), held_out, store)
            found.append(Point(seconds, tokens, loss, accuracy))
            print(f"transformers {seconds:7.0f} s  loss {loss:.3f}  next sentence {accuracy:.1%}", flush=True)
    return found


def score(
    model: torch.nn.Module, reader: PretrainingModel, held_out: Sequence[Batch], store: TokenStore
) -> tuple[float, float]:
    """Return the held-out loss and next-sentence accuracy of transformers' weights."""
    reader.load_state_dict(from_transformers(model.state_dict(), reader.config.num_hidden_layers))
    entropy = unigram_entropy(store.token_counts, held_out)
    counted = [(batch, True) for batch in held_out]
    result = evaluate(reader, counted, entropy, torch.device("cpu"), torch.float32)
    return result.mlm_loss, result.nsp_accuracy


def draw(curves: dict[str, list[Point]], path: Path) -> None:
    """Draw held-out loss and next-sentence accuracy over time, whose first minutes matter most; theirs dashed."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    for side, points in sorted(curves.items(), key=lambda curve: -curve[1][-1].mlm_loss):
        style = {"linestyle": "--" if side.startswith("transformers") else "-", "linewidth": 1.4}
        minutes = [p.seconds / 60 for p in points]
        loss.plot(minutes, [p.mlm_loss for p in points], label=side, **style)
        accuracy.plot(minutes, [p.nsp_accuracy for p in points], **style)
    for axes, name in ((loss, "held-out MLM loss (nats)"), (accuracy, "next-sentence accuracy")):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("minutes of training")
        axes.set_ylabel(name)
        axes.grid(alpha=0.25)
    loss.legend(frameon=False, fontsize="small")
    # Letters stay letters, and the same curves give the same file.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "curves"}):
        figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)


def print_table(curves: dict[str, list[Point]]) -> None:
    """Print the curves, and when ours was where the usual loop ended."""
    for side, points in curves.items():
        print(side)
        for p in points:
            print(
                f"  {p.seconds:7.0f} s{p.tokens / 1e6:8.2f} M tokens  loss {p.mlm_loss:.3f}  next {p.nsp_accuracy:.1%}"
            )
    if set(curves) == {"transformers", "bertsmith"}:
        theirs = curves["transformers"][-1]
        below = [p for p in curves["bertsmith"] if p.mlm_loss <= theirs.mlm_loss]
        when = f"after {below[0].seconds:.0f} s" if below else "never"
        print(f"the usual loop's last loss, {theirs.mlm_loss:.3f} after {theirs.seconds:.0f} s: ours has it {when}")
        print(f"at the end ours is {theirs.mlm_loss - curves['bertsmith'][-1].mlm_loss:.3f} lower")


if __name__ == "__main__":
    main()
