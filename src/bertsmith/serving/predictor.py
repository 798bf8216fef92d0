"""A fine-tuned model at work: texts in, predictions out, in the same order."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch

from bertsmith import files
from bertsmith.console import Log
from bertsmith.errors import InputError, nearest
from bertsmith.model.weights import load_tuned, model_directory, read_info
from bertsmith.task_config import EvaluateSettings, PredictSettings
from bertsmith.tasks.by_name import task_of
from bertsmith.tasks.task import Facts, Prediction, Source
from bertsmith.text.tokenizer import Tokenizer
from bertsmith.training.apply import apply_model
from bertsmith.training.device import pick_device, set_threads

_CHUNK = 1024


class Predictor:
    """Predicts as it was tuned to; an input's prediction does not depend on what else is asked with it.

    What an input is depends on the task: a text or a pair (a tuple of two) for ``classify``, ``multilabel`` and
    ``regress``; (question, context) for ``qa``; a text for ``tag``; (context, [endings]) for ``choose``.

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
        """Predict one input (a string or a tuple), or many of them (a list or another iterable).

        Raises:
            InputError: something else, an empty text, or a pair where the model was tuned on single texts.
        """
        if isinstance(inputs, str | tuple):
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
            rows = self.task.rows(chunk, self.facts)
            examples = self.task.encode(rows, self.facts, self.tokenizer)
            outputs = apply_model(self.model, self.task, examples, self.facts, self.device, torch.float32)
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
    empty line is an error and not skipped.

    Raises:
        InputError: the model or the input cannot be used; an output file appears only when it is whole.
    """
    log = log or Log(settings.quiet)
    _check_output(settings)
    set_threads(0)
    predictor = Predictor(settings.model, settings.device)
    line_of = _writer(settings, predictor)
    source = source_of(settings, predictor.facts, settings.input)

    def inputs() -> Iterator[Any]:
        return (given for _, given in predictor.task.inputs(source, predictor.facts))

    total = None if source.is_stdin else sum(1 for _ in inputs())
    rows = truncated = 0
    with _output(settings.output) as out, log.progress("predicting", total, "texts") as advance:
        for prediction in predictor.stream(inputs()):
            out.write(line_of(prediction))
            rows += 1
            truncated += prediction.truncated > 0
            advance(1)
        if rows == 0:
            raise InputError("holds no text; expected at least one", path=source.where)
    if truncated:
        log.warn(f"{truncated:,} of {rows:,} texts were longer than {predictor.max_length} tokens and were cut")
    if settings.output is not None:
        log.say(f"{rows:,} predictions: {settings.output}")
    return PredictionSummary(rows, truncated)


def _writer(settings: PredictSettings, predictor: Predictor) -> Callable[[Any], str]:
    """Return what turns a prediction into its line, or its lines.

    Raises:
        InputError: tags are to be written and the model is no tagger, or a scheme is asked for and it has none.
    """
    if settings.output_format == "jsonl":
        if settings.scheme != "same":
            raise InputError("--scheme is for --output-format conll; JSON lines hold spans and no tags")
        return lambda prediction: json.dumps(prediction.to_json(), ensure_ascii=False) + "\n"
    if predictor.task.name != "tag":
        raise InputError(f"--output-format conll is for taggers; this model's task is {predictor.task.name}")
    source = predictor.facts["scheme"]
    if source is None and settings.scheme != "same":
        raise InputError(f"--scheme {settings.scheme}: this model's tags are no entities and have no scheme")
    target = None if settings.scheme == "same" else settings.scheme
    return lambda prediction: prediction.to_conll(source, target)


def source_of(settings: PredictSettings | EvaluateSettings, facts: Facts, path: Path) -> Source:
    """Return a file as a source with the model's columns, or those that the settings name instead.

    Raises:
        InputError: the settings name a role that the task does not know.
    """
    columns = dict(facts["columns"])
    # A part without a role goes on with the names of the one before: text=title,body.
    for part in re.split(r",(?=[^,=]*=)", settings.columns) if settings.columns else ():
        role, equals, name = (piece.strip() for piece in part.partition("="))
        if not equals or role not in columns or not name:
            hint = f"{nearest(role, columns)} Roles of this model: {', '.join(columns)}"
            raise InputError(f"--columns: {part!r} is not role=name.{hint}")
        columns[role] = name
    return Source(path, columns, settings.encoding, settings.quoting, facts.get("format", "auto"))


def _is_stdin(settings: PredictSettings) -> bool:
    return str(settings.input) == "-"


def _check_output(settings: PredictSettings) -> None:
    path = settings.output
    if path is None:
        return
    if path.is_dir():
        raise InputError("is a directory; expected the name of a file to write", path=path)
    if path.exists() and not _is_stdin(settings) and settings.input.exists() and path.samefile(settings.input):
        raise InputError("is the input itself; choose another file to write to", path=path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be made as a directory: {error.strerror}", path=path.parent) from None


@contextlib.contextmanager
def _output(path: Path | None) -> Iterator[TextIO]:
    """Yield standard output, or a file that takes its name when the block ends without an error."""
    if path is None:
        yield sys.stdout
        return
    if path.exists() and not path.is_file():
        # A device or a pipe is written to; a file that took its name would replace it.
        with path.open("w", encoding="utf-8") as file:
            yield file
        return
    with files.new_file(path.resolve()) as temporary, temporary.open("w", encoding="utf-8") as file:
        yield file
