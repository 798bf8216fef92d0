"""``bertsmith finetune``: a new output layer on a pre-trained encoder, all weights tuned (section 4)."""

from __future__ import annotations

import contextlib
import shutil
import statistics
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bertsmith import files
from bertsmith.catalogue.translate import translated
from bertsmith.config import ModelConfig
from bertsmith.configuration import CONFIG
from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.model.hub import pinned
from bertsmith.model.weights import load_encoder, model_directory, read_info, save_model
from bertsmith.task_config import FinetuneSettings
from bertsmith.tasks.by_name import TASKS
from bertsmith.tasks.scores import Scores, spoken
from bertsmith.tasks.task import source, split_rows
from bertsmith.text.tokenizer import Tokenizer
from bertsmith.training.checkpoint import (
    CHECKPOINTS,
    FREE,
    METRICS,
    MetricsLog,
    begun_with,
    last_checkpoint,
    refuse_changed_files,
    refuse_other_directory,
    refuse_other_settings,
    tidy_run,
)
from bertsmith.training.data_report import DataReport, describe_data
from bertsmith.training.device import pick_device, pick_precision, set_up_process
from bertsmith.training.disk import Disk
from bertsmith.training.launch import is_started_by_an_engine, launch
from bertsmith.training.loop import StopRequest
from bertsmith.training.processes import Processes, joined
from bertsmith.training.rates import tuning_rates
from bertsmith.training.report import finetuning_report
from bertsmith.training.search import JOURNAL, Trial, best_of, search
from bertsmith.training.sharding import is_wanted
from bertsmith.training.tuning import (
    RunState,
    SeedState,
    Session,
    TaskData,
    chosen_metric,
    load_run_state,
    on_device,
    resume_command,
    score_dev,
    tune,
)
from bertsmith.watching.followers import check_followers, followed

# What transformers calls those of our tasks that its class for sequences does not guess.
_PROBLEM_TYPES = {"multilabel": "multi_label_classification", "regress": "regression"}


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
    scores: Scores
    mean: dict[str, float]
    deviation: dict[str, float]


def finetune(settings: FinetuneSettings, log: Log | None = None) -> FinetuningResult:
    """Tune a model on training rows, choosing the best epoch by the dev metric, for one or more seeds.

    The output directory gets the model of the best seed in model/, config.yaml, metrics.jsonl, scores.json
    and report.html.

    Args:
        settings: one of the tasks' own (ClassifySettings, ...).
        log: what is said goes here.

    Raises:
        InputError: the model, the rows or the settings cannot be used; nothing is written then.
        KeyboardInterrupt: stopped by the user; a checkpoint was written.
        LostProcessError: another process of the run ended.
    """
    log = log or Log(settings.quiet)
    check_followers(settings)
    if settings.devices > 1 and not is_started_by_an_engine():
        result: FinetuningResult = launch(finetune, settings, log)
        return result
    with joined() as processes, StopRequest() as stop:
        return _finetune(settings, processes, stop, log if processes.is_first else Log(mute=True))


def _finetune(settings: FinetuneSettings, processes: Processes, stop: StopRequest, log: Log) -> FinetuningResult:
    """Do what :func:`finetune` does, in one of its processes."""
    if processes.size > 1 and settings.search is not None:
        raise InputError("--search works with one process; search first, then tune with --devices")
    directory = model_directory(settings.model)
    if processes.is_first:
        refuse_other_directory(settings, settings.output)
    goes_on = processes.is_first and settings.resume
    begun = processes.share(begun_with(settings, settings.output) if goes_on else {})
    # What a name of the hub stands for may change before the run goes on.
    settings = settings.model_copy(update=begun | {"model": pinned(settings.model, directory)})
    published = read_info(directory).config
    config = ModelConfig.parse(
        published.model_dump()
        | {"hidden_dropout_prob": settings.dropout, "attention_probs_dropout_prob": settings.dropout}
        | {"bilstm": settings.bilstm or published.bilstm}
    )
    if settings.max_length > config.max_position_embeddings:
        raise InputError(
            f"max_length {settings.max_length} is above the model's {config.max_position_embeddings} positions",
            path=directory,
        )
    if settings.freeze_layers > config.num_hidden_layers:
        raise InputError(f"freeze_layers {settings.freeze_layers}: the model has {config.num_hidden_layers} layers")
    tokenizer = Tokenizer.load(directory)
    data, report = _read(settings, tokenizer, log)
    device = pick_device(settings.device)
    threads = set_up_process(settings.threads)
    dtype = processes.share(pick_precision(settings.precision, device, config.hidden_size))
    # What is left open is chosen once: a run keeps to its arithmetic when it goes on.
    rate = settings.learning_rate or tuning_rates(config.hidden_size)[0]
    settings = settings.model_copy(update={"precision": str(dtype).removeprefix("torch."), "learning_rate": rate})
    holds_weights = processes.is_first or not is_wanted(settings, processes)
    encoder = load_encoder(directory) if holds_weights and not settings.from_scratch else None
    with contextlib.ExitStack() as held:
        checkpoint = None
        if processes.is_first:
            held.enter_context(files.only_writer(settings.output))
            # Somebody may have begun there while the rows were read.
            refuse_other_directory(settings, settings.output)
            tidy_run(settings.output)
            checkpoint = _check_output(settings, log)
            rows = [file for file in (settings.train, settings.dev) if file is not None]
            refuse_changed_files([*rows, *sorted(directory.glob("*.safetensors"))], settings.output)
            held.enter_context(followed(settings, log))
        checkpoint = processes.share(checkpoint)
        run = load_run_state(checkpoint, weights=holds_weights) if checkpoint else RunState([SeedState(settings.seed)])
        log.say(f"{report.in_short()}; {device}, {str(dtype).removeprefix('torch.')}, {processes.in_short(threads)}")
        disk = Disk(settings.output, log, settings.when_full == "wait", lambda: stop.requested)
        metrics = None
        if processes.is_first:
            path = settings.output / METRICS
            metrics = held.enter_context(MetricsLog(path, keep=lambda entry: _was_before(entry, run), disk=disk))
        session = Session(settings, config, encoder, data, device, dtype, metrics, stop, disk, log, processes)
        if settings.epochs is None and session.stretch > 1:
            log.say(
                f"few rows: {session.epochs:g} epochs instead of 3, so that there are at least "
                f"{settings.min_steps} steps (--epochs, --min-steps)"
            )
        trials = search(session, settings.search) if settings.search is not None else []
        if trials:
            session = replace(session, settings=settings.model_copy(update=best_of(trials).settings))
        _tune_all(session, run, checkpoint)
        return _finish(session, run, report, trials, tokenizer)


def _read(settings: FinetuneSettings, tokenizer: Tokenizer, log: Log) -> tuple[TaskData, DataReport]:
    task = TASKS[settings.task]  # type: ignore[attr-defined]
    train_rows = task.read(source(settings, settings.train, task.roles, settings.limit))
    if settings.dev is None:
        train_rows, dev_rows = split_rows(task, train_rows, settings.dev_share, settings.seed, settings)
    else:
        dev_rows = task.read(source(settings, settings.dev, task.roles))
    facts = task.facts(train_rows, dev_rows, settings)
    train, dev = (task.encode(rows, facts, tokenizer) for rows in (train_rows, dev_rows))
    report = describe_data(task, facts, train_rows, train, dev_rows, dev)
    for name, rows, examples in (("training", train_rows, train), ("dev", dev_rows, dev)):
        for note in task.notes(rows, examples, facts):
            log.warn(f"{name} rows: {note}")
    for warning in report.warnings():
        log.warn(warning)
    return TaskData(task, facts, train, dev, dev_rows), report


def _check_output(settings: FinetuneSettings, log: Log) -> Path | None:
    """Return the checkpoint to go on from, or None for a new run, whose settings are written down here."""
    path = settings.output / CONFIG
    if (settings.output / "model").exists():
        # A kill may have come between the model and the end.
        shutil.rmtree(settings.output / CHECKPOINTS, ignore_errors=True)
        raise InputError("holds a fine-tuned model already; choose another output directory", path=settings.output)
    if path.exists() and settings.resume:
        refuse_other_settings(settings, FREE, settings.output)
        return last_checkpoint(settings.output, log)
    for kind, sign in (("search", JOURNAL), ("run", CHECKPOINTS)):
        if (settings.output / sign).exists():
            raise InputError(
                f"holds a {kind} that was stopped; go on with: {resume_command(settings)}", path=settings.output
            )
    settings.write(path)
    return None


def _was_before(entry: dict[str, Any], run: RunState) -> bool:
    """Tell whether an entry of metrics.jsonl is from before the checkpoint."""
    return any(entry.get("seed") == state.seed and entry["step"] <= state.step for state in run.seeds)


def _tune_all(session: Session, run: RunState, checkpoint: Path | None) -> None:
    """Tune with every seed that is not done yet.

    Raises:
        KeyboardInterrupt: the user stopped it, after a checkpoint was written.
    """
    settings = session.settings
    while True:
        if not tune(session, run, checkpoint):
            session.log.say(f"stopped; the checkpoint is whole. Go on with:\n  {resume_command(settings)}")
            raise KeyboardInterrupt
        if run.seeds[-1] is _best(run, chosen_metric(settings, run.seeds[-1].metrics)):
            run.best = run.current
        run.current, checkpoint = {}, None
        if len(run.seeds) == settings.seeds:
            return
        run.seeds.append(SeedState(run.seeds[-1].seed + 1))


def _best(run: RunState, metric: str) -> SeedState:
    return max(run.seeds, key=lambda s: (s.metrics[metric], -s.seed))


def _best_model(session: Session, run: RunState) -> nn.Module:
    """Return the model of the best seed, on the CPU; in a process that does not hold its weights its shapes."""
    with contextlib.nullcontext() if session.holds_weights else torch.device("meta"):
        model = session.data.task.model(session.config, session.data.facts)
    if session.holds_weights:
        model.load_state_dict(run.best)
    return model


def _finish(
    session: Session, run: RunState, report: DataReport, trials: list[Trial], tokenizer: Tokenizer
) -> FinetuningResult:
    """Write the model, scores.json and the report, and say what came out."""
    settings, data, log = session.settings, session.data, session.log
    metric = chosen_metric(settings, run.seeds[0].metrics)
    best = _best(run, metric)
    facts = data.facts | best.tuned
    scores = score_dev(session, on_device(session, _best_model(session, run)))
    values = {name: [seed.metrics[name] for seed in run.seeds] for name in scores.metrics}
    mean = {name: statistics.fmean(v) for name, v in values.items()}
    deviation = {name: statistics.stdev(v) if len(v) > 1 else 0.0 for name, v in values.items()}
    result = FinetuningResult(settings.output, scores, mean, deviation)
    if not session.processes.is_first:
        return result
    files.write_json(
        settings.output / "scores.json",
        {
            "task": data.task.name,
            "metric": metric,
            "seeds": [{"seed": s.seed, "best_epoch": s.best_epoch, **s.metrics} for s in run.seeds],
            "mean": mean,
            "deviation": deviation,
            **asdict(scores),
            "chosen": {
                "learning_rate": settings.learning_rate,
                "epochs": session.epochs,
                "batch_size": settings.batch_size,
                "warmup": settings.warmup,
            },
            "trials": [asdict(trial) for trial in trials],
            "data": asdict(report),
        },
    )
    page = finetuning_report(settings.output)
    # The model comes last: with it the run is finished.
    session.disk.write(
        "the model",
        lambda: save_model(
            _best_model(session, run),
            settings.output / "model",
            tokenizer,
            labels=tuple(facts.get("labels", ())),
            extras={"task": data.task.name, "facts": facts},
            problem_type=_PROBLEM_TYPES.get(data.task.name),
        ),
    )
    shutil.rmtree(settings.output / CHECKPOINTS, ignore_errors=True)
    log.say(f"best epoch {best.best_epoch:g} of seed {best.seed}:")
    log.say(scores.text())
    if len(run.seeds) > 1:
        spread = ", ".join(f"{translated(spoken(name))} {mean[name]:.3f} ± {deviation[name]:.3f}" for name in mean)
        log.say(f"over {len(run.seeds)} seeds: {spread}")
    log.say(f"model: {settings.output / 'model'}   report: {page}")
    log.say(f"next: bertsmith predict {settings.output} --input FILE -o predictions.jsonl")
    return result
