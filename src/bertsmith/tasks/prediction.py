"""What a model says about a text: one type for the command line, Python and services."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Prediction:
    """A label for a text.

    Attributes:
        text: as it was given.
        label: the most probable label.
        score: its probability.
        scores: the probability of every label.
        truncated: tokens of the text that did not fit and were not seen.
    """

    text: str
    label: str
    score: float
    scores: dict[str, float]
    truncated: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)
