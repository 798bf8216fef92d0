"""The ways of pre-training that the paper compares, as settings of ``pretrain`` and ``finetune``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bertsmith.errors import InputError, nearest

_LEFT_TO_RIGHT = {"direction": "left-to-right", "next_sentence": False}


@dataclass(frozen=True)
class Variant:
    """One way of pre-training.

    Attributes:
        name: on the command line and of its directory.
        about: what it is, for tables.
        pretraining: settings that differ from the reference's.
        finetuning: settings of fine-tuning that differ.
        run: the variant whose pre-training it shares; its own, if not given.
    """

    name: str
    about: str
    pretraining: Mapping[str, Any] = field(default_factory=dict)
    finetuning: Mapping[str, Any] = field(default_factory=dict)
    run: str | None = None

    @property
    def pretrained_as(self) -> str:
        """The name of the variant whose pre-training it takes."""
        return self.run or self.name


REFERENCE = "bert"

VARIANTS = (
    Variant(REFERENCE, "masked tokens (80/10/10, 15 %) and next sentence"),
    Variant("no-nsp", "without next sentence (table 5)", {"next_sentence": False}),
    Variant("left-to-right", "left to right, without next sentence (table 5)", _LEFT_TO_RIGHT),
    Variant(
        "left-to-right-bilstm",
        "the same, fine-tuned with a BiLSTM on top (table 5)",
        _LEFT_TO_RIGHT,
        {"bilstm": True},
        run="left-to-right",
    ),
    Variant("all-masked", "chosen tokens: all [MASK] (100/0/0, table 8)", {"mask_mix": "100/0/0"}),
    Variant("no-random", "chosen tokens: 80 % [MASK], 20 % kept (80/20/0, table 8)", {"mask_mix": "80/20/0"}),
    Variant("no-kept", "chosen tokens: 80 % [MASK], 20 % random (80/0/20, table 8)", {"mask_mix": "80/0/20"}),
    Variant("whole-words", "whole words masked", {"masking": "word"}),
    Variant("masked-30", "30 % of the tokens chosen", {"mask_share": 0.3}),
    Variant("masked-40", "40 % of the tokens chosen", {"mask_share": 0.4}),
    Variant("random-weights", "no pre-training", {}, {"from_scratch": True}, run=REFERENCE),
)


def chosen_variants(names: str) -> list[Variant]:
    """Return the variants of a list with commas, or all of them.

    Raises:
        InputError: there is no such variant, or one is named twice.
    """
    if names.strip() == "all":
        return list(VARIANTS)
    known = {variant.name: variant for variant in VARIANTS}
    chosen = [name.strip() for name in names.split(",")]
    for number, name in enumerate(chosen):
        if name not in known:
            raise InputError(f"variant {name!r}: expected {', '.join(known)}.{nearest(name, known)}")
        if name in chosen[:number]:
            raise InputError(f"variant {name!r} is named twice")
    return [known[name] for name in chosen]
