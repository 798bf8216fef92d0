"""What a model says about a text: one type for the command line, Python and services."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Prediction:
    """A label for a text, or for a pair of texts.

    Attributes:
        text: as it was given; of a pair the first.
        label: the most probable label.
        score: its probability.
        scores: the probability of every label.
        truncated: tokens of the text that did not fit and were not seen.
        text_b: the second text of a pair.
    """

    text: str
    label: str
    score: float
    scores: dict[str, float]
    truncated: int = 0
    text_b: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; ``text_b`` only for a pair."""
        pair = {} if self.text_b is None else {"text_b": self.text_b}
        return {
            "text": self.text,
            **pair,
            "label": self.label,
            "score": self.score,
            "scores": dict(self.scores),
            "truncated": self.truncated,
        }
