"""What models say about a text: plain values for the command line, Python and services."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LabelPrediction:
    """A label for a text, or for a pair of texts.

    Attributes:
        text: as it was given; of a pair the first.
        label: the most probable label.
        score: its probability.
        scores: the probability of every label.
        truncated: tokens of the text that did not fit and were not seen.
        text_b: the second text of a pair.
        windows: in how many windows the text was read; their outputs' mean decides.
    """

    text: str
    label: str
    score: float
    scores: dict[str, float]
    truncated: int = 0
    text_b: str | None = None
    windows: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; ``text_b`` only for a pair."""
        found = {"label": self.label, "score": self.score, "scores": dict(self.scores)}
        return {**_texts(self.text, self.text_b), **found, **_seen(self)}


@dataclass(frozen=True)
class LabelsPrediction:
    """Any number of labels for a text or a pair.

    Attributes:
        text: as it was given; of a pair the first.
        labels: those with a probability of one half or more; may be none.
        scores: the probability of every label, each on its own.
        truncated: tokens of the text that did not fit and were not seen.
        text_b: the second text of a pair.
        windows: in how many windows the text was read; their outputs' mean decides.
    """

    text: str
    labels: tuple[str, ...]
    scores: dict[str, float]
    truncated: int = 0
    text_b: str | None = None
    windows: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; ``text_b`` only for a pair."""
        found = {"labels": list(self.labels), "scores": dict(self.scores)}
        return {**_texts(self.text, self.text_b), **found, **_seen(self)}


@dataclass(frozen=True)
class NumberPrediction:
    """A number for a text or a pair.

    Attributes:
        text: as it was given; of a pair the first.
        value: in the units of the training rows.
        truncated: tokens of the text that did not fit and were not seen.
        text_b: the second text of a pair.
        windows: in how many windows the text was read; their outputs' mean decides.
    """

    text: str
    value: float
    truncated: int = 0
    text_b: str | None = None
    windows: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; ``text_b`` only for a pair."""
        return {**_texts(self.text, self.text_b), "value": self.value, **_seen(self)}


@dataclass(frozen=True)
class ChoicePrediction:
    """The likeliest of several endings of a context.

    Attributes:
        context: as it was given.
        endings: as they were given.
        choice: the number of the likeliest, from 0.
        scores: the probability of each.
        truncated: tokens that did not fit and were not seen, over all endings.
        windows: in how many windows the context was read; the mean of each ending's scores decides.
    """

    context: str
    endings: tuple[str, ...]
    choice: int
    scores: tuple[float, ...]
    truncated: int = 0
    windows: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "context": self.context,
            "endings": list(self.endings),
            "choice": self.choice,
            "ending": self.endings[self.choice],
            "score": self.scores[self.choice],
            "scores": list(self.scores),
            **_seen(self),
        }


def _texts(text: str, text_b: str | None) -> dict[str, str]:
    return {"text": text} if text_b is None else {"text": text, "text_b": text_b}


def _seen(prediction: LabelPrediction | LabelsPrediction | NumberPrediction | ChoicePrediction) -> dict[str, int]:
    return {"truncated": prediction.truncated, "windows": prediction.windows}
