"""How a pre-training step's speed and memory change as one thing grows and the rest stays.

python benchmarks/growth.py --picture growth.png --json growth.json
python benchmarks/growth.py length vocabulary

Around a model of 4 layers of 256 with 8,000 entries and steps of 32 sequences of up to 128 tokens at 90 % fill, dropout
0.1. Every point runs in a process of its own. How memory behaves as the corpus grows is benchmarks/memory.py's subject.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from machine import describe, matrix_ceiling
from steps import Workload, run

from bertsmith.planning.operations import operations, shape_of
from bertsmith.training.device import pick_precision, set_up_process

BASE = Workload("mini", 4, 256, 4, vocabulary=8000, fill=0.9)
SERIES: dict[str, tuple[int, ...]] = {
    "length": (32, 64, 128, 256, 512),
    "batch": (8, 16, 32, 64, 128, 256),
    "width": (64, 128, 256, 512, 768),
    "layers": (1, 2, 4, 8, 12),
    "vocabulary": (4_000, 8_000, 16_000, 30_000, 60_000, 120_000),
}


@dataclass(frozen=True)
class Point:
    """What was measured with one size: real tokens per second, peak memory, share of the matrix ceiling."""

    size: int
    tokens_per_second: float
    peak_mb: float
    share_of_ceiling: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("series", nargs="*", help=f"of {', '.join(SERIES)}; all if not given")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--picture", type=Path, help="draw the figures here")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    unknown = set(options.series) - set(SERIES)
    if unknown:
        sys.exit(f"nothing called {', '.join(sorted(unknown))} grows here")
    set_up_process(options.threads)
    dtype = pick_precision(options.precision, torch.device("cpu"), BASE.width)
    ceiling = matrix_ceiling(dtype)
    print(
        f"{str(dtype).removeprefix('torch.')}, {torch.get_num_threads()} threads, matrix products "
        f"{ceiling / 1e9:.0f} GFLOP/s, medians of {options.rounds} rounds"
    )
    figures: dict[str, list[Point]] = {}
    for name in options.series or SERIES:
        print(f"{name:>12}{'tokens/s':>12}{'MB':>8}{'of ceiling':>12}")
        figures[name] = []
        for size in SERIES[name]:
            point = measure(name, size, dtype, ceiling, options.rounds, options.threads)
            figures[name].append(point)
            print(
                f"{size:>12,}{point.tokens_per_second:>12,.0f}{point.peak_mb:>8,.0f}{point.share_of_ceiling:>12.0%}",
                flush=True,
            )
    if options.picture:
        draw(figures, options.picture)
    if options.json:
        points = {name: [vars(point) for point in series] for name, series in figures.items()}
        found: dict[str, Any] = {"machine": describe(), "ceiling": ceiling, "series": points}
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def measure(name: str, size: int, dtype: torch.dtype, ceiling: float, rounds: int, threads: int) -> Point:
    """Run the base workload with one of its numbers changed; heads stay 64 wide."""
    workload = replace(BASE, name=f"{name} {size}", **{name: size})
    workload = replace(workload, heads=max(1, workload.width // 64))
    outcome = run(workload, ["bertsmith"], {"bertsmith": dtype}, rounds, threads)["bertsmith"]
    work = statistics.fmean(
        operations(workload.config, shape_of(batch)) / batch.num_tokens for batch in workload.data()
    )
    return Point(size, outcome.median, outcome.peak_mb, work * outcome.median / ceiling)


def draw(figures: dict[str, list[Point]], path: Path) -> None:
    """Draw a row of three pictures for each thing that grows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.4 * len(figures)))
    rows = figure.subplots(len(figures), 3, squeeze=False)
    for axes, (name, points) in zip(rows, figures.items(), strict=True):
        sizes = [point.size for point in points]
        for panel, title, values in (
            (axes[0], "tokens/s", [point.tokens_per_second for point in points]),
            (axes[1], "peak memory (MB)", [point.peak_mb for point in points]),
            (axes[2], "share of the matrix ceiling", [point.share_of_ceiling for point in points]),
        ):
            panel.plot(sizes, values, marker="o")
            panel.set_xscale("log", base=2)
            panel.set_xticks(sizes, [f"{size:,}" for size in sizes])
            panel.set_ylim(bottom=0)
            panel.set_xlabel(name)
            panel.set_title(title, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
