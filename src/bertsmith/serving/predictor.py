"""A fine-tuned model at work: texts in, predictions out, in the same order."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, TypeAlias, overload

import torch

from bertsmith import files
from bertsmith.batch import by_token_budget, pack
from bertsmith.config import PredictSettings
from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.model.weights import load_classifier, model_directory
from bertsmith.tasks.prediction import Prediction
from bertsmith.text.decoding import uncompressed_name
from bertsmith.text.tables import FORMATS, open_records, read_lines
from bertsmith.text.tokenizer import Tokenizer
from bertsmith.training.device import pick_device, set_threads

_CHUNK = 1024
_MAX_TOKENS = 4096

Text: TypeAlias = str | tuple[str, str]
"""A text, or a pair of texts."""


class Predictor:
    """Predicts labels; a text's prediction does not depend on what else is asked with it.

    Calls from several threads are safe: nothing changes after construction.

    Attributes:
        labels: the model's labels, in the order of its logits.
        text_column: the column that the model was tuned with.
        max_length: longer texts are cut.
    """

    def __init__(self, directory: Path, device: str = "auto") -> None:
        directory = model_directory(directory)
        model, info = load_classifier(directory)
        self._device = pick_device(device)
        self._model = model.to(self._device)
        self._tokenizer = Tokenizer.load(directory)
        if self._tokenizer.vocab_size > info.config.vocab_size:
            raise InputError(
                f"the tokenizer has {self._tokenizer.vocab_size:,} entries, but the model only "
                f"{info.config.vocab_size:,}: they do not belong together",
                path=directory,
            )
        # A published classifier does not say what it was tuned on; it may be pairs.
        self._takes_pairs = info.extras.get("task") != "classify"
        self.labels = info.labels
        self.text_column: str = info.extras.get("text", "text")
        positions = info.config.max_position_embeddings
        self.max_length = min(int(info.extras.get("max_length", positions)), positions)

    @overload
    def __call__(self, texts: Text) -> Prediction: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, texts: Iterable[Text]) -> list[Prediction]: ...
    def __call__(self, texts: Text | Iterable[Text]) -> Prediction | list[Prediction]:
        """Predict a text (a string), a pair (a tuple of two), or many of them (a list or another iterable).

        Raises:
            InputError: something else, an empty text, or a pair where the model was tuned on single texts.
        """
        if isinstance(texts, str | tuple):
            return next(self.stream([texts]))
        if isinstance(texts, bytes) or not isinstance(texts, Iterable):
            raise InputError(f"{type(texts).__name__} is not a text; expected a string or a list of them")
        return list(self.stream(texts))

    def stream(self, texts: Iterable[Text]) -> Iterator[Prediction]:
        """Predict texts as they come, in order; memory holds a thousand at a time.

        Raises:
            InputError: as in a call; the message names the number of the text, counted from 1.
        """
        numbered = enumerate(texts, start=1)
        while chunk := list(itertools.islice(numbered, _CHUNK)):
            for number, text in chunk:
                self._check(text, number)
            yield from self._predict([text for _, text in chunk])

    def _check(self, text: object, number: int) -> None:
        parts = text if isinstance(text, tuple) else (text,)
        for part in parts:
            if not isinstance(part, str):
                raise InputError(f"text {number} is of type {type(part).__name__}; expected a string")
        if len(parts) > 1 and not (self._takes_pairs and len(parts) == 2):
            hint = "a tuple is one pair of texts, a list is many texts"
            seen = "a pair, but the model was tuned on single texts" if len(parts) == 2 else f"a tuple of {len(parts)}"
            raise InputError(f"text {number} is {seen} ({hint})")
        if not parts or not all(part.strip() for part in parts):
            raise InputError(f"text {number} is an empty text; expected at least one character")

    @torch.inference_mode()
    def _predict(self, texts: list[Text]) -> list[Prediction]:
        encodings = self._tokenizer.encode_batch(texts, self.max_length)
        shares = torch.empty(len(texts), len(self.labels))
        for group in by_token_budget([len(e.ids) for e in encodings], _MAX_TOKENS):
            batch = pack([encodings[n].ids for n in group], [encodings[n].segment_ids for n in group])
            shares[group] = self._model(batch.to(self._device)).float().softmax(1).cpu()
        best = shares.argmax(1).tolist()
        predictions = []
        for text, b, row, encoding in zip(texts, best, shares.tolist(), encodings, strict=True):
            first, second = (text, None) if isinstance(text, str) else text
            scores = dict(zip(self.labels, row, strict=True))
            predictions.append(Prediction(first, self.labels[b], row[b], scores, encoding.truncated, second))
        return predictions


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
    """Predict every row of a file, or every line of a txt file or of standard input, as JSON lines.

    Memory is flat in the number of rows. A file is read once before the first prediction, so that a row that
    cannot be used is found at once and not after hours. The n-th line of the output is the n-th text: an
    empty line is an error and not skipped.

    Raises:
        InputError: the model or the input cannot be used; an output file appears only when it is whole.
    """
    log = log or Log(settings.quiet)
    _check_output(settings)
    set_threads(0)
    predictor = Predictor(settings.model, settings.device)
    source = "standard input" if _is_stdin(settings) else settings.input
    total = None if _is_stdin(settings) else sum(1 for _ in _texts(settings, predictor.text_column))
    rows = truncated = 0
    with _output(settings.output) as out, log.progress("predicting", total, "texts") as advance:
        for prediction in predictor.stream(_texts(settings, predictor.text_column)):
            out.write(json.dumps(prediction.to_json(), ensure_ascii=False) + "\n")
            rows += 1
            truncated += prediction.truncated > 0
            advance(1)
        if rows == 0:
            raise InputError("holds no text; expected at least one", path=source)
    if truncated:
        log.warn(f"{truncated:,} of {rows:,} texts were longer than {predictor.max_length} tokens and were cut")
    if settings.output is not None:
        log.say(f"{rows:,} predictions: {settings.output}")
    return PredictionSummary(rows, truncated)


def _is_stdin(settings: PredictSettings) -> bool:
    return str(settings.input) == "-"


def _texts(settings: PredictSettings, text_column: str) -> Iterator[str]:
    path = settings.input
    where: Path | str = path
    rows: Iterable[tuple[int, str]]
    if _is_stdin(settings):
        where = "standard input"
        rows = enumerate(read_lines(sys.stdin.buffer, encoding=settings.encoding), start=1)
    elif uncompressed_name(path).suffix.lower() in FORMATS:
        name = settings.text or text_column
        records = open_records(path, encoding=settings.encoding, quoting=settings.quoting, only=[name])
        rows = ((line, cells.get(name, "")) for line, cells in records.rows)
    else:
        rows = enumerate(read_lines(path, encoding=settings.encoding), start=1)
    for line, text in rows:
        if not text.strip():
            raise InputError("the text is empty; expected at least one character", path=where, line=line)
        yield text


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
