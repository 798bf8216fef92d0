"""What `--search N` adds to the fixed recipe, on rows that neither of them has chosen by.

python benchmarks/search.py ner --data ../shared/data --trials 8 --seeds 3
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
from pathlib import Path

from finetuning import JOBS, encoder_directory, files_of, parser_of

from bertsmith.console import Log
from bertsmith.serving.evaluating import evaluate
from bertsmith.task_config import EvaluateSettings, FinetuneSettings
from bertsmith.training.finetune import finetune


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--trials", type=int, default=8)
    options = parser.parse_args()
    job = JOBS[options.job]
    train, test = files_of(job, options.data)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        settings = job.settings(
            model=options.model or encoder_directory(),
            train=train,
            output=directory / "fixed",
            limit=options.limit,
            threads=options.threads,
            precision=options.precision,
            quiet=True,
            # The paper's, whatever the encoder's width; the search begins with its grid.
            learning_rate=5e-5,
            **job.options,
        )
        fixed = test_scores(settings, test, options)
        show("fixed recipe", settings, fixed)
        searching = settings.model_copy(update={"search": options.trials, "output": directory / "search"})
        finetune(searching, Log(quiet=True))
        report = json.loads((searching.output / "scores.json").read_text(encoding="utf-8"))
        stopped = sum(trial["value"] is None for trial in report["trials"])
        print(f"{options.trials} trials, {stopped} of them stopped early", flush=True)
        chosen = settings.model_copy(update={**report["chosen"], "output": directory / "chosen"})
        found = test_scores(chosen, test, options)
        show("search", chosen, found)
    for metric in fixed:
        margin = statistics.fmean(found[metric]) - statistics.fmean(fixed[metric])
        print(f"  {metric:<12} search over fixed recipe: {margin:+.4f}")


def test_scores(settings: FinetuneSettings, test: Path, options: argparse.Namespace) -> dict[str, list[float]]:
    """Return the scores of the best epochs of several seeds on rows that chose nothing."""
    found: dict[str, list[float]] = {}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        output = settings.output.with_name(f"{settings.output.name}-{seed}")
        finetune(settings.model_copy(update={"output": output, "seed": seed}), Log(quiet=True))
        with contextlib.redirect_stdout(None):
            scores = evaluate(EvaluateSettings(model=output, input=test), Log(quiet=True))
        for metric, value in scores.metrics.items():
            found.setdefault(metric, []).append(value)
    return found


def show(name: str, settings: FinetuneSettings, scores: dict[str, list[float]]) -> None:
    """Print a recipe and its scores on the test rows."""
    epochs = "3" if settings.epochs is None else f"{settings.epochs:g}"
    figures = "  ".join(
        f"{metric} {statistics.fmean(v):.4f} ± {statistics.stdev(v) if len(v) > 1 else 0:.4f}"
        for metric, v in scores.items()
    )
    print(
        f"{name:<14} learning rate {settings.learning_rate:.3g}, {epochs} epochs, batch {settings.batch_size}, "
        f"warm-up {settings.warmup:.2f}: {figures}",
        flush=True,
    )


if __name__ == "__main__":
    main()
