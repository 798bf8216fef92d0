"""``bertsmith pretrain``: from a token store to a BERT, with both of the paper's tasks at once (section 3.1)."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bertsmith import files
from bertsmith.batch import Batch
from bertsmith.config import PretrainSettings
from bertsmith.console import Log, human
from bertsmith.errors import InputError
from bertsmith.model.heads import PretrainingModel
from bertsmith.model.weights import load_pretraining_model, save_model, write_model
from bertsmith.pretraining.heldout import evaluation_batches, held_out_documents
from bertsmith.pretraining.masking import Masking
from bertsmith.pretraining.prefetch import prefetched
from bertsmith.pretraining.sampler import Sampler
from bertsmith.pretraining.show import format_instances
from bertsmith.text.store import TokenStore
from bertsmith.training.blanks import filled_blanks
from bertsmith.training.budget import Budget, measure_step
from bertsmith.training.checkpoint import (
    MetricsLog,
    last_checkpoint,
    load_optimizer,
    refuse_other_files,
    refuse_other_settings,
    save_checkpoint,
    save_optimizer,
)
from bertsmith.training.device import pick_device, pick_precision, set_up_process
from bertsmith.training.evaluate import Evaluation, evaluate, unigram_entropy
from bertsmith.training.initial import initial_model
from bertsmith.training.loop import Objective, Progress, StopRequest, metrics_entry, train
from bertsmith.training.optimizer import make_optimizer
from bertsmith.training.report import pretraining_report
from bertsmith.training.schedule import Schedule, fixed
from bertsmith.watching.followers import check_followers, followed

# Settings that may differ between the first session of a run and its continuation.
_FREE = ("resume", "quiet", "threads", "output", "watch", "tensorboard")


@dataclass(frozen=True)
class PretrainingResult:
    """Where a run ended.

    Attributes:
        run: the run's directory.
        model: the directory of the final model.
        steps: steps done.
        final: the last evaluation.
    """

    run: Path
    model: Path
    steps: int
    final: Evaluation


@dataclass
class _Run:
    """All that one session of a run works with."""

    settings: PretrainSettings
    store: TokenStore
    sampler: Sampler
    model: PretrainingModel
    optimizer: torch.optim.Optimizer
    progress: Progress
    held_out: list[Batch]
    unigram: float
    device: torch.device
    dtype: torch.dtype
    log: Log


def pretrain(settings: PretrainSettings, log: Log | None = None) -> PretrainingResult:
    """Pre-train a BERT, or go on with a run that was stopped.

    The run's directory gets config.yaml, metrics.jsonl (every step and evaluation), checkpoints/, best/
    (the weights with the lowest held-out loss), model/ (the final weights) and report.html.

    Raises:
        InputError: the store, the settings or what the output directory holds do not allow it.
        KeyboardInterrupt: stopped by the user, after a checkpoint was written.
    """
    started = time.monotonic()
    log = log or Log(settings.quiet)
    if settings.steps is None and settings.epochs is None and settings.budget is None:
        raise InputError("how long? Give one of --steps 1000, --epochs 3 or --budget 30m")
    check_followers(settings)
    store = TokenStore.open(settings.store)
    with files.only_writer(settings.output), StopRequest() as stop, contextlib.ExitStack() as held:
        checkpoint = _check_run_directory(settings, log)
        held.enter_context(followed(settings, log))
        threads = set_up_process(settings.threads)
        run = _start(settings, store, checkpoint, log)
        _say_start(run, threads)
        final = _train(run, stop, started)
        if final is None:
            log.say(f"stopped after step {run.progress.step:,}; the checkpoint is whole. Go on with:")
            log.say(f"  {resume_command(settings)}")
            raise KeyboardInterrupt
        model = settings.output / "model"
        save_model(run.model, model, store.tokenizer, extras=_extras(settings))
        report = pretraining_report(settings.output)
        log.say(f"held-out: {_figures(final)}")
        log.say(f"model: {model}   report: {report}")
        log.say(f'next: bertsmith fill {settings.output} "A text with a [MASK] in it."')
        log.say(f"      bertsmith finetune classify {settings.output} --train F --dev F --text COL --label COL -o DIR")
        return PretrainingResult(settings.output, model, run.progress.step, final)


def resume_command(settings: PretrainSettings) -> str:
    """Return the command line that goes on with a run: the settings are in its directory."""
    return f"bertsmith pretrain --config {settings.output / 'config.yaml'} --resume"


def _check_run_directory(settings: PretrainSettings, log: Log) -> Path | None:
    """Return the checkpoint to go on from, or None for a new run, whose settings are written down here."""
    path = settings.output / "config.yaml"
    if not path.exists():
        refuse_other_files(settings.output)
        if settings.resume:
            log.warn(f"nothing to resume in {settings.output}; starting a new run")
        settings.write(path)
        return None
    refuse_other_settings(settings, _FREE, settings.output)
    if (settings.output / "model").exists():
        raise InputError("holds a finished run; choose another output directory", path=settings.output)
    if not settings.resume:
        raise InputError(f"holds a run that was stopped; go on with: {resume_command(settings)}", path=settings.output)
    checkpoint = last_checkpoint(settings.output, log)
    if checkpoint is None:
        log.say("the run was stopped before its first checkpoint; starting over")
    return checkpoint


def _start(settings: PretrainSettings, store: TokenStore, checkpoint: Path | None, log: Log) -> _Run:
    device = pick_device(settings.device)
    training_documents, held_out = held_out_documents(store, settings.held_out, settings.seed)
    masking = _masking(settings)
    sampler = Sampler(
        store,
        max_length=settings.max_length,
        batch_size=settings.batch_size,
        seed=settings.seed,
        documents=training_documents,
        short_probability=settings.short_probability,
        masking=masking,
    )
    batches = evaluation_batches(
        store,
        held_out,
        max_length=settings.max_length,
        instances=settings.eval_instances,
        seed=settings.seed,
        short_probability=settings.short_probability,
        masking=masking,
    )
    if checkpoint is None:
        model = initial_model(settings, store, training_documents, log).to(device)
        optimizer = make_optimizer(model, settings)
        dtype = pick_precision(settings.precision, device, model.config.hidden_size)
        progress = Progress(fixed(settings.learning_rate, settings.warmup, _planned_steps(settings, sampler)))
    else:
        state = files.read_json(checkpoint / "state.json", what="the state of a checkpoint")
        if state["store"] != store.manifest["fingerprint"]:
            raise InputError("is not the store that this run was started with", path=settings.store)
        model = load_pretraining_model(checkpoint).to(device)
        optimizer = make_optimizer(model, settings)
        load_optimizer(checkpoint, model, optimizer)
        dtype = getattr(torch, state["precision"])
        progress = _progress_from(state["progress"])
        if state["threads"] != torch.get_num_threads():
            log.warn(
                f"the run had {state['threads']} threads and now has {torch.get_num_threads()}: "
                "sums are added in another order, so the last digits may differ"
            )
    entropy = unigram_entropy(store.token_counts, batches)
    return _Run(settings, store, sampler, model, optimizer, progress, batches, entropy, device, dtype, log)


def _masking(settings: PretrainSettings) -> Masking:
    masked, _, random = (int(percent) / 100 for percent in settings.mask_mix.split("/"))
    unit = "next" if settings.direction == "left-to-right" else settings.masking
    return Masking(unit, settings.mask_share, masked, random)


def _planned_steps(settings: PretrainSettings, sampler: Sampler) -> int:
    """Return the number of steps; for a budget a first guess that is replaced once the speed is known."""
    if settings.steps is not None:
        return settings.steps
    return max(1, math.ceil(float(settings.epochs or 1) * sampler.steps_per_epoch))


def _say_start(run: _Run, threads: int) -> None:
    settings, log, config = run.settings, run.log, run.model.config
    parameters = sum(p.numel() for p in run.model.parameters())
    log.say(
        f"BERT {config.num_hidden_layers}x{config.hidden_size}, {human(parameters)} parameters, "
        f"vocabulary {config.vocab_size:,}; {run.device}, {str(run.dtype).removeprefix('torch.')}, {threads} threads"
    )
    log.say(
        f"store: {run.store.num_documents:,} documents, {human(run.store.num_tokens)} tokens; "
        f"{run.sampler.steps_per_epoch:,} steps of {settings.batch_size} sequences an epoch; "
        f"B is random in {run.sampler.figures.random_share:.0%} of the pairs"
    )
    if run.progress.step:
        log.say(f"going on after step {run.progress.step:,} of {run.progress.schedule.total_steps:,}")
    else:
        log.say(format_instances(run.sampler, run.store.tokenizer, count=3))


def _train(run: _Run, stop: StopRequest, started: float) -> Evaluation | None:
    """Train to the schedule's end and return the last evaluation, or None when the user stopped the run."""
    settings, progress, log = run.settings, run.progress, run.log
    done = progress.step
    metrics = MetricsLog(settings.output / "metrics.jsonl", keep=lambda entry: done > 0 and entry["step"] <= done)

    evaluation_started = time.monotonic()
    latest = _evaluate(run, metrics) if progress.step == 0 else None
    budget = None
    if settings.budget is not None:
        # The last evaluation, checkpoint and report are inside the budget too.
        reserve = 2.0 + 2 * (time.monotonic() - evaluation_started)
        budget = Budget(settings.budget - reserve, started - progress.seconds)
        if progress.step == 0:
            progress.schedule = _fit_to_budget(run, budget)
    total = progress.schedule.total_steps
    every = settings.eval_every or max(10, total // 20)
    warned = False
    batches = prefetched(lambda step: _micro_batches(run, step), progress.step)
    smoothed = math.nan
    with (
        metrics,
        log.progress("pre-training", (total - done) * run.sampler.tokens_per_step, "tokens") as advance,
        batches as prepared,
    ):
        steps = train(
            run.model,
            run.optimizer,
            progress,
            prepared,
            _objective(settings.next_sentence),
            settings=settings,
            device=run.device,
            dtype=run.dtype,
            seed=settings.seed,
        )
        for report in steps:
            smoothed = report.loss if math.isnan(smoothed) else 0.95 * smoothed + 0.05 * report.loss
            metrics.write(metrics_entry(report, progress))
            total = progress.schedule.total_steps
            advance(
                report.tokens,
                # A budget changes the number of steps as it learns the machine's speed.
                total=(total - done) * run.sampler.tokens_per_step,
                loss=f"{smoothed:.3f}",
                step=f"{report.step:,}/{total:,}",
            )
            last = report.step >= total
            if report.step % every == 0 or last:
                latest = _evaluate(run, metrics)
                log.say(f"step {report.step:,}: {_figures(latest)}")
                if not warned and progress.schedule.progress(report.step) > 0.3 and _is_stuck(latest):
                    warned = True
                    log.warn(
                        f"the held-out loss {latest.mlm_loss:.3f} is still at the unigram entropy "
                        f"{latest.unigram_entropy:.3f}: so far the model knows frequencies and little more. "
                        "More steps, a higher learning rate or a smaller model may help"
                    )
            if report.step % settings.checkpoint_every == 0 or last or stop.requested:
                save_checkpoint(settings.output, report.step, lambda path: _write_checkpoint(run, path))
            if stop.requested and not last:
                return None
            if budget is not None:
                progress.schedule = budget.refit(progress)
    assert latest is not None
    return latest


def _fit_to_budget(run: _Run, budget: Budget) -> Schedule:
    settings = run.settings
    step_seconds = measure_step(
        run.model,
        lambda step: _micro_batches(run, step),
        _objective(settings.next_sentence),
        settings,
        run.device,
        run.dtype,
        at_most=min(4.0, budget.seconds / 20),
    )
    steps = budget.steps_left(step_seconds)
    run.log.say(f"one step takes {step_seconds:.2f} s: about {steps:,} steps fit into the budget")
    return fixed(settings.learning_rate, settings.warmup, steps)


def _micro_batches(run: _Run, step: int) -> list[Batch]:
    size, whole = run.settings.micro_batch_size, run.settings.batch_size
    parts = math.ceil(whole / size) if size else 1
    return [run.sampler.batch(step, part, parts) for part in range(parts)]


def _objective(next_sentence: bool) -> Objective:
    def counts(batch: Batch) -> dict[str, int]:
        assert batch.masked_positions is not None
        masked = {"mlm_loss": len(batch.masked_positions)}
        return masked | {"nsp_loss": batch.num_sequences} if next_sentence else masked

    def sums(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        assert isinstance(model, PretrainingModel)
        losses = model.losses(batch)
        return {"mlm_loss": losses.mlm, "nsp_loss": losses.nsp} if next_sentence else {"mlm_loss": losses.mlm}

    return Objective(counts, sums)


def _evaluate(run: _Run, metrics: MetricsLog) -> Evaluation:
    """Evaluate, log it, and keep the weights if they are the best so far."""
    result = evaluate(run.model, run.held_out, run.unigram, run.device, run.dtype)
    blanks = filled_blanks(run.model, run.held_out[0], run.store.tokenizer, run.device, run.dtype)
    metrics.write({"step": run.progress.step, "kind": "eval", **asdict(result), "blanks": blanks})
    loss = result.mlm_loss + (result.nsp_loss if run.settings.next_sentence else 0.0)
    if run.progress.step and loss < run.progress.best:
        run.progress.best = loss
        save_model(run.model, run.settings.output / "best", run.store.tokenizer, extras=_extras(run.settings))
    return result


def _is_stuck(evaluation: Evaluation) -> bool:
    return evaluation.mlm_loss > evaluation.unigram_entropy - 0.05


def _figures(e: Evaluation) -> str:
    return (
        f"MLM loss {e.mlm_loss:.3f} (unigram {e.unigram_entropy:.3f}), accuracy {e.mlm_accuracy:.1%}, "
        f"perplexity {e.perplexity:,.1f}; NSP accuracy {e.nsp_accuracy:.1%} (commoner answer {e.nsp_majority:.1%})"
    )


def _write_checkpoint(run: _Run, directory: Path) -> None:
    write_model(run.model, directory, run.store.tokenizer, extras=_extras(run.settings))
    save_optimizer(directory, run.model, run.optimizer)
    state = {
        "progress": asdict(run.progress),
        "precision": str(run.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "store": run.store.manifest["fingerprint"],
    }
    # Infinity is not JSON; a run without an evaluation has no best loss yet.
    state["progress"]["best"] = None if math.isinf(run.progress.best) else run.progress.best
    files.write_json(directory / "state.json", state)


def _progress_from(state: dict[str, Any]) -> Progress:
    schedule = state["schedule"]
    segments = tuple((int(a), float(b), int(c)) for a, b, c in schedule["segments"])
    best = math.inf if state["best"] is None else float(state["best"])
    return Progress(
        Schedule(schedule["peak"], schedule["warmup"], segments), state["step"], state["tokens"], state["seconds"], best
    )


def _extras(settings: PretrainSettings) -> dict[str, Any]:
    return {"task": "pretraining", "max_length": settings.max_length}
