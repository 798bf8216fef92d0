"""``bertsmith finetune``: a new output layer on a pre-trained encoder, all weights tuned (section 4)."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bertsmith import files
from bertsmith.batch import Batch, by_token_budget
from bertsmith.config import FinetuneSettings, ModelConfig
from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.model.bert import Bert
from bertsmith.model.heads import SequenceClassifier
from bertsmith.model.weights import load_encoder, model_directory, read_info, save_model
from bertsmith.tasks import classify
from bertsmith.text.tokenizer import Tokenizer
from bertsmith.training.checkpoint import MetricsLog
from bertsmith.training.device import autocast, pick_device, pick_precision, set_threads
from bertsmith.training.loop import Objective, Progress, StopRequest, dropout_seed, metrics_entry, train
from bertsmith.training.optimizer import make_optimizer
from bertsmith.training.report import finetuning_report
from bertsmith.training.schedule import fixed

_EVALUATION_TOKENS = 4096


@dataclass(frozen=True)
class FinetuningResult:
    """What fine-tuning came to.

    Attributes:
        output: the directory with the tuned model, scores.json and report.html.
        scores: the kept run's scores on dev.
        mean: mean over the seeds, by metric.
        deviation: sample standard deviation over the seeds, by metric; 0 for one seed.
    """

    output: Path
    scores: classify.Scores
    mean: dict[str, float]
    deviation: dict[str, float]


@dataclass(frozen=True)
class _SeedResult:
    seed: int
    best_epoch: float
    scores: classify.Scores
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class _Data:
    labels: tuple[str, ...]
    train: classify.Examples
    dev: classify.Examples


def finetune(settings: FinetuneSettings, log: Log | None = None) -> FinetuningResult:
    """Tune a classifier on training rows, choosing the best epoch by the dev metric, for one or more seeds.

    The output directory gets the model of the best seed in model/, config.yaml, metrics.jsonl, scores.json
    and report.html.

    Raises:
        InputError: the model, the rows or the settings cannot be used; nothing is written then.
        KeyboardInterrupt: stopped by the user; the same command starts over.
    """
    log = log or Log(settings.quiet)
    directory = model_directory(settings.model)
    config = read_info(directory).config
    if settings.max_length > config.max_position_embeddings:
        raise InputError(
            f"max_length {settings.max_length} is above the model's {config.max_position_embeddings} positions",
            path=directory,
        )
    tokenizer = Tokenizer.load(directory)
    data = _read(settings, tokenizer, log)
    device = pick_device(settings.device)
    threads = set_threads(settings.threads)
    dtype = pick_precision(settings.precision, device, config.hidden_size)
    encoder = None if settings.from_scratch else load_encoder(directory)
    with files.only_writer(settings.output), StopRequest() as stop:
        if (settings.output / "model").exists():
            raise InputError("holds a fine-tuned model already; choose another output directory", path=settings.output)
        settings.write(settings.output / "config.yaml")
        (settings.output / "metrics.jsonl").unlink(missing_ok=True)
        log.say(
            f"{len(data.train):,} training rows, {len(data.dev):,} dev rows, {len(data.labels)} labels; "
            f"{device}, {str(dtype).removeprefix('torch.')}, {threads} threads"
        )
        results = []
        with MetricsLog(settings.output / "metrics.jsonl") as metrics:
            for seed in range(settings.seed, settings.seed + settings.seeds):
                results.append(_tune(seed, settings, config, encoder, data, device, dtype, metrics, stop, log))
        best = max(results, key=lambda r: (_metric(r.scores, settings.metric), -r.seed))
        model = SequenceClassifier(config, len(data.labels))
        model.load_state_dict(best.weights)
        save_model(model, settings.output / "model", tokenizer, labels=data.labels, extras=_extras(settings))
        return _finish(settings, data, results, best, log)


def _read(settings: FinetuneSettings, tokenizer: Tokenizer, log: Log) -> _Data:
    def rows(path: Path, limit: int | None = None) -> classify.Rows:
        return classify.read_examples(
            path,
            text=settings.text,
            label=settings.label,
            encoding=settings.encoding,
            quoting=settings.quoting,
            limit=limit,
        )

    train_rows, dev_rows = rows(settings.train, settings.limit), rows(settings.dev)
    labels = classify.label_names(train_rows, dev_rows)
    encoded = []
    for rows_, name in ((train_rows, "training"), (dev_rows, "dev")):
        examples = classify.encode_rows(rows_, labels, tokenizer, settings.max_length)
        if examples.truncated:
            log.warn(
                f"{examples.truncated:,} of {len(examples):,} {name} texts are longer than {settings.max_length} "
                "tokens and were cut at the end (--max-length)"
            )
        encoded.append(examples)
    return _Data(labels, *encoded)


def _tune(
    seed: int,
    settings: FinetuneSettings,
    config: ModelConfig,
    encoder: Bert | None,
    data: _Data,
    device: torch.device,
    dtype: torch.dtype,
    metrics: MetricsLog,
    stop: StopRequest,
    log: Log,
) -> _SeedResult:
    """Tune with one seed and return the best epoch's weights and scores."""
    torch.manual_seed(dropout_seed(seed, "initial weights"))
    model = SequenceClassifier(config, len(data.labels))
    if encoder is not None:
        model.bert.load_state_dict(encoder.state_dict())
    model.to(device)
    steps_per_epoch = math.ceil(len(data.train) / settings.batch_size)
    total = max(1, round(settings.epochs * steps_per_epoch))
    progress = Progress(fixed(settings.learning_rate, settings.warmup, total))
    steps = train(
        model,
        make_optimizer(model, settings),
        progress,
        _batches(data.train, settings.batch_size, seed),
        _OBJECTIVE,
        settings=settings,
        device=device,
        dtype=dtype,
        seed=seed,
    )
    best: _SeedResult | None = None
    with log.progress(f"fine-tuning, seed {seed}", total, "steps") as advance:
        for report in steps:
            metrics.write({"seed": seed, **metrics_entry(report, progress)})
            advance(1, loss=f"{report.loss:.3f}")
            if stop.requested:
                log.say("stopped; the same command starts over")
                raise KeyboardInterrupt
            if report.step % steps_per_epoch and report.step != total:
                continue
            epoch = report.step / steps_per_epoch
            scores, loss = evaluate(model, data.dev, data.labels, device, dtype)
            metrics.write(
                {
                    "seed": seed,
                    "epoch": epoch,
                    "step": report.step,
                    "kind": "eval",
                    "loss": loss,
                    "accuracy": scores.accuracy,
                    "macro_f1": scores.macro_f1,
                }
            )
            log.say(
                f"seed {seed}, epoch {epoch:g}: dev loss {loss:.3f}, "
                f"accuracy {scores.accuracy:.1%}, macro F1 {scores.macro_f1:.3f}"
            )
            if best is None or _metric(scores, settings.metric) > _metric(best.scores, settings.metric):
                weights = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
                best = _SeedResult(seed, epoch, scores, weights)
    assert best is not None
    if best.scores.collapsed:
        log.warn(
            f"seed {seed} collapsed: every dev row got the same label. "
            "Try another seed, a lower learning rate, a longer warm-up or more epochs"
        )
    return best


def _batches(examples: classify.Examples, batch_size: int, seed: int) -> Iterator[list[Batch]]:
    for epoch in itertools.count():
        for numbers in classify.epoch_batches(len(examples), batch_size, seed, epoch):
            yield [examples.batch(numbers)]


def _counts(batch: Batch) -> dict[str, int]:
    return {"loss": batch.num_sequences}


def _sums(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    assert batch.labels is not None
    return {"loss": F.cross_entropy(model(batch).float(), batch.labels, reduction="sum")}


_OBJECTIVE = Objective(_counts, _sums)


@torch.no_grad()
def evaluate(
    model: SequenceClassifier,
    examples: classify.Examples,
    labels: tuple[str, ...],
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[classify.Scores, float]:
    """Return the scores and the mean cross entropy (nats) over labelled examples, without dropout."""
    model.eval()
    logits = torch.empty(len(examples), len(labels))
    for numbers in by_token_budget([len(ids) for ids in examples.token_ids], _EVALUATION_TOKENS):
        with autocast(dtype, device):
            logits[numbers] = model(examples.batch(np.array(numbers)).to(device)).float().cpu()
    gold = torch.from_numpy(examples.label_ids)
    loss = float(F.cross_entropy(logits, gold))
    return classify.score(gold.numpy(), logits.argmax(1).numpy(), labels), loss


def _metric(scores: classify.Scores, name: str) -> float:
    value: float = getattr(scores, name)
    return value


def _extras(settings: FinetuneSettings) -> dict[str, Any]:
    return {"task": settings.task, "text": settings.text, "label": settings.label, "max_length": settings.max_length}


def _finish(
    settings: FinetuneSettings, data: _Data, results: list[_SeedResult], best: _SeedResult, log: Log
) -> FinetuningResult:
    """Write scores.json and the report, and say what came out."""
    names = ("accuracy", "macro_f1")
    values = {name: [_metric(r.scores, name) for r in results] for name in names}
    mean = {name: statistics.fmean(v) for name, v in values.items()}
    deviation = {name: statistics.stdev(v) if len(v) > 1 else 0.0 for name, v in values.items()}
    majority = np.bincount(data.train.label_ids).argmax()
    files.write_json(
        settings.output / "scores.json",
        {
            "task": settings.task,
            "metric": settings.metric,
            "labels": list(data.labels),
            "seeds": [
                {"seed": r.seed, "best_epoch": r.best_epoch, **{n: _metric(r.scores, n) for n in names}}
                for r in results
            ],
            "mean": mean,
            "deviation": deviation,
            "per_class": [asdict(row) for row in best.scores.per_class],
            "confusion": best.scores.confusion,
            "majority_accuracy": float((data.dev.label_ids == majority).mean()),
            "train_rows": len(data.train),
            "dev_rows": len(data.dev),
            "truncated": {"train": data.train.truncated, "dev": data.dev.truncated},
        },
    )
    report = finetuning_report(settings.output)
    log.say(f"best epoch {best.best_epoch:g} of seed {best.seed}:")
    log.say(best.scores.table())
    if len(results) > 1:
        spread = ", ".join(f"{n.replace('_', ' ')} {mean[n]:.3f} ± {deviation[n]:.3f}" for n in names)
        log.say(f"over {len(results)} seeds: {spread}")
    log.say(f"model: {settings.output / 'model'}   report: {report}")
    log.say(f"next: bertsmith predict {settings.output} --input FILE -o predictions.jsonl")
    return FinetuningResult(settings.output, best.scores, mean, deviation)
