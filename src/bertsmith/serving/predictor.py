"""A fine-tuned model at work: texts in, predictions out, in the same order."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bertsmith.console import Log
from bertsmith.errors import InputError, nearest
from bertsmith.model.weights import load_tuned, model_directory, read_info
from bertsmith.serving.writing import check_output, output_file, writer_of
from bertsmith.task_config import EvaluateSettings, PredictSettings
from bertsmith.tasks.by_name import task_of
from bertsmith.tasks.task import Facts, Prediction, Source
from bertsmith.text.tokenizer import Tokenizer
from bertsmith.training.apply import apply_model
from bertsmith.training.device import pick_device, set_up_process
from bertsmith.training.launch import is_started_by_an_engine, launch
from bertsmith.training.processes import ALONE, Processes, joined, refuse_standard_input

_CHUNK = 1024


class Predictor:
    """Predicts as it was tuned to; an input's prediction does not depend on what else is asked with it.

    What an input is depends on the task: a text, a pair (a tuple of two) or a row (a dict with the columns that the
    model was tuned with) for ``classify``, ``multilabel`` and ``regress``; (question, context) for ``qa``; a text for
    ``tag``; (context, [endings]) for ``choose``.

    Calls from several threads are safe: nothing changes after construction.

    Attributes:
        task: what the model does.
        facts: what it remembers: labels, columns, lengths.
        model: in evaluation mode, on ``device``.
        tokenizer: the model's own.
        max_length: longer texts are cut.
        device: where it runs.
    """

    def __init__(self, directory: Path, device: str = "auto") -> None:
        directory = model_directory(directory)
        info = read_info(directory)
        self.task, self.facts = task_of(info, directory)
        self.device = pick_device(device)
        self.model = load_tuned(self.task.model(info.config, self.facts), directory, info.config).to(self.device)
        self.tokenizer = Tokenizer.load(directory)
        if self.tokenizer.vocab_size > info.config.vocab_size:
            raise InputError(
                f"the tokenizer has {self.tokenizer.vocab_size:,} entries, but the model only "
                f"{info.config.vocab_size:,}: they do not belong together",
                path=directory,
            )
        self.max_length: int = self.facts["max_length"]

    def __call__(self, inputs: Any) -> Any:
        """Predict one input (a string, a tuple or a row), or many of them (a list or another iterable).

        Raises:
            InputError: something else, an empty text, or a pair where the model was tuned on single texts.
        """
        if isinstance(inputs, str | tuple | Mapping):
            return next(self.stream([inputs]))
        if isinstance(inputs, bytes) or not isinstance(inputs, Iterable):
            raise InputError(f"{type(inputs).__name__} is not a text; expected a string or a list of them")
        return list(self.stream(inputs))

    def stream(self, inputs: Iterable[Any], processes: Processes = ALONE) -> Iterator[Prediction]:
        """Predict inputs as they come, in order; memory holds a thousand at a time, for each of several processes.

        Raises:
            InputError: as in a call; the message names the number of the input, counted from 1.
        """
        numbered = enumerate(inputs, start=1)
        # Several processes share the batches of a chunk, and each gets all that comes out.
        while chunk := list(itertools.islice(numbered, _CHUNK * processes.size)):
            rows = self.task.rows(chunk, self.facts)
            examples = self.task.encode(rows, self.facts, self.tokenizer)
            outputs = apply_model(self.model, self.task, examples, self.facts, self.device, torch.float32, processes)
            yield from self.task.predict(outputs, examples, rows, self.facts)


def load(directory: str | Path, device: str = "auto") -> Predictor:
    """Load a fine-tuned model to predict with.

    Raises:
        InputError: the directory holds no fine-tuned model.
    """
    return Predictor(Path(directory), device)


@dataclass(frozen=True)
class PredictionSummary:
    """What a batch job did: rows predicted, and rows whose text was cut."""

    rows: int
    truncated: int


def predict_file(settings: PredictSettings, log: Log | None = None) -> PredictionSummary:
    """Predict every row of a file, or every line of a txt file or of standard input, as JSON lines or tagged columns.

    Memory is flat in the number of rows. A file is read once before the first prediction, so that a row that
    cannot be used is found at once and not after hours. The n-th line of the output is the n-th input: an
    empty line is an error and not skipped. Started by torchrun or accelerate, or with ``devices``, several processes
    share the work.

    Raises:
        InputError: the model or the input cannot be used; an output file appears only when it is whole.
        LostProcessError: another of several processes ended.
    """
    log = log or Log(settings.quiet)
    if settings.devices > 1 and not is_started_by_an_engine():
        refuse_standard_input(settings.input, settings.devices)
        summary: PredictionSummary = launch(predict_file, settings, log)
        return summary
    with joined() as processes:
        return _predict_file(settings, processes, log if processes.is_first else Log(mute=True))


def _predict_file(settings: PredictSettings, processes: Processes, log: Log) -> PredictionSummary:
    """Do what :func:`predict_file` does, in one of its processes; the first one writes."""
    refuse_standard_input(settings.input, processes.size)
    check_output(settings.output, None if str(settings.input) == "-" else settings.input)
    set_up_process(0)
    predictor = Predictor(settings.model, settings.device)
    source = source_of(settings, predictor.facts, settings.input)
    writer = writer_of(settings, predictor.task, predictor.facts, source)
    total = None if source.is_stdin else sum(1 for _ in writer.inputs())
    rows = truncated = 0
    path = settings.output if processes.is_first else Path(os.devnull)
    with output_file(path) as out, log.progress("predicting", total, "texts") as advance:
        for prediction in predictor.stream(writer.inputs(), processes):
            out.write(writer.text(prediction))
            rows += 1
            truncated += prediction.truncated > 0
            advance(1)
        if rows == 0:
            raise InputError("holds no text; expected at least one", path=source.where)
        out.write(writer.end())
    if truncated:
        log.warn(f"{truncated:,} of {rows:,} texts were longer than {predictor.max_length} tokens and were cut")
    if settings.output is not None:
        log.say(f"{rows:,} predictions: {settings.output}")
    if writer.about:
        log.say(writer.about)
    return PredictionSummary(rows, truncated)


def source_of(settings: PredictSettings | EvaluateSettings, facts: Facts, path: Path) -> Source:
    """Return a file as a source with the model's columns, or those that the settings name instead.

    Raises:
        InputError: the settings name a role that the task does not know.
    """
    columns = dict(facts["columns"])
    # A tagger that was not told its column has taken the usual one.
    roles = [*columns, *(["tags"] if "unit" in facts and "tags" not in columns else [])]
    # A part without a role goes on with the names of the one before: text=title,body.
    for part in re.split(r",(?=[^,=]*=)", settings.columns) if settings.columns else ():
        role, equals, name = (piece.strip() for piece in part.partition("="))
        if not equals or role not in roles or not name:
            hint = f"{nearest(role, roles)} Roles of this model: {', '.join(roles)}"
            raise InputError(f"--columns: {part!r} is not role=name.{hint}")
        columns[role] = name
    written = settings.input_format if isinstance(settings, PredictSettings) else facts.get("format", "auto")
    return Source(path, columns, settings.encoding, settings.quoting, written)
