"""A fine-tuned model at work: texts in, predictions out, in the same order."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, overload

import torch

from bertsmith.batch import by_token_budget, pack
from bertsmith.config import PredictSettings
from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.model.weights import load_classifier, model_directory
from bertsmith.tasks.prediction import Prediction
from bertsmith.text.decoding import uncompressed_name
from bertsmith.text.tables import open_records, read_lines
from bertsmith.text.tokenizer import Tokenizer
from bertsmith.training.device import pick_device, set_threads

_CHUNK = 1024
_MAX_TOKENS = 4096
_TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


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
        self.labels = info.labels
        self.text_column: str = info.extras.get("text", "text")
        positions = info.config.max_position_embeddings
        self.max_length = min(int(info.extras.get("max_length", positions)), positions)

    @overload
    def __call__(self, texts: str) -> Prediction: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, texts: Iterable[str]) -> list[Prediction]: ...
    def __call__(self, texts: str | Iterable[str]) -> Prediction | list[Prediction]:
        """Predict a text, or a list of texts."""
        if isinstance(texts, str):
            return self._chunk([texts])[0]
        return list(self.stream(texts))

    def stream(self, texts: Iterable[str]) -> Iterator[Prediction]:
        """Predict texts as they come, in order; memory holds a thousand at a time."""
        iterator = iter(texts)
        while chunk := list(itertools.islice(iterator, _CHUNK)):
            yield from self._chunk(chunk)

    @torch.inference_mode()
    def _chunk(self, texts: list[str]) -> list[Prediction]:
        for text in texts:
            if not text.strip():
                raise InputError("an empty text; expected at least one character")
        encodings = self._tokenizer.encode_batch(texts, self.max_length)
        shares = torch.empty(len(texts), len(self.labels))
        for group in by_token_budget([len(e.ids) for e in encodings], _MAX_TOKENS):
            batch = pack([encodings[n].ids for n in group]).to(self._device)
            shares[group] = self._model(batch).float().softmax(1).cpu()
        best = shares.argmax(1).tolist()
        return [
            Prediction(text, self.labels[b], row[b], dict(zip(self.labels, row, strict=True)), encoding.truncated)
            for text, b, row, encoding in zip(texts, best, shares.tolist(), encodings, strict=True)
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
    """Predict every row of a file, or every line of a txt file or of standard input, as JSON lines.

    Raises:
        InputError: the model or the input cannot be used; an output file appears only when it is whole.
    """
    log = log or Log(settings.quiet)
    set_threads(0)
    predictor = Predictor(settings.model, settings.device)
    rows = truncated = 0
    with _output(settings.output) as out, log.progress("predicting", float("inf"), "texts") as advance:
        for prediction in predictor.stream(_texts(settings, predictor.text_column)):
            out.write(json.dumps(prediction.to_json(), ensure_ascii=False) + "\n")
            rows += 1
            truncated += prediction.truncated > 0
            advance(1)
    if rows == 0:
        raise InputError("has no rows", path=settings.input)
    if truncated:
        log.warn(f"{truncated:,} of {rows:,} texts were longer than {predictor.max_length} tokens and were cut")
    if settings.output is not None:
        log.say(f"{rows:,} predictions: {settings.output}")
    return PredictionSummary(rows, truncated)


def _texts(settings: PredictSettings, text_column: str) -> Iterator[str]:
    path = settings.input
    rows: Iterable[tuple[int, str]]
    if str(path) != "-" and uncompressed_name(path).suffix.lower() in _TABLES:
        name = settings.text or text_column
        records = open_records(path, encoding=settings.encoding, quoting=settings.quoting, only=[name])
        rows = ((line, cells.get(name, "")) for line, cells in records.rows)
    else:
        source = sys.stdin.buffer if str(path) == "-" else path
        rows = enumerate(read_lines(source, encoding=settings.encoding), start=1)
    for line, text in rows:
        if not text.strip():
            raise InputError("the text is empty; expected at least one character", path=path, line=line)
        yield text


@contextlib.contextmanager
def _output(path: Path | None) -> Iterator[TextIO]:
    """Yield standard output, or a file that takes its name when the block ends without an error."""
    if path is None:
        yield sys.stdout
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
