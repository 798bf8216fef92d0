"""The models that are compared, each with the settings that are tried for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from bertsmith.errors import InputError, nearest
from bertsmith.training.rates import tuning_rates

Kind = Literal["majority", "tfidf", "frequency", "bag", "lstm", "cnn", "logistic", "bert"]


@dataclass(frozen=True)
class Contender:
    """A model and its settings.

    Attributes:
        name: on the command line and in tables.
        about: what it is, in words.
        kind: what is built.
        layers: those of the frozen encoder that it reads, as in ``embed``; None if it reads none.
        pretrained: whether it has pre-trained weights, frozen or tuned.
        settings: what is tried, the likeliest first: learning rates, or C of a logistic regression.
    """

    name: str
    about: str
    kind: Kind
    layers: str | None = None
    pretrained: bool = False
    settings: tuple[float, ...] = (0.0,)

    @property
    def is_network(self) -> bool:
        """Whether it is trained by gradients."""
        return self.kind in ("bag", "lstm", "cnn", "bert")

    @property
    def least_depth(self) -> int:
        """The fewest layers that an encoder must have for it."""
        return {"second-to-last": 2, "sum-last-4": 4, "concat-last-4": 4}.get(self.layers or "", 1)


REFERENCE = "bert"

_C = (10.0, 1.0, 100.0)
_RATES = (1e-3, 3e-3, 3e-4)
_BERT = (
    Contender(
        "bert-scratch", "the same BERT network from random weights, tuned as long", "bert", settings=(3e-4, 1e-4, 1e-3)
    ),
    Contender(REFERENCE, "BERT, fine-tuned", "bert", pretrained=True, settings=tuning_rates(768)),
)

CLASSIFY = (
    Contender("majority", "always the most frequent label", "majority"),
    Contender("tfidf", "TF-IDF of words and characters, logistic regression", "tfidf", settings=_C),
    Contender("bag", "mean of learned token vectors, linear layer", "bag", settings=(3e-3, 1e-2, 1e-3)),
    Contender("lstm", "BiLSTM on learned token vectors", "lstm", settings=_RATES),
    Contender("cnn", "CNN on learned token vectors (Kim 2014)", "cnn", settings=_RATES),
    Contender("bert-logistic", "frozen BERT vectors, logistic regression", "logistic", "last", True, (1.0, 0.1, 10.0)),
    Contender("bert-lstm", "frozen BERT vectors, BiLSTM", "lstm", "last", True, _RATES),
    Contender("bert-cnn", "frozen BERT vectors, CNN", "cnn", "last", True, _RATES),
    *_BERT,
)

TAG = (
    Contender("frequency", "the most frequent tag of the word, or of its end", "frequency"),
    Contender("lstm", "BiLSTM on learned token vectors", "lstm", settings=_RATES),
    *(
        Contender(f"bert-lstm-{layers}", f"frozen BERT vectors ({layers}), BiLSTM", "lstm", layers, True, _RATES)
        for layers in ("last", "second-to-last", "sum-last-4", "concat-last-4", "weighted")
    ),
    *_BERT,
)


def suited_to(contender: Contender, hidden_size: int) -> Contender:
    """Return the contender with the learning rates that an encoder of this width is tuned with."""
    return replace(contender, settings=tuning_rates(hidden_size)) if contender.name == REFERENCE else contender


def chosen_contenders(names: str, known: Sequence[Contender]) -> list[Contender]:
    """Return the contenders of a list with commas, or ``all``, or ``none`` of them.

    Raises:
        InputError: there is no such model, or one is named twice.
    """
    if names.strip() in ("all", "none"):
        return list(known) if names.strip() == "all" else []
    by_name = {contender.name: contender for contender in known}
    chosen = [name.strip() for name in names.split(",")]
    for number, name in enumerate(chosen):
        if name not in by_name:
            raise InputError(f"model {name!r}: expected {', '.join(by_name)}.{nearest(name, by_name)}")
        if name in chosen[:number]:
            raise InputError(f"model {name!r} is named twice")
    return [by_name[name] for name in chosen]
