"""What a user may set of a plan."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from bertsmith.config import SIZES, ModelConfig
from bertsmith.configuration import Configuration

_SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}
# More than anybody's text or machine holds; beyond it a number is a slip of the keyboard.
_MOST = 10**18


def whole_number(value: Any) -> Any:
    """Return the whole number that ``value`` says: 10k, 3.3B, 137e9, 1,000,000.

    Raises:
        ValueError: it is not one, or above 10^18.
    """
    if isinstance(value, bool):
        raise ValueError(f"expected a number such as 10k, 3.3B or 137e9, got {value!r}")
    match = re.fullmatch(r"([\d,_]+(?:\.\d+)?)(?:e\+?(\d{1,2}))?\s*([kmbgt]?)", str(value).strip(), re.I | re.A)
    digits = match[1].replace(",", "").replace("_", "") if match else ""
    if match is None or not digits[:1].isdigit():
        raise ValueError(f"expected a number such as 10k, 3.3B or 137e9, got {value!r}")
    number = Decimal(digits) * 10 ** int(match[2] or 0) * _SUFFIXES[match[3].lower()]
    if number != int(number):
        raise ValueError(f"expected a whole number, got {value!r}")
    if number > _MOST:
        raise ValueError(f"{value!r} is above 1e18; is there a suffix too much?")
    return int(number)


Count = Annotated[int, BeforeValidator(whole_number), Field(ge=1)]
"""A whole number from 1, also written as 10k, 3.3B or 137e9."""


class PlanSettings(Configuration):
    """``bertsmith plan``: steps, time, memory, disk and cost of a pre-training run."""

    tokens: Count = Field(description="Tokens to train on, repetitions included: 10M, 3.3B, 137e9.")
    size: Literal["tiny", "mini", "small", "medium", "base", "large"] = Field(
        "base",
        description="Layers x width: tiny 2x128, mini 4x256, small 4x512, medium 8x512, base 12x768, large 24x1024.",
    )
    layers: int | None = Field(None, ge=1, le=1000, description="Own number of layers, instead of the size's.")
    hidden_size: int | None = Field(None, ge=1, le=100_000, description="Own width, instead of the size's.")
    heads: int | None = Field(
        None, ge=1, le=100_000, description="Own number of attention heads, instead of the size's."
    )
    vocab_size: Count = Field(30_000, ge=6, le=10_000_000, description="Entries in the vocabulary.")
    max_positions: int = Field(512, ge=8, le=1_000_000, description="Positions that the model can ever use.")
    max_length: int = Field(128, ge=8, le=1_000_000, description="Longest training sequence in tokens.")
    fill: float = Field(
        0.9, ge=0.01, le=1, description="Mean length of a sequence as a share of the longest; long documents give 0.9."
    )
    mask_share: float = Field(
        0.15, ge=0.0001, lt=1, description="Share of a sequence's tokens that are to be predicted."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on hidden states and attention weights.")
    batch_size: Count = Field(256, le=10**9, description="Sequences in a step, over all devices.")
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        le=10**9,
        description="Sequences that a device holds in memory at a time; by default its share of the batch.",
    )
    epochs: float = Field(
        1.0, ge=0.001, le=1e6, description="How often the text is passed over: it then holds tokens / epochs."
    )
    precision: Literal["bfloat16", "float32"] = Field(
        "bfloat16", description="Arithmetic of the matrix products; weights are float32 in any case."
    )
    on: Literal["gpu", "cpu"] = Field("gpu", description="Kind of device.")
    devices: Count = Field(
        1, le=10**6, description="Devices that share the batch, each with a whole copy of the model."
    )
    device_tflops: float = Field(
        description="What one device can do at most in --precision: 10^12 operations a second, without sparsity (a "
        "data sheet says; 'python benchmarks/planning.py' measures a CPU).",
        ge=1e-6,
        le=1e6,
    )
    mfu: float = Field(
        0.4, ge=0.0001, le=1, description="Share of that which a run reaches, everything included; 0.3 to 0.5 is usual."
    )
    device_memory: float | None = Field(
        None,
        ge=0.001,
        le=1e6,
        description="GB of one device; what does not fit is said, and how many sequences would.",
    )
    price_per_hour: float | None = Field(
        None, ge=0, le=1e9, description="Price of one device for an hour, in any currency."
    )
    as_json: bool = Field(False, description="Print JSON for programs.", json_schema_extra={"option": "--json"})

    @property
    def encoder(self) -> ModelConfig:
        """The model's numbers, those that ``pretrain`` would take."""
        layers, width, heads = SIZES[self.size]
        width = self.hidden_size or width
        return ModelConfig.parse(
            {
                "vocab_size": self.vocab_size,
                "num_hidden_layers": self.layers or layers,
                "hidden_size": width,
                "num_attention_heads": self.heads or (max(1, width // 64) if self.hidden_size else heads),
                "intermediate_size": 4 * width,
                "max_position_embeddings": self.max_positions,
                "hidden_dropout_prob": self.dropout,
                "attention_probs_dropout_prob": self.dropout,
            }
        )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.max_length > self.max_positions:
            raise ValueError(
                f"max_length {self.max_length} is above the model's positions (max_positions {self.max_positions})"
            )
        if self.batch_size % self.devices:
            raise ValueError(f"batch_size {self.batch_size} cannot be shared equally by devices {self.devices}")
        return self
