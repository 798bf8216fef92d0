"""``bertsmith pretrain``: from a token store to a BERT, with both of the paper's tasks at once (section 3.1)."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bertsmith import files
from bertsmith.config import SIZES, PretrainSettings
from bertsmith.configuration import CONFIG
from bertsmith.console import Log, human
from bertsmith.errors import DivergedError, InputError
from bertsmith.locations import Url
from bertsmith.pretraining.prefetch import prefetched
from bertsmith.pretraining.show import format_instances
from bertsmith.remote import cache_of
from bertsmith.text.remote_store import open_together
from bertsmith.text.store import TokenStore
from bertsmith.training.blanks import filled_blanks
from bertsmith.training.budget import Budget, measure_step
from bertsmith.training.checkpoint import (
    FREE,
    METRICS,
    MetricsLog,
    begun_with,
    last_checkpoint,
    refuse_other_directory,
    refuse_other_settings,
    tidy_run,
)
from bertsmith.training.device import pick_device, pick_precision, set_up_process
from bertsmith.training.evaluate import Evaluation, evaluate
from bertsmith.training.guard import TOO_MANY
from bertsmith.training.initial import peak_rate
from bertsmith.training.launch import is_started_by_an_engine, launch
from bertsmith.training.loop import StepReport, StopRequest, metrics_entry, train
from bertsmith.training.processes import ALONE, Processes, joined, local_gpu
from bertsmith.training.report import pretraining_report
from bertsmith.training.schedule import Schedule, fixed
from bertsmith.training.session import Session, check_parts, objective, start
from bertsmith.training.sharding import is_sharded
from bertsmith.training.sizing import with_size
from bertsmith.watching.followers import check_followers, followed


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


def pretrain(settings: PretrainSettings, log: Log | None = None) -> PretrainingResult:
    """Pre-train a BERT, or go on with a run that was stopped.

    The run's directory gets config.yaml, metrics.jsonl (every step and evaluation), checkpoints/, best/
    (the weights with the lowest held-out loss), model/ (the final weights) and report.html. Started by torchrun or
    accelerate, or with ``devices``, several processes share every step.

    Raises:
        InputError: the store, the settings or what the output directory holds do not allow it.
        KeyboardInterrupt: stopped by the user, after a checkpoint was written.
        LostProcessError: another process of the run ended.
    """
    started = time.monotonic()
    if settings.steps is None and settings.epochs is None and settings.budget is None:
        raise InputError("how long? Give one of --steps 1000, --epochs 3 or --budget 30m")
    check_followers(settings)
    if settings.devices > 1 and not is_started_by_an_engine():
        result: PretrainingResult = launch(pretrain, settings, log or Log(settings.quiet))
        return result
    with joined() as processes, StopRequest() as stop, contextlib.ExitStack() as held:
        log = (log or Log(settings.quiet)) if processes.is_first else Log(mute=True)
        store = _open_store(settings, processes, log)
        threads = set_up_process(settings.threads)
        checkpoint = None
        if processes.is_first:
            refuse_other_directory(settings, settings.output)
            held.enter_context(files.only_writer(settings.output))
            tidy_run(settings.output)
        check_parts(settings, processes)
        begun = processes.share(begun_with(settings, settings.output) if processes.is_first else {})
        settings = with_size(settings.model_copy(update=begun), store, processes, lambda: stop.requested, log)
        settings = _with_choices(settings, processes)
        if processes.is_first:
            checkpoint = _check_run_directory(settings, log)
            held.enter_context(followed(settings, log))
        checkpoint = processes.share(checkpoint)
        run = start(settings, store, checkpoint, processes, lambda: stop.requested, log)
        _say_start(run, threads)
        final = _train(run, stop, started)
        if final is None:
            log.say(f"stopped after step {run.progress.step:,}; the checkpoint is whole. Go on with:")
            log.say(f"  {resume_command(settings)}")
            raise KeyboardInterrupt
        report = pretraining_report(settings.output) if processes.is_first else None
        # The model comes last: with it the run is finished.
        model = run.save_model("model")
        if processes.is_first:
            log.say(f"held-out: {_figures(final)}")
            log.say(f"model: {model}   report: {report}")
            log.say(f'next: bertsmith fill {settings.output} "A text with a [MASK] in it."')
            log.say(
                f"      bertsmith finetune classify {settings.output} --train F --dev F --text COL --label COL -o DIR"
            )
        return PretrainingResult(settings.output, model, run.progress.step, final)


def _open_store(settings: PretrainSettings, processes: Processes, log: Log) -> TokenStore:
    cache = cache_of(settings)
    # The whole store is read for its checksums: by one process a machine, as its copy may be its own.
    checks = processes.is_first or local_gpu() == 0
    store = open_together(settings.store, cache, log, checks=checks, any_of_all=processes.any)
    size = sum(shard["bytes"] for shard in store.manifest["shards"])
    if isinstance(settings.store, Url) and size > cache.max_bytes and settings.shuffle_shards is None:
        log.warn(
            f"the store holds {human(size)}B and the cache may hold {human(cache.max_bytes)}B, so shards are fetched "
            "again and again: raise --cache-gb, or let --shuffle-shards keep what is read together in few of them"
        )
    return store


def resume_command(settings: PretrainSettings) -> str:
    """Return the command line that goes on with a run: the settings are in its directory."""
    return f"bertsmith pretrain --config {settings.output / CONFIG} --resume"


def _with_choices(settings: PretrainSettings, processes: Processes) -> PretrainSettings:
    """Return settings in which nothing is left open: with the rate of the width and the faster arithmetic."""
    width = settings.hidden_size or SIZES[settings.size][1]
    dtype = processes.share(pick_precision(settings.precision, pick_device(settings.device), width))
    return settings.model_copy(
        update={"learning_rate": peak_rate(settings), "precision": str(dtype).removeprefix("torch.")}
    )


def _check_run_directory(settings: PretrainSettings, log: Log) -> Path | None:
    """Return the checkpoint to go on from, or None for a new run, whose settings are written down here."""
    path = settings.output / CONFIG
    if not path.exists():
        if settings.resume:
            log.warn(f"nothing to resume in {settings.output}; starting a new run")
        settings.write(path)
        return None
    refuse_other_settings(settings, FREE, settings.output)
    if (settings.output / "model").exists():
        raise InputError("holds a finished run; choose another output directory", path=settings.output)
    if not settings.resume:
        raise InputError(f"holds a run that was stopped; go on with: {resume_command(settings)}", path=settings.output)
    checkpoint = last_checkpoint(settings.output, log)
    if checkpoint is None:
        log.say("the run was stopped before its first checkpoint; starting over")
    return checkpoint


def _say_start(run: Session, threads: int) -> None:
    settings, log, config = run.settings, run.log, run.model.config
    parameters = sum(p.numel() for p in run.model.parameters())
    log.say(
        f"BERT {config.num_hidden_layers}x{config.hidden_size}, {human(parameters)} parameters, vocabulary "
        f"{config.vocab_size:,}; {run.device}, {str(run.dtype).removeprefix('torch.')}, "
        f"{run.processes.in_short(threads)}"
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


def _train(run: Session, stop: StopRequest, started: float) -> Evaluation | None:
    """Train to the schedule's end and return the last evaluation, or None when the user stopped the run."""
    settings, log = run.settings, run.log
    done, per_step = run.progress.step, run.sampler.tokens_per_step
    with _metrics(run) as metrics:
        evaluation_started = time.monotonic()
        latest = _evaluate(run, metrics) if done == 0 else None
        budget = None
        if settings.budget is not None:
            # The last evaluation, checkpoint and report are inside the budget too.
            reserve = 2.0 + 2 * (time.monotonic() - evaluation_started)
            most_steps = math.ceil(settings.max_epochs * run.sampler.steps_per_epoch)
            budget = Budget(settings.budget - reserve, started - run.progress.seconds, most_steps)
            if done == 0:
                run.progress.schedule = _fit_to_budget(run, budget)
            elif run.progress.schedule.total_steps > most_steps:
                log.warn(f"the run ends after {settings.max_epochs:g} passes over the text now (--max-epochs)")
        total = run.progress.schedule.total_steps
        every = settings.eval_every or max(10, total // 20)
        told, smoothed = False, math.nan
        with log.progress("pre-training", (total - done) * per_step, "tokens") as advance:
            for report in _reports(run):
                total = run.progress.schedule.total_steps
                if report.refusal is None:
                    smoothed = report.loss if math.isnan(smoothed) else 0.95 * smoothed + 0.05 * report.loss
                origins = _origins(run, report)
                _record(metrics, metrics_entry(report, run.progress) | origins)
                advance(
                    report.tokens,
                    # A budget changes the number of steps as it learns the machine's speed.
                    total=(total - done) * per_step,
                    loss=f"{smoothed:.3f}",
                    step=f"{report.step:,}/{total:,}",
                )
                if report.refusal is not None and _went_back(run, report, origins, metrics):
                    if run.processes.any(stop.requested):
                        return None
                    continue
                last = report.step >= total
                if report.step % every == 0 or last:
                    latest = _evaluate(run, metrics)
                    log.say(f"step {report.step:,}: {_figures(latest)}")
                    if not told and run.progress.schedule.progress(report.step) > 0.3 and _is_stuck(latest):
                        told = True
                        log.warn(
                            f"the held-out loss {latest.mlm_loss:.3f} is still at the unigram entropy "
                            f"{latest.unigram_entropy:.3f}: so far the model knows frequencies and little more. "
                            "More steps, a higher learning rate or a smaller model may help"
                        )
                stopped = run.processes.any(stop.requested)
                if report.step % settings.checkpoint_every == 0 or last or stopped:
                    run.progress.returns = 0
                    _save_checkpoint(run, metrics)
                if stopped and not last:
                    return None
                if budget is not None:
                    run.progress.schedule = run.processes.share(budget.refit(run.progress))
    # A run that was stopped between its last checkpoint and its model has nothing left to train.
    return latest or evaluate(run.model, run.held_out, run.unigram, run.device, run.dtype, run.processes)


def _reports(run: Session) -> Iterator[StepReport]:
    """Make the run's steps; after a return to an earlier checkpoint, from there on."""
    while run.progress.step < run.progress.schedule.total_steps:
        progress = run.progress
        with prefetched(run.micro_batches, progress.step) as prepared:
            for report in train(
                run.model,
                run.optimizer,
                progress,
                prepared,
                objective(run.settings.next_sentence),
                settings=run.settings,
                device=run.device,
                dtype=run.dtype,
                seed=run.settings.seed,
                processes=run.processes,
            ):
                yield report
                if run.progress is not progress:
                    break


def _went_back(run: Session, report: StepReport, origins: dict[str, list[str]], metrics: MetricsLog | None) -> bool:
    """Do what the settings say about a bad step; true if the run is at an earlier checkpoint now.

    Raises:
        InputError: the run is to stop, or has gone back to the same checkpoint too often.
    """
    settings, log = run.settings, run.log
    what = f"step {report.step:,} was bad: {report.refusal}"
    where = f"{settings.output / METRICS} names its texts"
    if settings.bad_steps == "stop":
        _save_checkpoint(run, metrics)
        raise InputError(
            f"{what}; {where}. The checkpoint is of the weights before it. Go on with: "
            f"{resume_command(settings)} --bad-steps skip"
        )
    checkpoint = None
    if settings.bad_steps == "rollback":
        checkpoint = run.processes.share(last_checkpoint(settings.output, log) if run.processes.is_first else None)
    if checkpoint is None:
        log.warn(f"{what}; its batch is left out ({where})")
        return False
    if run.progress.returns >= TOO_MANY:
        raise DivergedError(
            f"{what}, as others after each of {TOO_MANY} returns to {checkpoint.name}, which is whole; try a new run "
            "with a lower --learning-rate, a longer --warmup or float32"
        )
    run.go_back(checkpoint)
    # All have read the checkpoint before it is written anew, with the batches that are left out from now on.
    run.processes.any(False)
    _save_checkpoint(run, metrics)
    now = run.progress.step
    if metrics is not None:
        metrics.keep(lambda entry: entry["step"] <= now)
    entry = {"step": now, "kind": "rollback", "from_step": report.step, "reason": report.refusal}
    _record(metrics, entry | origins)
    log.warn(f"{what}; back at step {now:,}, and the batches since then are left out ({where})")
    return True


def _origins(run: Session, report: StepReport) -> dict[str, list[str]]:
    """Return where the texts of a bad step stand: file and line of both segments' documents."""
    if report.refusal is None:
        return {}
    instances = run.sampler.instances(report.step - 1 + run.progress.offset)
    documents = sorted({d for instance in instances for d in (instance.document_a, instance.document_b)})
    return {"documents": ["{}:{}".format(*run.store.origin(document)) for document in documents]}


def _save_checkpoint(run: Session, metrics: MetricsLog | None) -> None:
    if metrics is not None:
        metrics.sync()
    run.save_checkpoint()


@contextlib.contextmanager
def _metrics(run: Session) -> Iterator[MetricsLog | None]:
    """Open metrics.jsonl with what was written before the run's present step; None in all processes but the first."""
    if not run.processes.is_first:
        yield None
        return
    done = run.progress.step
    path = run.settings.output / METRICS
    with MetricsLog(path, keep=lambda entry: done > 0 and entry["step"] <= done, disk=run.disk) as metrics:
        metrics.warn_of_gaps({None: done}, run.log)
        yield metrics


def _record(metrics: MetricsLog | None, entry: dict[str, Any]) -> None:
    if metrics is not None:
        metrics.write(entry)


def _fit_to_budget(run: Session, budget: Budget) -> Schedule:
    settings = run.settings
    step_seconds = measure_step(
        run.model,
        run.micro_batches,
        objective(settings.next_sentence),
        settings,
        run.device,
        run.dtype,
        at_most=min(4.0, budget.seconds / 20),
        processes=run.processes if is_sharded(run.model) else ALONE,
    )
    # The processes' clocks differ a little; one of them decides.
    step_seconds = run.processes.share(step_seconds)
    steps = run.processes.share(budget.last_step(0, step_seconds))
    if steps < budget.most_steps:
        run.log.say(f"one step takes {step_seconds:.2f} s: about {steps:,} steps fit into the budget")
    else:
        run.log.say(
            f"one step takes {step_seconds:.2f} s: the run ends after {settings.max_epochs:g} passes over the text, in "
            f"about {steps * step_seconds:,.0f} s; more would teach it little but the text by heart (--max-epochs)"
        )
    return fixed(peak_rate(settings), settings.warmup, steps)


def _evaluate(run: Session, metrics: MetricsLog | None) -> Evaluation:
    """Evaluate, log it, and keep the weights if they are the best so far."""
    result = evaluate(run.model, run.held_out, run.unigram, run.device, run.dtype, run.processes)
    if not math.isfinite(result.mlm_loss):
        run.refuse_bad_weights()
    if run.processes.is_first or is_sharded(run.model):
        blanks = filled_blanks(run.model, run.shown, run.store.tokenizer, run.device, run.dtype)
        _record(metrics, {"step": run.progress.step, "kind": "eval", **asdict(result), "blanks": blanks})
    loss = result.mlm_loss + (result.nsp_loss if run.settings.next_sentence else 0.0)
    if run.progress.step and loss < run.progress.best:
        run.progress.best = loss
        run.save_model("best")
    return result


def _is_stuck(evaluation: Evaluation) -> bool:
    return evaluation.mlm_loss > evaluation.unigram_entropy - 0.05


def _figures(e: Evaluation) -> str:
    return (
        f"MLM loss {e.mlm_loss:.3f} (unigram {e.unigram_entropy:.3f}), accuracy {e.mlm_accuracy:.1%}, "
        f"perplexity {e.perplexity:,.1f}; NSP accuracy {e.nsp_accuracy:.1%} (commoner answer {e.nsp_majority:.1%})"
    )
