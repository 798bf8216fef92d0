"""What a user may set of exports."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from bertsmith.configuration import Configuration, argument, output


class ExportSettings(Configuration):
    """``bertsmith export``: a model for a runtime without torch, compared with the original before it is written."""

    model: Path = argument(
        "A fine-tuned model, or for vectors of texts any run, BERT or sentence-transformers directory."
    )
    output: Path = output(
        "The directory to write; as MODEL/onnx or MODEL/openvino, predict finds it by itself (--backend)."
    )
    format: Literal["onnx", "openvino", "sentence-transformers"] = Field(
        "onnx",
        description="onnx: model.onnx, for onnxruntime and others; openvino: model.xml; sentence-transformers: a "
        "directory for that library, with the encoder's weights and how its vectors are made.",
    )
    vectors: bool = Field(
        False,
        description="Export the encoder for vectors of texts instead of the task that the model was tuned for; a model "
        "without a task gives vectors anyway.",
        json_schema_extra={"option": "--vectors"},
    )
    pooling: Literal["auto", "cls", "mean", "max"] = Field(
        "auto",
        description="Vectors: how tokens become one; cls: the first token's, or the last one's where a model reads "
        "left to right; auto: as a sentence-transformers directory says, or mean.",
    )
    normalize: bool | None = Field(
        None,
        description="Vectors: scale to length 1; by default as a sentence-transformers directory says, or not.",
    )
    max_length: int | None = Field(
        None,
        ge=3,
        description="Vectors: longest text in tokens; by default what the directory says, or the model's positions.",
    )
    int8: bool = Field(
        False,
        description="Compute with 8-bit integers: smaller, and refused where it costs more than --tolerance or is not "
        "faster here. Without --calibrate for onnxruntime only.",
        json_schema_extra={"option": "--int8"},
    )
    calibrate: Path | None = Field(
        None,
        description="Rows, labelled or not, from which --int8 takes fixed scales (a few hundred typical ones); needed "
        "for openvino.",
    )
    check: Path | None = Field(
        None,
        description="Labelled rows with the columns that the model was tuned with: the export is compared on them, and "
        "its score. Without them it is compared on --calibrate's, or on texts of its own.",
    )
    tolerance: float = Field(
        0.5, ge=0, description="Points (hundredths) that the score may fall by with --int8; of vectors, their cosines."
    )
    force: bool = Field(
        False,
        description="Write it although it costs more than --tolerance, is not faster, or there is nothing to tell.",
        json_schema_extra={"option": "--force"},
    )
    overwrite: bool = Field(
        False, description="Replace an export that stands there.", json_schema_extra={"option": "--overwrite"}
    )
    columns: str | None = Field(
        None, description="Other names of columns, as role=name with commas between (text=title,body,label=stars)."
    )
    encoding: str = Field("auto", description="Text encoding; auto tries UTF-8 strictly, then cp949 (Korean).")
    quoting: Literal["auto", "none"] = Field("auto", description="Whether quotes enclose fields in csv/tsv.")
    threads: int = Field(0, ge=0, description="CPU threads; 0 takes what the machine's quota allows.")
    quiet: bool = Field(False, description="Say nothing but warnings and the result.")
