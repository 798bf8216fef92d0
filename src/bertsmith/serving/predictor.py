"""A fine-tuned model at work: texts in, predictions out, in the same order."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bertsmith.batch import Batch, join
from bertsmith.console import Log
from bertsmith.errors import InputError, nearest
from bertsmith.model.weights import load_tokenizer, load_tuned, model_directory, read_info
from bertsmith.serving.writing import check_output, output_file, writer_of
from bertsmith.task_config import EvaluateSettings, PredictSettings
from bertsmith.tasks.by_name import task_of
from bertsmith.tasks.task import Examples, Facts, Outputs, Prediction, Source
from bertsmith.training.apply import apply_model
from bertsmith.training.device import pick_device, set_up_process

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
        self.tokenizer = load_tokenizer(directory, info.config)
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

    def stream(self, inputs: Iterable[Any]) -> Iterator[Prediction]:
        """Predict inputs as they come, in order; memory holds a thousand at a time.

        Raises:
            InputError: as in a call; the message names the number of the input, counted from 1.
        """
        numbered = enumerate(inputs, start=1)
        while chunk := list(itertools.islice(numbered, _CHUNK)):
            rows, examples = self.examples(chunk)
            outputs = apply_model(self.model, self.task, examples, self.facts, self.device, torch.float32)
            yield from self.task.predict(outputs, examples, rows, self.facts)

    def examples(self, numbered: Sequence[tuple[int, Any]]) -> tuple[Any, Examples]:
        """Return inputs as the task's rows and as examples; each comes with the number that messages name it by.

        With :meth:`outputs` and ``task.predict`` these are the steps of a call, for those who let the examples of
        several callers share a batch.

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
    empty line is an error and not skipped.

    Raises:
        InputError: the model or the input cannot be used; an output file appears only when it is whole.
    """
    log = log or Log(settings.quiet)
    check_output(settings.output, None if str(settings.input) == "-" else settings.input)
    set_up_process(0)
    predictor = Predictor(settings.model, settings.device)
    source = source_of(settings, predictor.facts, settings.input)
    writer = writer_of(settings, predictor.task, predictor.facts, source)
    total = None if source.is_stdin else sum(1 for _ in writer.inputs())
    rows = truncated = 0
    with output_file(settings.output) as out, log.progress("predicting", total, "texts") as advance:
        for prediction in predictor.stream(writer.inputs()):
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
