"""``bertsmith evaluate``: a fine-tuned model's scores on labelled rows."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from bertsmith import files
from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.serving.predictor import Predictor, source_of
from bertsmith.task_config import EvaluateSettings
from bertsmith.tasks.scores import Scores
from bertsmith.training.apply import apply_model
from bertsmith.training.device import set_up_process
from bertsmith.training.processes import Processes, joined
from bertsmith.training.report import evaluation_report

SCORES = "scores.json"


def evaluate(settings: EvaluateSettings, log: Log | None = None) -> Scores:
    """Score a model on labelled rows, print the figures, and write them and a page if an output is given.

    Under torchrun or accelerate the processes share the rows.

    Raises:
        InputError: the model or the rows cannot be used, or the output is taken.
    """
    with joined() as processes:
        return _evaluate(settings, processes, (log or Log(settings.quiet)) if processes.is_first else Log(mute=True))


def _evaluate(settings: EvaluateSettings, processes: Processes, log: Log) -> Scores:
    if settings.output is not None and settings.output.exists():
        _refuse_foreign(settings.output)
    set_up_process(0)
    predictor = Predictor(
        settings.model, settings.device, backend=settings.backend, long_texts=settings.long_texts, log=log
    )
    task, facts = predictor.task, predictor.facts
    rows = task.read(source_of(settings, facts, settings.input))
    examples = task.encode(rows, facts, predictor.tokenizer)
    log.say(f"{len(examples.lengths):,} examples from {settings.input}")
    for note in task.notes(rows, examples, facts):
        log.warn(note)
    outputs = apply_model(predictor.model, task, examples, facts, predictor.device, torch.float32, processes)
    scores = task.score(outputs, examples, rows, facts)
    if not processes.is_first:
        return scores
    print(scores.text())
    if settings.output is not None:
        settings.output.mkdir(parents=True, exist_ok=True)
        found = {"task": task.name, "model": str(settings.model), "input": str(settings.input), **asdict(scores)}
        files.write_json(settings.output / SCORES, found)
        log.say(f"scores: {settings.output / SCORES}   report: {evaluation_report(settings.output, found)}")
    return scores


def _refuse_foreign(output: Path) -> None:
    if not output.is_dir():
        raise InputError("is a file; expected a directory or a new name", path=output)
    if any(output.iterdir()) and not (output / SCORES).is_file():
        raise InputError("holds other files; choose a new directory", path=output)
    if (output / "model").exists():
        raise InputError("is a fine-tuned model; choose another directory for its scores", path=output)
