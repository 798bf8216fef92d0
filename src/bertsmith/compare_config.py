"""What a user may set of a comparison of models."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from bertsmith.configuration import Configuration, argument, output, task_name


class CompareSettings(Configuration):
    """``bertsmith compare``: fine-tuned BERT beside models on its vectors and models without it."""

    model: Path = argument("A pre-training run, a BERT directory in the transformers layout, or hub:owner/name.")
    train: Path = Field(description="Rows to train on.")
    dev: Path | None = Field(
        None, description="Rows that choose each model's setting and best epoch; by default a tenth of --train."
    )
    test: Path = Field(description="Rows that give the scores, and choose nothing.")
    output: Path = output("The directory for the report.")
    models: str = Field("all", description="Which models, with commas; a wrong name gets the list.")
    curves: str = Field(
        "all", description="Models that are also trained on 1/16 to 1/2 of the rows, with commas; all or none."
    )
    trials: int = Field(3, ge=1, le=3, description="Settings that are tried for each model; dev chooses one.")
    seeds: int = Field(3, ge=1, description="Runs of each model with the chosen setting.")
    epochs: float = Field(
        10,
        gt=0,
        description="Passes of every network over the rows at most, more where that makes fewer than 200 steps; the "
        "best on dev counts.",
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="A network is done after so many looks at dev (one a pass, ten in a fit) with no better one; by "
        "default it makes all its passes, since scores of entities can stay at 0 for the first of them.",
    )
    batch_size: int = Field(32, ge=1, description="Examples in a step.")
    max_length: int = Field(128, ge=3, description="Longest sequence in tokens; longer texts are cut.")
    limit: int | None = Field(None, ge=1, description="Use only the first so many training rows.")
    allow_overlap: bool = Field(False, description="Go on although test rows stand in the training rows too.")
    encoding: str = Field("auto", description="Text encoding; auto tries UTF-8 strictly, then cp949 (Korean).")
    quoting: Literal["auto", "none"] = Field("auto", description="Whether quotes enclose fields in csv/tsv.")
    seed: int = Field(0, ge=0, description="The first seed, and that of the parts of the rows.")
    device: str = Field("auto", description="cpu, cuda, cuda:1 or mps; auto takes a GPU where there is one.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Of matrix products; auto measures once which is faster, and a comparison keeps to it."
    )
    threads: int = Field(0, ge=0, description="CPU threads; 0 takes what the machine's quota allows.")
    resume: bool = Field(False, description="Go on with a comparison that was stopped.")
    quiet: bool = Field(False, description="Say nothing but warnings and the result.")


class CompareClassifySettings(CompareSettings):
    """``bertsmith compare classify``: one label for a text or a pair of texts."""

    task: Literal["classify"] = task_name("classify")
    text: str = Field("text", description="Column with the text, or several to be joined, with commas between.")
    text_b: str | None = Field(None, description="Column or columns with the second text, if rows are pairs.")
    label: str = Field("label", description="Column with the label.")
    metric: Literal["macro_f1", "accuracy"] = Field("macro_f1", description="What is compared, and chosen by on dev.")


class CompareTagSettings(CompareSettings):
    """``bertsmith compare tag``: a tag for every word or character."""

    task: Literal["tag"] = task_name("tag")
    format: Literal["auto", "conll", "conllu", "characters", "jsonl"] = Field(
        "auto", description="How the files are written; auto goes by the file's ending and its first lines."
    )
    tags: str | None = Field(None, description="Where the tags are, as in 'bertsmith finetune tag'.")
    overlap: int = Field(32, ge=0, description="Tokens that the windows of a long sentence share.")
    metric: Literal["f1", "accuracy"] | None = Field(
        None, description="What is compared; by default f1 of entities, accuracy of plain tags."
    )
