"""``bertsmith compare``: what BERT is worth on these rows, beside what one would do without it.

Every model gets the same rows, the same number of settings to choose from by the dev rows, and the same seeds. The test
rows choose nothing. Each fit is written down when it is done, so that a comparison that was stopped goes on.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bertsmith import files
from bertsmith.compare_config import CompareSettings
from bertsmith.comparison.contenders import CLASSIFY, TAG, Contender, chosen_contenders, suited_to
from bertsmith.comparison.fit import Bench, Fit, Split, encoded, fit, part_of, unplain
from bertsmith.comparison.measures import Answers, measure_of
from bertsmith.comparison.outcome import (
    FRACTIONS,
    Example,
    Standing,
    as_json,
    best_without,
    conclusion,
    described,
    differences,
    only_one_right,
    usual_answer,
)
from bertsmith.comparison.report import comparison_report, comparison_table
from bertsmith.config import ModelConfig
from bertsmith.configuration import CONFIG, listed
from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.features.weighted import write_shares
from bertsmith.model.hub import pinned
from bertsmith.model.weights import load_encoder, model_directory, read_info
from bertsmith.task_config import SETTINGS, FinetuneSettings
from bertsmith.tasks.by_name import TASKS
from bertsmith.tasks.task import Facts, Task, source, split_rows
from bertsmith.tasks.texts import shown
from bertsmith.text.tokenizer import Tokenizer
from bertsmith.training.checkpoint import refuse_changed_files, refuse_other_directory, refuse_other_settings
from bertsmith.training.device import pick_device, pick_precision, set_up_process
from bertsmith.training.loop import StopRequest

# Settings that may differ when a comparison goes on.
_FREE = ("resume", "quiet", "threads", "output", "models", "curves", "seeds", "precision")
_SHARED = (
    *("model", "train", "dev", "output", "max_length", "batch_size", "epochs", "patience", "limit"),
    *("encoding", "quoting"),
)
_OF_TASK = {"classify": ("text", "text_b", "label", "metric"), "tag": ("format", "tags", "overlap", "metric")}
_FITS = "fits.jsonl"
_DEV_SHARE = 0.1

WEIGHTED = "weighted_layers.json"
"""What a model on weighted layers has learned: the mean over its runs on all rows, for ``embed`` (weighted:FILE)."""

Key = tuple[str, float, int, float]
"""A fit: model, setting, seed, share of the training rows."""


def compare_models(settings: CompareSettings, log: Log | None = None) -> list[Standing]:
    """Fit all models and write report.html and report.json; return the models' figures, in the order of the list.

    Raises:
        InputError: the model, the rows or the settings cannot be used, test rows stand in the training rows, or the
            output directory holds something else.
        KeyboardInterrupt: stopped by the user; what was fitted is kept.
    """
    log = log or Log(settings.quiet)
    known = TAG if settings.task == "tag" else CLASSIFY  # type: ignore[attr-defined]
    settings = _with_earlier(settings, known)
    chosen, with_curves = (chosen_contenders(names, known) for names in (settings.models, settings.curves))
    directory = model_directory(settings.model)
    settings = settings.model_copy(update={"model": pinned(settings.model, directory)})
    network = read_info(directory).config
    suited = (suited_to(contender, network.hidden_size) for contender in chosen)
    contenders = [c for c in suited if _fits_depth(c, network.num_hidden_layers, log)]
    if not contenders:
        raise InputError(f"no model to compare: models is {settings.models!r}")
    threads = set_up_process(settings.threads)
    refuse_other_directory(settings, settings.output)
    with files.only_writer(settings.output), StopRequest() as stop:
        bench, train, shared = _prepare(settings, directory, stop, log)
        settings = settings.model_copy(update={"precision": str(bench.dtype).removeprefix("torch.")})
        _check_output(settings, directory)
        device = f"{bench.device}, {settings.precision}, {threads} threads"
        rows = f"{len(train.gold):,} train rows, {len(bench.dev.gold):,} dev rows, {len(bench.test.gold):,} test rows"
        log.say(f"{len(contenders)} models; {rows}; {device}")
        try:
            fits = _fit_all(settings, bench, train, contenders, {c.name for c in with_curves}, log)
        except KeyboardInterrupt:
            log.say(f"stopped; what was fitted is kept. Go on with: {_resume_command(settings)}")
            raise
        standings, runs = _standings(settings, bench, train, contenders, fits)
        figures = {
            "device": device,
            "train_rows": len(train.gold),
            "dev_rows": len(bench.dev.gold),
            "test_rows": len(bench.test.gold),
            "test_rows_in_train": shared,
        }
        found = _write(settings, bench, standings, runs, fits, figures)
    log.say(comparison_table(standings, bench.measure.name))
    log.say(found)
    log.say(f"report: {settings.output / 'report.html'}   figures: {settings.output / 'report.json'}")
    task: str = settings.task  # type: ignore[attr-defined]
    log.say(f"next: bertsmith finetune {task} {settings.model} --train {settings.train} -o DIR")
    return standings


def _resume_command(settings: CompareSettings) -> str:
    task: str = settings.task  # type: ignore[attr-defined]
    return f"bertsmith compare {task} --config {settings.output / CONFIG} --resume"


def _with_earlier(settings: CompareSettings, known: Sequence[Contender]) -> CompareSettings:
    """Return the settings with models and arithmetic of the comparison that goes on: a report never loses one."""
    path = settings.output / CONFIG
    if not settings.resume or not path.exists():
        return settings
    before = type(settings).from_yaml(path)
    joined = {}
    for field in ("models", "curves"):
        both = (chosen_contenders(getattr(one, field), known) for one in (before, settings))
        names = {contender.name for chosen in both for contender in chosen}
        joined[field] = listed(names, [contender.name for contender in known])
    if settings.precision == "auto":
        joined["precision"] = before.precision
    return settings.model_copy(update=joined)


def _fits_depth(contender: Contender, depth: int, log: Log) -> bool:
    """Tell whether the encoder has the layers that a contender reads."""
    fits = depth >= contender.least_depth
    if not fits:
        log.warn(f"{contender.name} is left out: the model has {depth} layer(s)")
    return fits


def _prepare(settings: CompareSettings, directory: Path, stop: StopRequest, log: Log) -> tuple[Bench, Split, int]:
    """Read and encode the rows, and load the encoder; return also how many test rows stand in the training rows."""
    name: str = settings.task  # type: ignore[attr-defined]
    values = {key: getattr(settings, key) for key in (*_SHARED, *_OF_TASK[name])}
    tuning: FinetuneSettings = SETTINGS[name].parse(values)
    task = TASKS[name]
    train_rows = task.read(source(tuning, tuning.train, task.roles, tuning.limit))
    test_rows = task.read(source(tuning, settings.test, task.roles))
    shared = _refuse_overlap("training", task.keys(train_rows), task, test_rows, settings, log)
    if settings.dev is None:
        train_rows, dev_rows = split_rows(task, train_rows, _DEV_SHARE, settings.seed)
    else:
        dev_rows = task.read(source(tuning, settings.dev, task.roles))
        _refuse_overlap("dev", task.keys(dev_rows), task, test_rows, settings, log)
    facts: Facts = task.facts(train_rows, dev_rows, tuning)
    published = read_info(directory).config
    if settings.max_length > published.max_position_embeddings:
        raise InputError(
            f"max_length {settings.max_length} is above the model's {published.max_position_embeddings} positions",
            path=directory,
        )
    dropout = {"hidden_dropout_prob": tuning.dropout, "attention_probs_dropout_prob": tuning.dropout}
    tokenizer = Tokenizer.load(directory)
    device = pick_device(settings.device)
    measure = measure_of(name, tuning.metric, facts)  # type: ignore[attr-defined]
    train, dev, test = (encoded(task, rows, facts, tokenizer) for rows in (train_rows, dev_rows, test_rows))
    for name_of_rows, split in (("train", train), ("test", test)):
        for note in task.notes(split.rows, split.examples, facts):
            log.warn(f"{name_of_rows}: {note}")
    bench = Bench(
        task=task,
        facts=facts,
        measure=measure,
        settings=tuning.model_copy(update={"metric": measure.name}),
        config=ModelConfig.parse(published.model_dump() | dropout),
        bert=load_encoder(directory).to(device),
        tokenizer=tokenizer,
        dev=dev,
        test=test,
        device=device,
        dtype=pick_precision(settings.precision, device, published.hidden_size),
        stop=stop,
    )
    return bench, train, shared


def _refuse_overlap(
    where: str, others: Sequence[Any], task: Task, test_rows: Any, settings: CompareSettings, log: Log
) -> int:
    """Refuse test rows that stand among ``others``, the rows of ``where``, or say and return how many there are.

    Raises:
        InputError: there are some, and the settings do not allow it.
    """
    known = set(others)
    shared = [line for key, line in zip(task.keys(test_rows), test_rows.lines, strict=True) if key in known]
    if not shared:
        return 0
    first = ", ".join(str(line) for line in shared[:5])
    message = f"{len(shared):,} of {len(test_rows.lines):,} test rows stand in the {where} rows too (lines {first})"
    if not settings.allow_overlap:
        raise InputError(f"{message}; take them out, or give --allow-overlap", path=settings.test)
    log.warn(message)
    return len(shared)


def _check_output(settings: CompareSettings, directory: Path) -> None:
    path = settings.output / CONFIG
    if path.exists():
        refuse_other_settings(settings, _FREE, settings.output)
        if not settings.resume:
            raise InputError(f"holds a comparison; go on with: {_resume_command(settings)}", path=settings.output)
    rows = [file for file in (settings.train, settings.dev, settings.test) if file is not None]
    refuse_changed_files([*rows, *sorted(directory.glob("*.safetensors"))], settings.output)
    settings.write(path)


def _fit_all(
    settings: CompareSettings,
    bench: Bench,
    train: Split,
    contenders: Sequence[Contender],
    with_curves: Collection[str],
    log: Log,
) -> dict[Key, Fit]:
    """Make the fits that are not there yet; return all, those of earlier sessions included."""
    path = settings.output / _FITS
    fits = _read_fits(path)
    parts: dict[float, Split] = {1.0: train}
    total = sum(_count(settings, contender, contender.name in with_curves) for contender in contenders)
    with log.progress("comparing", total, "fits") as advance:
        for contender in contenders:
            # Vectors of layers that this one does not read are in nobody's way.
            bench.memory = {layers: found for layers, found in bench.memory.items() if layers == contender.layers}
            for key in _keys(settings, contender, contender.name in with_curves, fits):
                name, setting, seed, share = key
                if key not in fits:
                    if share not in parts:
                        parts[share] = part_of(bench, train, share, settings.seed)
                    fits[key] = fit(bench, contender, setting, seed, parts[share])
                    _warn_of_room(bench, contender, log)
                    if fits[key].bad_steps:
                        log.warn(
                            f"{name} with {setting:g}, seed {seed}: the gradient of {fits[key].bad_steps:,} steps was "
                            "no number; they are left out, and the best epoch counts"
                        )
                    with path.open("a", encoding="utf-8") as file:
                        file.write(json.dumps({"key": key, **asdict(fits[key])}) + "\n")
                    if bench.stop.requested:
                        raise KeyboardInterrupt
                advance(1, model=name, rows=f"{len(parts.get(share, train).gold):,}", dev=f"{fits[key].dev:.3f}")
    return fits


def _warn_of_room(bench: Bench, contender: Contender, log: Log) -> None:
    """Say once for each choice of layers that not all of its vectors could be kept."""
    memory = bench.memory.get(contender.layers or "")
    if memory is not None and memory.is_full and not memory.is_told:
        memory.is_told = True
        log.warn(
            f"{contender.name}: the frozen vectors of all rows are too many to be kept; those without room are made "
            "anew in every epoch (--limit takes fewer rows)"
        )


def _keys(settings: CompareSettings, contender: Contender, curve: bool, fits: dict[Key, Fit]) -> Iterator[Key]:
    """Yield a contender's fits: first the settings, then the seeds with the best of them, then parts of the rows."""
    tried = contender.settings[: settings.trials]
    for setting in tried:
        yield (contender.name, setting, settings.seed, 1.0)
    best = _best_setting(settings, contender, fits)
    # What draws nothing at random is the same with every seed.
    for seed in range(1, settings.seeds if contender.is_network else 1):
        yield (contender.name, best, settings.seed + seed, 1.0)
    for share in FRACTIONS if curve else ():
        yield (contender.name, best, settings.seed, share)


def _count(settings: CompareSettings, contender: Contender, curve: bool) -> int:
    seeds = settings.seeds - 1 if contender.is_network else 0
    return len(contender.settings[: settings.trials]) + seeds + (len(FRACTIONS) if curve else 0)


def _best_setting(settings: CompareSettings, contender: Contender, fits: dict[Key, Fit]) -> float:
    """Return the setting with the best dev figure, of equal ones the first."""
    tried = contender.settings[: settings.trials]
    return max(tried, key=lambda s: (fits[contender.name, s, settings.seed, 1.0].dev, -tried.index(s)))


def _read_fits(path: Path) -> dict[Key, Fit]:
    """Return the fits that were written down; a line that a kill cut short is left out, and taken off the file."""
    if not path.exists():
        return {}
    fits: dict[Key, Fit] = {}
    whole = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            values = json.loads(line)
            name, setting, seed, share = values.pop("key")
            fits[name, setting, seed, share] = Fit(**values)
        except (json.JSONDecodeError, TypeError, ValueError, KeyError):
            continue
        whole.append(line + "\n")
    files.write_text(path, "".join(whole))
    return fits


def _standings(
    settings: CompareSettings, bench: Bench, train: Split, contenders: Sequence[Contender], fits: dict[Key, Fit]
) -> tuple[list[Standing], dict[str, list[Answers]]]:
    """Return the models' figures, and their answers to the test rows by name, one a seed."""
    chosen = {c.name: _best_setting(settings, c, fits) for c in contenders}
    made: dict[str, list[Fit]] = {}
    for contender in contenders:
        seeds = range(settings.seeds if contender.is_network else 1)
        made[contender.name] = [fits[contender.name, chosen[contender.name], settings.seed + s, 1.0] for s in seeds]
    runs = {name: [unplain(bench.task, f.answers) for f in fitted] for name, fitted in made.items()}
    gaps = differences(bench.measure, bench.test.gold, runs, settings.seed)
    standings = []
    for contender in contenders:
        fitted = made[contender.name]
        scores = [bench.measure.of(bench.test.gold, answers) for answers in runs[contender.name]]
        curve = [
            (max(1, round(share * len(train.gold))), bench.measure.of(bench.test.gold, unplain(bench.task, f.answers)))
            for share in FRACTIONS
            if (f := fits.get((contender.name, chosen[contender.name], settings.seed, share)))
        ]
        standings.append(
            Standing(
                name=contender.name,
                about=contender.about,
                pretrained=contender.pretrained,
                setting=described(contender, chosen[contender.name]),
                dev=statistics.fmean(f.dev for f in fitted),
                scores=scores,
                difference=gaps[contender.name],
                train_seconds=statistics.median(f.train_seconds for f in fitted),
                predict_seconds=statistics.median(f.predict_seconds for f in fitted),
                parameters=fitted[0].parameters,
                curve=[*curve, (len(train.gold), statistics.fmean(scores))] if curve else [],
            )
        )
    return standings, runs


def _write(
    settings: CompareSettings,
    bench: Bench,
    standings: Sequence[Standing],
    runs: dict[str, list[Answers]],
    fits: dict[Key, Fit],
    figures: dict[str, Any],
) -> str:
    """Write report.json, the learned weights of layers and report.html; return the sentence of conclusion."""
    sentence = conclusion(standings, bench.measure.name)
    whole = {"task": bench.task.name, "measure": bench.measure.name, **figures, "conclusion": sentence}
    files.write_json(settings.output / "report.json", whole | {"models": as_json(standings)})
    chosen = {s.name: s.setting for s in standings}
    learned = [
        f.layer_weights
        for (name, setting, _, share), f in fits.items()
        if f.layer_weights is not None and share == 1.0 and chosen.get(name) == setting
    ]
    if learned:
        shares = np.exp(learned) / np.exp(learned).sum(1, keepdims=True)
        write_shares(settings.output / WEIGHTED, model_directory(settings.model), shares.mean(0).tolist())
    other = best_without(standings)
    examples: dict[str, list[Example]] = {}
    if other is not None and "bert" in runs:
        sides = runs["bert"], runs[other.name]
        for title, (first, second) in (
            ("Only fine-tuned BERT is right", sides),
            (f"Only {other.name} is right", sides[::-1]),
        ):
            numbers = only_one_right(bench.measure, bench.test.gold, first, second).tolist()
            examples[title] = [_example(bench, number, *sides) for number in numbers]
    comparison_report(settings.output, standings, bench.measure.name, sentence, examples, other.name if other else None)
    return sentence


def _example(bench: Bench, number: int, bert: Sequence[Answers], other: Sequence[Answers]) -> Example:
    """Return a test row and what both say in most of their runs."""
    rows, labels = bench.test.rows, bench.facts["labels"]

    def said(answer: Any) -> str:
        if bench.task.name != "tag":
            return str(labels[int(answer)])
        units = (rows.texts[number][start:end] for start, end in rows.units[number])
        outside = bench.facts["commonest"]
        tagged = [f"{unit}/{labels[n]}" for unit, n in zip(units, answer.tolist(), strict=True) if labels[n] != outside]
        return " ".join(tagged) or f"(all {outside})"

    return Example(
        rows.lines[number],
        shown(rows.texts[number]),
        said(bench.test.gold[number]),
        said(usual_answer(bert, number)),
        said(usual_answer(other, number)),
    )
