"""Pre-training steps beside transformers' BertForPreTraining: tokens per second, memory, share of the matrix ceiling.

python benchmarks/pretraining.py                       # all lines
python benchmarks/pretraining.py 6x384 full --rounds 5 --json figures.json

Both sides have the same weights, batches and dropout and take the same kind of step; they take turns, each in its own
process. Only real tokens count, not padding. `stream` lines read instances made from --data (raw/ko_mixed.txt).
A GPU wants larger batches: --device cuda --batch-size 256; then memory is the GPU's, and --compile is worth a try.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from machine import describe, matrix_ceiling
from steps import Outcome, Workload, run

from bertsmith import config
from bertsmith.batch import Batch
from bertsmith.config import PrepareSettings, VocabularySettings
from bertsmith.console import Log
from bertsmith.planning.operations import operations, shape_of
from bertsmith.pretraining.sampler import Sampler
from bertsmith.text.prepare import prepare
from bertsmith.text.store import TokenStore
from bertsmith.text.vocabulary import learn_vocabulary
from bertsmith.training.device import pick_precision, set_up_process

SIZES = {name: numbers for name, numbers in config.SIZES.items() if name != "large"} | {"6x384": (6, 384, 12)}
FULL, STREAM = "full", "stream"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", nargs="*", help=f"of {', '.join([*SIZES, FULL, STREAM])}; all if not given")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--peer-precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch-size", type=int, default=32, help="sequences in a step; half of it for base")
    parser.add_argument("--compile", action="store_true", help="our layers compiled, as by pretrain --compile")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    set_up_process(options.threads)
    unknown = set(options.lines) - {*SIZES, FULL, STREAM}
    if unknown:
        sys.exit(f"no line called {', '.join(sorted(unknown))}")
    device = torch.device(options.device)
    engines = ("bertsmith compiled" if options.compile else "bertsmith", "transformers")
    wishes = (options.precision, options.peer_precision)
    dtypes = {engine: pick_precision(wish, device, 384) for engine, wish in zip(engines, wishes, strict=True)}
    ours, theirs = dtypes.values()
    ceiling = matrix_ceiling(ours, device)
    print(
        f"{name(ours)} against transformers in {name(theirs)}, {options.device}, "
        f"{torch.get_num_threads()} threads, matrix products {ceiling / 1e9:.0f} GFLOP/s, medians of "
        f"{options.rounds} rounds\n"
        f"{'':<14}{'batch':>6}{'fill':>6}{'dropout':>8}{'tokens/s':>10}{'theirs':>8}{'ratio':>7}{'of ceiling':>11}"
        f"{'MB':>7}{'theirs':>8}{'loss':>9}{'theirs':>9}"
    )
    entries = []
    for workload in workloads(options.lines or [*SIZES, FULL, STREAM], options.data, options.batch_size):
        outcomes = run(workload, engines, dtypes, options.rounds, options.threads, device=options.device)
        entries.append(entry(workload, outcomes, ceiling))
        print(row(entries[-1]), flush=True)
    if options.json:
        figures = {"machine": describe(), "ceiling": ceiling, "dtypes": {k: name(v) for k, v in dtypes.items()}}
        options.json.write_text(json.dumps({**figures, "lines": entries}, indent=1) + "\n", encoding="utf-8")


def workloads(lines: list[str], data: Path, batch_size: int = 32) -> list[Workload]:
    """Return what the lines of the table train on."""
    sizes = {line: SIZES[line] for line in lines if line in SIZES}
    found = [Workload(n, *size, batch=batch_size // 2 if n == "base" else batch_size) for n, size in sizes.items()]
    if FULL in lines:
        found.append(Workload("6x384 full", *SIZES["6x384"], batch=batch_size, fill=1.0, dropout=0.0))
    if STREAM in lines:
        text = data / "raw" / "ko_mixed.txt"
        if text.exists():
            batches, vocabulary, fill = real_batches(text, batch_size)
            found += [
                Workload(f"{size} stream", *SIZES[size], vocabulary, batch_size, fill=fill, batches=batches)
                for size in ("mini", "6x384")
            ]
        else:
            print(f"{text} is not there; the lines of real text are left out (--data)", file=sys.stderr)
    return found


def real_batches(text: Path, batch_size: int) -> tuple[tuple[Batch, ...], int, float]:
    """Return pre-training batches as a run on ``text`` gets them, the size of their vocabulary, and their fill."""
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(text, Path(folder))
        sampler = Sampler(store, max_length=128, batch_size=batch_size, seed=0)
        batches = tuple(sampler.batch(step) for step in range(8))
        return batches, store.tokenizer.vocab_size, sampler.figures.fill


def make_store(text: Path, folder: Path, entries: int = 8000) -> TokenStore:
    """Learn a vocabulary of ``text`` and tokenise the text with it, in ``folder``."""
    vocabulary = folder / "vocabulary"
    learn_vocabulary(VocabularySettings(corpus=[text], size=entries, output=vocabulary), Log(quiet=True))
    return prepare(PrepareSettings(corpus=[text], vocab=vocabulary, output=folder / "store"), Log(quiet=True))


def entry(workload: Workload, outcomes: dict[str, Outcome], ceiling: float) -> dict[str, Any]:
    """Return a line of the table as plain values."""
    ours, theirs = outcomes.values()
    batches = workload.data()
    work = statistics.fmean(operations(workload.config, shape_of(batch)) / batch.num_tokens for batch in batches)
    pairs = zip(ours.tokens_per_second, theirs.tokens_per_second, strict=True)
    return {
        "name": workload.name,
        "batch": workload.batch,
        "fill": statistics.fmean(b.num_tokens / (b.num_sequences * workload.length) for b in batches),
        "dropout": workload.dropout,
        "tokens_per_second": ours.median,
        "their_tokens_per_second": theirs.median,
        "ratio": statistics.median(a / b for a, b in pairs),
        "share_of_ceiling": work * ours.median / ceiling,
        "peak_mb": ours.peak_mb,
        "their_peak_mb": theirs.peak_mb,
        "loss": ours.loss,
        "their_loss": theirs.loss,
    }


def row(values: dict[str, Any]) -> str:
    """Return a line of the table as text."""
    return (
        "{name:<14}{batch:>6}{fill:>6.2f}{dropout:>8g}{tokens_per_second:>10,.0f}{their_tokens_per_second:>8,.0f}"
        "{ratio:>7.2f}{share_of_ceiling:>11.0%}{peak_mb:>7,.0f}{their_peak_mb:>8,.0f}{loss:>9.4f}{their_loss:>9.4f}"
    ).format(**values)


def name(dtype: torch.dtype) -> str:
    """Return a type's name without its module."""
    return str(dtype).removeprefix("torch.")


if __name__ == "__main__":
    main()
