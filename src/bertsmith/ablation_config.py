"""What a user may set of an ablation."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from bertsmith.configuration import Configuration, Duration, argument, output


class AblateSettings(Configuration):
    """``bertsmith ablate``: the same network pre-trained in different ways, and what each is worth in tasks."""

    store: Path = argument("A token store made by 'bertsmith prepare'.")
    output: Path = output("The directory for all runs and the report.")
    tasks: list[Path] = Field(
        min_length=1,
        description="YAML files of fine-tuning, one a task: its name (task: classify), rows (train, dev) and whatever "
        "else 'bertsmith finetune' takes, but for model and output. Give the option once for each.",
    )
    variants: str = Field(
        "all",
        description="Which ways of pre-training, with commas: bert, no-nsp, left-to-right, left-to-right-bilstm, "
        "all-masked, no-random, no-kept, whole-words, masked-30, masked-40, random-weights.",
    )
    budget: Duration | None = Field(None, description="Time for each pre-training (90s, 20m, 2h).")
    steps: int | None = Field(None, ge=1, description="Steps of each pre-training, instead of a time.")
    size: Literal["tiny", "mini", "small", "medium", "base", "large"] = Field(
        "mini", description="The network, as in 'bertsmith pretrain'."
    )
    pretraining: Path | None = Field(
        None, description="A YAML file with other settings of pre-training, the same for every variant."
    )
    pretraining_seeds: int = Field(1, ge=1, description="Pre-training runs of each variant.")
    seeds: int = Field(3, ge=1, description="Fine-tuning runs of each task on each of these.")
    threads: int = Field(0, ge=0, description="CPU threads; 0 takes what the machine's quota allows.")
    resume: bool = Field(False, description="Go on with an ablation that was stopped, or add variants to it.")
    quiet: bool = Field(False, description="Say nothing but warnings and the result.")

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.budget is None) == (self.steps is None):
            raise ValueError("give one of budget and steps")
        return self
