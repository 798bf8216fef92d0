"""What a user may set of fine-tuning, a model per task, and of what comes after it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from bertsmith.config import OptimizerSettings
from bertsmith.configuration import Configuration, argument, output, task_name

LongTexts = Annotated[
    Literal["windows", "cut"],
    Field(
        description="What is done with texts longer than the model was tuned for: windows, whose outputs' mean decides "
        "(questions' contexts and tagged texts always have windows), or cut, as in training."
    ),
]
"""What a model that is used does with long texts."""

BackendChoice = Annotated[
    Literal["auto", "torch", "onnx", "openvino"],
    Field(
        description="What computes: torch, or a graph of 'bertsmith export' in the model's directory or its folders "
        "onnx and openvino; auto times what is there on a few texts."
    ),
]
"""What computes its outputs."""


class FinetuneSettings(OptimizerSettings):
    """``bertsmith finetune``: a new output layer, all weights tuned. What all tasks share."""

    model: Path = argument(
        "A pre-training run, a BERT directory in the transformers layout, or a model of the hub as hub:owner/name."
    )
    train: Path = Field(description="Rows to train on.")
    dev: Path | None = Field(
        None, description="Rows that choose the best epoch and give the score; by default a share of --train."
    )
    dev_share: float = Field(0.1, gt=0, lt=1, description="The share of --train that is held out without --dev.")
    encoding: str = Field("auto", description="Text encoding; auto tries UTF-8 strictly, then cp949 (Korean).")
    quoting: Literal["auto", "none"] = Field(
        "auto",
        description="Whether quotes enclose fields in csv/tsv; auto: in csv always, in tsv when they balance.",
    )
    output: Path = output("The directory to write the tuned model to.")
    max_length: int = Field(128, ge=3, description="Longest sequence in tokens; longer texts are cut and counted.")
    epochs: float | None = Field(
        None,
        gt=0,
        description="Passes over the training rows; by default 3, or as many as make --min-steps.",
    )
    min_steps: int = Field(200, ge=1, description="The fewest steps with each seed, where --epochs does not say more.")
    batch_size: int = Field(32, ge=1, description="Examples in a step.")
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="Peak learning rate; by default 3e-4 for encoders up to 256 wide, 1e-4 up to 512, 5e-5 beyond.",
    )
    dropout: float = Field(
        0.1, ge=0, lt=1, description="Dropout on hidden states and attention weights, whatever pre-training had."
    )
    bilstm: bool = Field(
        False,
        description="Put a bidirectional LSTM with random weights between encoder and output layer (section 5.1); "
        "transformers does not read such a model.",
    )
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="Each layer's learning rate is that of the layer above it times this."
    )
    freeze_layers: int = Field(0, ge=0, description="The embeddings and so many lower layers keep their weights.")
    patience: int | None = Field(None, ge=1, description="Stop after so many evaluations without a better dev metric.")
    seeds: int = Field(
        1,
        ge=1,
        description="Runs with different seeds; their mean and deviation are given, the best is kept.",
    )
    from_scratch: bool = Field(
        False, description="Start the same network from random weights, to see what pre-training is worth."
    )
    limit: int | None = Field(None, ge=1, description="Use only the first so many training rows.")
    search: int | None = Field(
        None,
        ge=1,
        description="First try so many configurations of learning rate, epochs, batch size and warm-up (extra "
        "'search'), then tune with the best by the dev metric.",
    )
    bad_steps: Literal["skip", "stop"] = Field(
        "skip", description="What is done about a step whose loss or gradient is no number: leave it out, or stop."
    )
    resume: bool = Field(False, description="Go on with a run that was stopped.")


class ClassifySettings(FinetuneSettings):
    """``bertsmith finetune classify``: one label for a text or a pair of texts."""

    task: Literal["classify"] = task_name("classify")
    text: str = Field("text", description="Column with the text, or several to be joined, with commas between.")
    text_b: str | None = Field(None, description="Column or columns with the second text, if rows are pairs.")
    label: str = Field("label", description="Column with the label.")
    class_weights: Literal["none", "balanced"] = Field(
        "none", description="balanced: rare labels weigh more in the loss, inversely to their frequency."
    )
    metric: Literal["macro_f1", "accuracy"] = Field("macro_f1", description="Dev metric that chooses the best epoch.")


class MultilabelSettings(FinetuneSettings):
    """``bertsmith finetune multilabel``: any number of labels for a text or a pair of texts."""

    task: Literal["multilabel"] = task_name("multilabel")
    text: str = Field("text", description="Column with the text, or several to be joined, with commas between.")
    text_b: str | None = Field(None, description="Column or columns with the second text, if rows are pairs.")
    label: str = Field("label", description="Column with the labels; empty for none.")
    separator: str = Field("|", min_length=1, description="What stands between labels in a cell.")
    metric: Literal["macro_f1", "micro_f1", "exact_match"] = Field(
        "macro_f1", description="Dev metric that chooses the best epoch."
    )


class RegressSettings(FinetuneSettings):
    """``bertsmith finetune regress``: a number for a text or a pair of texts."""

    task: Literal["regress"] = task_name("regress")
    text: str = Field("text", description="Column with the text, or several to be joined, with commas between.")
    text_b: str | None = Field(None, description="Column or columns with the second text, if rows are pairs.")
    label: str = Field("label", description="Column with the number.")
    metric: Literal["spearman", "pearson"] = Field("spearman", description="Dev metric that chooses the best epoch.")


class ChooseSettings(FinetuneSettings):
    """``bertsmith finetune choose``: which of several endings follows a context."""

    task: Literal["choose"] = task_name("choose")
    context: str = Field("context", description="Column with the context or question.")
    endings: str = Field(
        "ending0,ending1,ending2,ending3", description="Columns with the endings, commas between their names."
    )
    label: str = Field(
        "label", description="Column with the right ending: its number from 0, its column's name or its text."
    )
    metric: Literal["accuracy"] = Field("accuracy", description="Dev metric that chooses the best epoch.")


class QaSettings(FinetuneSettings):
    """``bertsmith finetune qa``: which part of a context answers a question, if any does."""

    task: Literal["qa"] = task_name("qa")
    question: str = Field("question", description="Column with the question (tables; SQuAD's JSON has no columns).")
    context: str = Field("context", description="Column with the context.")
    answer: str = Field("answer", description="Column with the answer; empty where the context has none.")
    start: str | None = Field(
        None, description="Column with the answer's first character, from 0; without it answers are looked for."
    )
    id: str | None = Field(None, description="Column with the question's name; by default its line.")
    group: str | None = Field(None, description="Column with what must not be split between training and dev.")
    language: Literal["auto", "en", "ko"] = Field(
        "auto", description="How F1 is counted: over words as SQuAD does, or over characters as KorQuAD does."
    )
    max_length: int = Field(384, ge=16, description="Longest window of question and context in tokens.")
    stride: int = Field(128, ge=1, description="Tokens by which one window of a long context is after the one before.")
    max_query_length: int = Field(64, ge=1, description="Longest question in tokens; longer ones are cut and counted.")
    max_answer_length: int = Field(30, ge=1, description="Longest answer in tokens.")
    n_best: int = Field(20, ge=1, description="How many answers are kept beside the best one.")
    metric: Literal["f1", "exact_match"] = Field("f1", description="Dev metric that chooses the best epoch.")


class TagSettings(FinetuneSettings):
    """``bertsmith finetune tag``: a tag for every word or character (entities, parts of speech)."""

    task: Literal["tag"] = task_name("tag")
    format: Literal["auto", "conll", "conllu", "characters", "jsonl"] = Field(
        "auto",
        description="conll: columns, a word a line; conllu: CoNLL-U; characters: a character a line; jsonl: text and "
        "spans; auto goes by the file's ending and its first lines.",
    )
    tags: str | None = Field(
        None,
        description="Where the tags are: a column's number from 2 (conll, by default the last), UPOS or XPOS (conllu), "
        "or the field with the spans (jsonl).",
    )
    overlap: int = Field(32, ge=0, description="Tokens that the windows of a long sentence share.")
    metric: Literal["f1", "accuracy", "macro_f1"] | None = Field(
        None, description="Dev metric that chooses the best epoch; by default f1 of entities, accuracy of plain tags."
    )


class EvaluateSettings(Configuration):
    """``bertsmith evaluate``: a fine-tuned model's scores on labelled rows."""

    model: Path = argument("A fine-tuned model's directory.")
    input: Path = Field(description="Labelled rows with the columns that the model was tuned with.")
    output: Path | None = Field(
        None, description="A directory to write scores.json and report.html to.", json_schema_extra={"flag": "-o"}
    )
    columns: str | None = Field(
        None, description="Other names of columns, as role=name with commas between (text=title,body,label=stars)."
    )
    long_texts: LongTexts = "windows"
    backend: BackendChoice = "auto"
    encoding: str = Field("auto", description="Text encoding; auto tries UTF-8 strictly, then cp949 (Korean).")
    quoting: Literal["auto", "none"] = Field("auto", description="Whether quotes enclose fields in csv/tsv.")
    device: str = Field("auto", description="cpu, cuda, cuda:1 or mps; auto takes a GPU where there is one.")
    quiet: bool = Field(False, description="Say nothing but warnings and the result.")


class PredictSettings(Configuration):
    """``bertsmith predict``: labels for new rows."""

    model: Path = argument("A fine-tuned model's directory.")
    input: Path = Field(
        description="Rows (csv, tsv, jsonl, parquet), or txt with one text a line; - reads lines from stdin."
    )
    output: Path | None = Field(
        None,
        description="A jsonl file to write; standard output if left out.",
        json_schema_extra={"flag": "-o"},
    )
    input_format: Literal["auto", "text", "conll", "conllu", "characters"] = Field(
        "auto",
        description="What a tagger is given: texts, or a tagged file in one of finetune's formats; auto goes by the "
        "file's ending, and in txt and tsv by the first lines. Tags that it has are not looked at.",
    )
    output_format: Literal["jsonl", "conll", "conllu", "characters"] = Field(
        "jsonl",
        description="What a tagger writes instead of spans: conll, a word or character and its tag a line; an input "
        "in columns keeps its lines and gets other tags, CoNLL-U with conllu.",
    )
    scheme: Literal["same", "BIO", "IOB1", "BIOES", "BILOU", "BMES"] = Field(
        "same", description="How tags in columns mark entities; same: as the training file did."
    )
    columns: str | None = Field(
        None, description="Other names of columns, as role=name with commas between (text=title,body,text_b=answer)."
    )
    long_texts: LongTexts = "windows"
    backend: BackendChoice = "auto"
    encoding: str = Field("auto", description="Text encoding; auto tries UTF-8 strictly, then cp949 (Korean).")
    quoting: Literal["auto", "none"] = Field("auto", description="Whether quotes enclose fields in csv/tsv.")
    device: str = Field("auto", description="cpu, cuda, cuda:1 or mps; auto takes a GPU where there is one.")
    devices: int = Field(
        1, ge=1, description="Processes that share the texts on this machine; one a GPU, or the CPUs shared among them."
    )
    quiet: bool = Field(False, description="Say nothing but warnings and the result.")


class TagsSettings(Configuration):
    """``bertsmith tags``: a tagged file's entities in another scheme."""

    input: Path = argument("A file with tags of entities in columns (CoNLL, or a character a line).")
    output: Path = Field(description="The file to write.", json_schema_extra={"flag": "-o"})
    scheme: Literal["BIO", "IOB1", "BIOES", "BILOU", "BMES"] = Field(description="How it shall mark entities.")
    format: Literal["auto", "conll", "characters"] = Field(
        "auto", description="conll: a word a line; characters: a character a line; auto goes by the first lines."
    )
    tags: str | None = Field(None, description="The tags' column, a number from 2; by default the last.")
    encoding: str = Field("auto", description="Text encoding; auto tries UTF-8 strictly, then cp949 (Korean).")
    quiet: bool = Field(False, description="Say nothing but warnings.")


SETTINGS: dict[str, type[FinetuneSettings]] = {
    "classify": ClassifySettings,
    "multilabel": MultilabelSettings,
    "regress": RegressSettings,
    "choose": ChooseSettings,
    "qa": QaSettings,
    "tag": TagSettings,
}
"""The settings of each task, by its name."""
