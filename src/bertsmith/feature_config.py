"""What a user may set of vectors made with an encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from bertsmith.configuration import Configuration, argument, output


class EmbedSettings(Configuration):
    """``bertsmith embed``: vectors of texts, or of all their tokens, as features for other models."""

    model: Path = argument(
        "A run, a fine-tuned model, a BERT or sentence-transformers directory, or hub:owner/name for one of the hub."
    )
    input: Path = Field(
        description="Rows (csv, tsv, jsonl, parquet), or txt with one text a line; - reads lines from stdin."
    )
    output: Path = output("The file to write; what is unfinished of it stands in a folder beside it.")
    text: str = Field("text", description="Column with the text, or several to be joined, with commas between.")
    text_b: str | None = Field(None, description="Column or columns with the second text, if rows are pairs.")
    tokens: bool = Field(False, description="Write the vectors of all tokens instead of one a text.")
    layers: str | None = Field(
        None,
        description="last, second-to-last, sum-last-4, concat-last-4, all, or numbers with commas between: -1 the last "
        "layer, 1 the first, 0 the embeddings; several are laid one after the other. weighted:FILE takes all, by the "
        "weights in weighted_layers.json, which 'bertsmith compare tag' writes if its models include "
        "bert-lstm-weighted. By default the last.",
    )
    pooling: Literal["auto", "cls", "mean", "max", "first-last-mean"] = Field(
        "auto",
        description="How tokens become a vector; cls: the first token's, or the last one's where a model reads left to "
        "right; first-last-mean: the mean over tokens of the first and last layer's mean; auto: what a "
        "sentence-transformers directory says, or mean.",
    )
    normalize: bool | None = Field(
        None, description="Scale vectors to length 1; by default as a sentence-transformers directory says, or not."
    )
    max_length: int | None = Field(
        None,
        ge=3,
        description="Longest text in tokens, others are cut and counted; by default what the directory says, or the "
        "model's positions.",
    )
    format: Literal["auto", "parquet", "npy", "safetensors"] = Field(
        "auto", description="What is written; auto goes by the output's ending."
    )
    overwrite: bool = Field(False, description="Replace an output that exists, or unfinished work of other settings.")
    encoding: str = Field("auto", description="Text encoding; auto tries UTF-8 strictly, then cp949 (Korean).")
    quoting: Literal["auto", "none"] = Field("auto", description="Whether quotes enclose fields in csv/tsv.")
    device: str = Field("auto", description="cpu, cuda, cuda:1 or mps; auto takes a GPU where there is one.")
    devices: int = Field(
        1, ge=1, description="Processes that share the texts on this machine; one a GPU, or the CPUs shared among them."
    )
    threads: int = Field(0, ge=0, description="CPU threads; 0 takes what the machine's quota allows.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "float32",
        description="Of the products; bfloat16 changes vectors in the third digit (cosine above 0.999) and is faster "
        "where the processor has its instructions; auto measures and picks.",
    )
    quiet: bool = Field(False, description="Say nothing but warnings.")
