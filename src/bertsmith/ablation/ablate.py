"""``bertsmith ablate``: pre-train the same network in several ways under one budget, and tune each for tasks.

Every pre-training and every fine-tuning is a run of its own directory, made by the stages that make single runs. So
an ablation that was stopped goes on inside the run that it was stopped in, and a finished run is never made again.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bertsmith import files
from bertsmith.ablation.report import ablation_report, ablation_table
from bertsmith.ablation.rows import Row, TaskScores
from bertsmith.ablation.variants import VARIANTS, Variant, chosen_variants
from bertsmith.ablation_config import AblateSettings
from bertsmith.config import PretrainSettings
from bertsmith.configuration import CONFIG, listed, read_yaml
from bertsmith.console import Log
from bertsmith.errors import InputError, nearest
from bertsmith.model.weights import model_directory, read_info
from bertsmith.task_config import SETTINGS, FinetuneSettings
from bertsmith.tasks.by_name import TASKS
from bertsmith.tasks.task import source
from bertsmith.text.store import TokenStore
from bertsmith.training.checkpoint import (
    begun_with,
    read_metrics,
    refuse_changed_files,
    refuse_other_directory,
    refuse_other_settings,
)
from bertsmith.training.finetune import finetune
from bertsmith.training.initial import peak_rate
from bertsmith.training.pretrain import pretrain
from bertsmith.training.rates import tuning_rates

# Settings that may differ when an ablation goes on.
_FREE = ("resume", "quiet", "threads", "output", "variants")
_FREE_OF_RUNS = ("resume", "quiet", "threads", "output")
# What a task's file must leave to the ablation.
_OURS = ("model", "output", "seeds", "seed", "from_scratch", "bilstm", "search", "resume", "threads", "quiet")
# Those of them that change what a task comes to.
_TOLD = ("seeds", "seed", "from_scratch", "bilstm", "search")


def ablate(settings: AblateSettings, log: Log | None = None) -> list[Row]:
    """Make all runs that are not there yet, and write ablation.json and report.html.

    Raises:
        InputError: a setting, a task's rows, the store or what the output directory holds do not allow it; what
            concerns tasks is said before anything is trained.
        KeyboardInterrupt: stopped by the user; what was under way has its checkpoint.
    """
    log = log or Log(settings.quiet)
    settings = _with_earlier(settings)
    variants = chosen_variants(settings.variants)
    tasks = {path: _task_values(path, log) for path in settings.tasks}
    names = _names(settings.tasks)
    given = {} if settings.pretraining is None else read_yaml(settings.pretraining)
    network = _network(settings, given)
    for path, values in tasks.items():
        _check_task(path, values, network, log)
    TokenStore.open(settings.store)
    refuse_other_directory(settings, settings.output)
    with files.only_writer(settings.output):
        _check_output(settings, tasks)
        try:
            rows = list(_rows(settings, variants, given, tasks, names, log))
        except KeyboardInterrupt:
            log.say(f"the ablation goes on with: bertsmith ablate --config {settings.output / CONFIG} --resume")
            raise
        files.write_json(settings.output / "ablation.json", [asdict(row) for row in rows])
        page = ablation_report(settings.output, rows)
    log.say(ablation_table(rows))
    log.say(f"report: {page}   figures: {settings.output / 'ablation.json'}")
    return rows


def _task_values(path: Path, log: Log) -> dict[str, Any]:
    """Return a task file's settings, with paths as seen from here."""
    values = read_yaml(path)
    fields = FinetuneSettings.model_fields
    # The config.yaml of a fine-tuning run has all of them; what somebody wrote by hand is not passed over silently.
    own = {name: values.pop(name) for name in _OURS if name in values}
    lost = [name for name, value in own.items() if name in _TOLD and value != fields[name].default]
    if lost:
        log.warn(f"{path}: {', '.join(lost)} left out; an ablation sets that itself")
    if values.get("task") not in SETTINGS:
        known = ", ".join(SETTINGS)
        raise InputError(
            f"task is {values.get('task')!r}; expected one of {known}.{nearest(str(values.get('task')), SETTINGS)}",
            path=path,
        )
    return values


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    names = {path: path.stem for path in paths}
    if len(set(names.values())) < len(paths):
        raise InputError(f"two files of tasks have the same name: {', '.join(map(str, paths))}")
    return names


def _network(settings: AblateSettings, given: dict[str, Any]) -> PretrainSettings:
    """Return the settings of the reference's pre-training, with what the file of settings has ``given``.

    Raises:
        InputError: the file has a setting that does not exist, or one by which the variants differ.
    """
    varied = {name for variant in VARIANTS for name in variant.pretraining}
    fields = PretrainSettings.model_fields
    if taken := sorted(name for name in varied if name in given and given[name] != fields[name].default):
        raise InputError(
            f"sets {', '.join(taken)}, by which the variants differ; take it out", path=settings.pretraining
        )
    try:
        return PretrainSettings.parse(given | _of_the_ablation(settings, Path("-"), 0))
    except InputError as error:
        raise InputError(str(error), path=settings.pretraining) from None


def _of_the_ablation(settings: AblateSettings, run: Path, seed: int) -> dict[str, Any]:
    """Return the settings of pre-training that are the ablation's own."""
    return {
        "store": settings.store,
        "output": run,
        "size": settings.size,
        "budget": settings.budget,
        "steps": settings.steps,
        "seed": seed,
        "threads": settings.threads,
        "quiet": settings.quiet,
        "resume": (run / CONFIG).exists(),
    }


def _check_task(path: Path, values: dict[str, Any], network: PretrainSettings, log: Log) -> None:
    """Read a task's rows, so that hours of pre-training do not end in a wrong column."""
    try:
        settings = _finetune_settings(values, model=Path("-"), output=Path("-"))
    except InputError as error:
        raise InputError(str(error), path=path) from None
    if settings.max_length > network.max_positions:
        raise InputError(
            f"max_length {settings.max_length} is above the network's {network.max_positions} positions", path=path
        )
    task = TASKS[values["task"]]
    train = task.read(source(settings, settings.train, task.roles, settings.limit))
    dev = train if settings.dev is None else task.read(source(settings, settings.dev, task.roles))
    task.facts(train, dev, settings)
    log.say(f"{path.stem}: {len(train.lines):,} training rows")


def _finetune_settings(values: dict[str, Any], **more: Any) -> FinetuneSettings:
    settings: FinetuneSettings = SETTINGS[values["task"]].parse(values | more)
    return settings


def _with_earlier(settings: AblateSettings) -> AblateSettings:
    """Return the settings with the variants of the ablation that goes on: a report never loses one."""
    path = settings.output / CONFIG
    if not settings.resume or not path.exists():
        return settings
    before = chosen_variants(AblateSettings.from_yaml(path).variants)
    now = chosen_variants(settings.variants)
    names = {variant.name for variant in (*before, *now)}
    return settings.model_copy(update={"variants": listed(names, [variant.name for variant in VARIANTS])})


def _check_output(settings: AblateSettings, tasks: dict[Path, dict[str, Any]]) -> None:
    path = settings.output / CONFIG
    if path.exists():
        refuse_other_settings(settings, _FREE, settings.output)
        if not settings.resume:
            raise InputError(
                f"holds an ablation; go on with: bertsmith ablate --config {path} --resume", path=settings.output
            )
    rows = [Path(values[name]) for values in tasks.values() for name in ("train", "dev") if values.get(name)]
    refuse_changed_files([*rows, settings.store / "manifest.json"], settings.output)
    settings.write(path)


def _rows(
    settings: AblateSettings,
    variants: Sequence[Variant],
    given: dict[str, Any],
    tasks: dict[Path, dict[str, Any]],
    names: dict[Path, str],
    log: Log,
) -> Iterator[Row]:
    for variant in variants:
        runs = []
        found: dict[str, list[float]] = {name: [] for name in names.values()}
        metrics: dict[str, str] = {}
        # Random weights come from no pre-training run: another one would give the same scores again.
        seeds = 1 if variant.finetuning.get("from_scratch") else settings.pretraining_seeds
        for seed in range(seeds):
            runs.append(_pretrained(settings, variant, given, seed, log))
            for path, values in tasks.items():
                output = settings.output / "tasks" / names[path] / variant.name / f"seed-{seed}"
                metric, scores = _tuned(settings, variant, values, runs[-1], output, log)
                metrics[names[path]] = metric
                found[names[path]] += scores
        scores_of = [TaskScores(name, metrics[name], scores) for name, scores in found.items()]
        yield _row(variant, runs, scores_of)


def _pretrained(settings: AblateSettings, variant: Variant, given: dict[str, Any], seed: int, log: Log) -> Path:
    """Return the directory of a variant's pre-training, made if it is not there."""
    run = settings.output / "pretraining" / variant.pretrained_as / f"seed-{seed}"
    wanted = PretrainSettings.parse(given | dict(variant.pretraining) | _of_the_ablation(settings, run, seed))
    wanted = wanted.model_copy(update={"learning_rate": peak_rate(wanted)})
    if not _is_finished(wanted, run):
        about = next(v.about for v in VARIANTS if v.name == variant.pretrained_as)
        log.say(f"pre-training: {about}, seed {seed}")
        pretrain(wanted, log)
    return run


def _is_finished(wanted: PretrainSettings | FinetuneSettings, run: Path) -> bool:
    """Tell whether a run is done, and refuse one that was made in another way."""
    if (run / CONFIG).exists():
        refuse_other_settings(wanted.model_copy(update=begun_with(wanted, run)), _FREE_OF_RUNS, run)
    return (run / "model").exists()


def _tuned(
    settings: AblateSettings, variant: Variant, values: dict[str, Any], run: Path, output: Path, log: Log
) -> tuple[str, list[float]]:
    """Return the metric's name and a variant's dev scores in a task, a seed after the other; made if not there."""
    wanted = _finetune_settings(
        values,
        **variant.finetuning,
        model=run,
        output=output,
        seeds=settings.seeds,
        threads=settings.threads,
        quiet=settings.quiet,
        resume=(output / CONFIG).exists(),
    )
    if wanted.learning_rate is None:
        # Named here, so that variants which are added later are tuned as those from before, or refused.
        rate, *_ = tuning_rates(read_info(model_directory(run)).config.hidden_size)
        wanted = wanted.model_copy(update={"learning_rate": rate})
    if not _is_finished(wanted, output):
        log.say(f"{values['task']} from {variant.name}: {output}")
        finetune(wanted, log)
    report = files.read_json(output / "scores.json", what="the scores of a fine-tuning run")
    return report["metric"], [seed[report["metric"]] for seed in report["seeds"]]


def _row(variant: Variant, runs: Sequence[Path], tasks: list[TaskScores]) -> Row:
    if variant.finetuning.get("from_scratch"):
        return Row(variant.name, variant.about, None, None, None, None, tasks)
    entries = [read_metrics(run / "metrics.jsonl") for run in runs]
    held = [[e for e in run if e["kind"] == "eval"][-1] for run in entries]
    trained = [[e for e in run if e["kind"] == "train"][-1] for run in entries]
    has_pairs = variant.pretraining.get("next_sentence", True)
    return Row(
        variant.name,
        variant.about,
        steps=statistics.fmean(e["step"] for e in trained),
        tokens=statistics.fmean(e["tokens"] for e in trained),
        loss=statistics.fmean(e["mlm_loss"] for e in held),
        next_sentence=statistics.fmean(e["nsp_accuracy"] for e in held) if has_pairs else None,
        tasks=tasks,
    )
