"""A fine-tuned model at work: texts in, predictions out, in the same order."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bertsmith.batch import Batch, by_token_budget, join
from bertsmith.console import Log
from bertsmith.errors import InputError, nearest
from bertsmith.export_config import ExportSettings
from bertsmith.model.bert import Bert
from bertsmith.model.inference import fix_weights
from bertsmith.model.weights import load_tokenizer, load_tuned, model_directory, read_info
from bertsmith.serving.backends import open_backend, runs_on_cpu, typical_batch
from bertsmith.serving.writing import check_output, output_file, writer_of
from bertsmith.task_config import BackendChoice, EvaluateSettings, LongTexts, PredictSettings
from bertsmith.tasks.by_name import task_of
from bertsmith.tasks.task import Examples, Facts, Outputs, Prediction, Source
from bertsmith.training.apply import apply_model
from bertsmith.training.device import pick_device, set_up_process
from bertsmith.training.launch import over_texts
from bertsmith.training.processes import ALONE, Processes

_CHUNK, _CHUNK_CHARACTERS = 1024, 1 << 21
_SAMPLE, _TIMED_TOKENS = 64, 4096


class Predictor:
    """Predicts as it was tuned to; an input's prediction does not depend on what else is asked with it.

    What an input is depends on the task: a text, a pair (a tuple of two) or a row (a dict with the columns that the
    model was tuned with) for ``classify``, ``multilabel`` and ``regress``; (question, context) for ``qa``; a text for
    ``tag``; (context, [endings]) for ``choose``.

    Calls from several threads are safe: nothing changes after construction.

    Attributes:
        task: what the model does.
        facts: what it remembers: labels, columns, lengths; and what is done with long texts.
        model: takes a batch and gives the task's outputs; in evaluation mode, on ``device``.
        backend: what computes: "torch", "onnx" or "openvino".
        speeds: tokens a second of all that was tried before ``backend`` was chosen; empty if there was no choice.
        tokenizer: the model's own.
        max_length: longer texts are read in windows, or cut.
        device: where it runs.
    """

    def __init__(
        self,
        directory: Path,
        device: str = "auto",
        *,
        backend: BackendChoice = "auto",
        long_texts: LongTexts = "windows",
        sample: Sequence[Any] = (),
        log: Log | None = None,
    ) -> None:
        root, directory = directory, model_directory(directory)
        info = read_info(directory)
        self.task, facts = task_of(info, directory)
        self.facts = facts | {"long_texts": long_texts}
        self.device = pick_device("cpu" if device == "auto" and runs_on_cpu(directory, backend) else device)
        self.tokenizer = load_tokenizer(directory, info.config)
        self.max_length: int = self.facts["max_length"]

        def load_weights() -> nn.Module:
            model = load_tuned(self.task.model(info.config, self.facts), directory, info.config).to(self.device)
            if isinstance(model.bert, Bert):
                fix_weights(model.bert, torch.float32)
            return model

        def batches() -> list[Batch]:
            if not sample:
                return [typical_batch(self.tokenizer.vocab_size, self.max_length)]
            _, examples = self.encode(list(enumerate(sample, start=1)))
            return [examples.batch(numbers) for numbers in by_token_budget(examples.lengths, _TIMED_TOKENS)]

        chosen = open_backend(root, directory, backend, self.device, load_weights, batches, log or Log(mute=True))
        self.model, self.backend, self.speeds = chosen.model.eval(), chosen.name, chosen.speeds

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
        """Predict inputs as they come, in order; memory holds a thousand at a time, or fewer if they are long.

        Several processes share the batches of some thousands, and each gets all that comes out.

        Raises:
            InputError: as in a call; the message names the number of the input, counted from 1.
        """
        for chunk in _chunks(inputs, processes.size):
            rows, examples = self.encode(chunk)
            outputs = apply_model(self.model, self.task, examples, self.facts, self.device, torch.float32, processes)
            yield from self.task.predict(outputs, examples, rows, self.facts)

    def encode(self, numbered: Sequence[tuple[int, Any]]) -> tuple[Any, Examples]:
        """Return inputs, each with its number for messages, as rows and as what the model gets.

        Raises:
            InputError: as in a call.
        """
        rows = self.task.rows(numbered, self.facts)
        return rows, self.task.encode(rows, self.facts, self.tokenizer)

    @torch.inference_mode()
    def outputs(self, batches: Sequence[Batch]) -> list[Outputs]:
        """Send batches of examples through the model together; return the outputs of each."""
        joined = join(batches)
        output = self.model(joined.to(self.device))
        # Some tasks have an output a token, others one a sequence; a sequence has two tokens or more.
        is_tokens = len(output) == joined.num_tokens
        sizes = [batch.num_tokens if is_tokens else batch.num_sequences for batch in batches]
        return [
            self.task.outputs(own, batch, self.facts) for own, batch in zip(output.split(sizes), batches, strict=True)
        ]


def load(
    directory: str | Path, device: str = "auto", *, backend: BackendChoice = "auto", long_texts: LongTexts = "windows"
) -> Predictor:
    """Load a fine-tuned model, or an export of one, to predict with.

    Args:
        directory: a run of fine-tuning, a model directory, or what ``bertsmith export`` wrote.
        device: as in :func:`bertsmith.training.device.pick_device`.
        backend: what computes. ``auto``: torch, or where the directory holds graphs (folders ``onnx`` and
            ``openvino``) what is fastest on texts of usual lengths.
        long_texts: ``windows`` reads texts longer than the model was tuned for in windows and takes the mean of their
            outputs; ``cut`` reads their beginnings, as in training.

    Raises:
        InputError: the directory holds no fine-tuned model, or no such backend.
    """
    return Predictor(Path(directory), device, backend=backend, long_texts=long_texts)


def _chunks(inputs: Iterable[Any], workers: int) -> Iterator[list[tuple[int, Any]]]:
    """Yield numbered inputs, as many as ``workers`` processes work on at a time."""
    chunk: list[tuple[int, Any]] = []
    characters = 0
    for number, given in enumerate(inputs, start=1):
        chunk.append((number, given))
        characters += _size(given)
        if len(chunk) == _CHUNK * workers or characters >= _CHUNK_CHARACTERS * workers:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def _size(given: Any) -> int:
    """Return the characters of an input."""
    if isinstance(given, str):
        return len(given)
    parts = given.values() if isinstance(given, Mapping) else given if isinstance(given, tuple | list) else ()
    return sum(map(_size, parts))


@dataclass(frozen=True)
class PredictionSummary:
    """What a batch job did: rows predicted, rows whose text was cut, and rows whose text was read in windows."""

    rows: int
    truncated: int
    windowed: int = 0


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
    return over_texts(predict_file, _predict_file, settings, log or Log(settings.quiet))


def _predict_file(settings: PredictSettings, processes: Processes, log: Log) -> PredictionSummary:
    """Do what :func:`predict_file` does, in one of its processes; the first one writes."""
    check_output(settings.output, None if str(settings.input) == "-" else settings.input)
    set_up_process(0)
    directory = model_directory(settings.model)
    task, facts = task_of(read_info(directory), directory)
    source = source_of(settings, facts, settings.input)
    writer = writer_of(settings, task, facts, source)
    total = None if source.is_stdin else sum(1 for _ in writer.inputs())
    predictor = Predictor(
        settings.model,
        settings.device,
        backend=settings.backend,
        long_texts=settings.long_texts,
        sample=() if source.is_stdin else list(itertools.islice(writer.inputs(), _SAMPLE)),
        log=log,
    )
    rows = truncated = windowed = 0
    path = settings.output if processes.is_first else Path(os.devnull)
    with output_file(path) as out, log.progress("predicting", total, "texts") as advance:
        for prediction in predictor.stream(writer.inputs(), processes):
            out.write(writer.text(prediction))
            rows += 1
            truncated += prediction.truncated > 0
            windowed += getattr(prediction, "windows", 1) > 1
            advance(1)
        if rows == 0:
            raise InputError("holds no text; expected at least one", path=source.where)
        out.write(writer.end())
    if truncated:
        log.warn(f"{truncated:,} of {rows:,} texts were longer than {predictor.max_length} tokens and were cut")
    if windowed:
        log.say(
            f"{windowed:,} of {rows:,} texts were longer than {predictor.max_length} tokens and were read in windows"
        )
    if settings.output is not None:
        log.say(f"{rows:,} predictions: {settings.output}")
    if writer.about:
        log.say(writer.about)
    return PredictionSummary(rows, truncated, windowed)


def source_of(settings: PredictSettings | EvaluateSettings | ExportSettings, facts: Facts, path: Path) -> Source:
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
