"""Vectors of texts as a task of exported encoders: nothing to train or score, but the same inputs and predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

from bertsmith.errors import InputError
from bertsmith.tasks.task import Facts, Outputs
from bertsmith.tasks.texts import TextExamples, TextRows, both, encode_texts, text_task
from bertsmith.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class VectorPrediction:
    """A text's vector.

    Attributes:
        text: as it was given; of a pair the first.
        vector: W numbers.
        truncated: tokens of the text that did not fit and were not seen.
        text_b: the second text of a pair.
    """

    text: str
    vector: tuple[float, ...]
    truncated: int = 0
    text_b: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; ``text_b`` only for a pair."""
        texts = {"text": self.text} if self.text_b is None else {"text": self.text, "text_b": self.text_b}
        return {**texts, "vector": list(self.vector), "truncated": self.truncated}


def facts_of(max_length: int) -> Facts:
    """Return what an exported encoder remembers."""
    # Published: it may be asked for pairs.
    return {"columns": {"text": "text"}, "labels": [], "max_length": max_length, "published": True}


def encode(rows: TextRows, facts: Facts, tokenizer: Tokenizer) -> TextExamples:
    """Encode rows; long texts are cut, as ``bertsmith embed`` does: a mean of windows is another kind of vector."""
    return encode_texts(rows.texts, facts | {"long_texts": "cut"}, tokenizer, None)


def predict(outputs: Outputs, examples: TextExamples, rows: TextRows, facts: Facts) -> list[VectorPrediction]:
    """Return the vector of each row."""
    predictions = []
    for text, vector, cut in zip(rows.texts, outputs, examples.cut, strict=True):
        first, second = both(text)
        predictions.append(VectorPrediction(first, tuple(vector.tolist()), cut, second))
    return predictions


def _untrained(*_: Any) -> NoReturn:
    raise InputError("is an exported encoder: it gives vectors, which no labels can be compared with")


TASK = text_task(
    "vectors",
    read=_untrained,
    facts=_untrained,
    encode=encode,
    counts=_untrained,
    sums=_untrained,
    score=_untrained,
    predict=predict,
    answers=lambda rows: (),
)
