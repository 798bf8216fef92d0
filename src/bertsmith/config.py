"""What a user may set of text and pre-training: one model per stage, a sentence per field."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from bertsmith.configuration import AnyPath, Configuration, Duration, argument, output


class ConvertSettings(Configuration):
    """``bertsmith convert``: a published BERT with pickled weights, to a directory with safetensors."""

    model: Path = argument("A directory with config.json, the vocabulary and pytorch_model.bin.")
    output: Path = output("The directory to write.")
    from_pickle: bool = Field(
        False,
        description="Open the pickle, with torch's reader that refuses code; only for files whose source you trust.",
    )


class RemoteSettings(Configuration):
    """How files behind URLs are read."""

    cache: Path | None = Field(
        None,
        description="Folder for copies of files behind URLs (s3://, gs://, hf://); by default bertsmith/files in the "
        "user's cache folder. Several runs may share it.",
    )
    cache_gb: float = Field(
        20.0, gt=0, description="GB that these copies may take; those used longest ago make room for others."
    )


class CorpusSettings(RemoteSettings):
    """How raw text is read and cut: shared by ``vocab`` and ``prepare``."""

    format: Literal["auto", "txt", "jsonl", "csv", "tsv", "parquet"] = Field(
        "auto",
        description="File format; auto goes by the file's name (a .gz, .zst, .bz2 or .xz ending is looked through).",
    )
    field: str = Field("text", description="The jsonl field, csv/tsv column or parquet column that holds the text.")
    documents: Literal["auto", "file", "blank-line", "line"] = Field(
        "auto",
        description="What is one document in a txt file: the whole file, what stands between blank lines, or a line; "
        "auto decides per file and says so.",
    )
    encoding: str = Field(
        "auto",
        description="Text encoding; auto tries UTF-8 strictly, then cp949 (Korean); others (latin-1) only by name.",
    )
    quoting: Literal["auto", "none"] = Field(
        "auto",
        description="Whether quotes enclose fields in csv/tsv; auto: in csv always, in tsv when they balance.",
    )
    sentences: Literal["auto", "rules", "line", "kiwi"] = Field(
        "auto",
        description="How sentences are found: rules for English and Korean, one a line, or kiwi (Korean, extra 'ko'); "
        "auto keeps lines that already are single sentences and splits the others by the rules.",
    )
    keep_duplicates: bool = Field(False, description="Keep documents that repeat an earlier one exactly.")
    engine: Literal["local", "ray"] = Field(
        "local",
        description="Who does the work: this machine, or a Ray cluster (extra 'cluster'), file by file. All machines "
        "of it must find the corpus under the same paths (a shared file system) or URLs, and have this version of "
        "Bertsmith.",
    )
    address: str | None = Field(
        None,
        description="The Ray cluster, as host:port or ray://host:port; by default RAY_ADDRESS, or one that is started "
        "here for this run.",
    )

    @model_validator(mode="after")
    def _address_of_a_cluster(self) -> Self:
        if self.address is not None and self.engine != "ray":
            raise ValueError(f"address {self.address!r} is of a Ray cluster: it needs engine ray")
        return self


class VocabularySettings(CorpusSettings):
    """``bertsmith vocab``: learn a WordPiece vocabulary."""

    corpus: list[AnyPath] = argument("Files, folders or glob patterns of text, or URLs of these.", min_length=1)
    output: Path = output("The directory to write the vocabulary to.")
    size: int = Field(8000, ge=10, description="Entries in the vocabulary, special tokens included.")
    lowercase: bool = Field(False, description="Lower-case the text; never decomposes Hangul.")
    coverage: float = Field(
        0.9999, gt=0, le=1, description="Share of the text's characters that the alphabet must cover."
    )
    min_frequency: int = Field(2, ge=1, description="A pair of pieces seen less often is not merged.")
    max_words: int = Field(
        4_000_000,
        ge=1000,
        description="Distinct words counted at a time; rare ones are dropped beyond it, and it is said.",
    )
    held_out: float = Field(
        0.02, ge=0, lt=0.5, description="Share of documents kept for the report and not learned from."
    )


class PrepareSettings(CorpusSettings):
    """``bertsmith prepare``: turn text into a token store."""

    corpus: list[AnyPath] = argument("Files, folders or glob patterns of text, or URLs of these.", min_length=1)
    vocab: Path = Field(description="A vocabulary directory (or a vocab.txt) to tokenise with.")
    output: Path = output("The directory to write the token store to.")
    lowercase: bool | None = Field(
        None, description="Lower-casing for a bare vocab.txt, which does not say; otherwise leave it out."
    )
    repeated_lines: int | None = Field(
        None,
        ge=1,
        description="Leave out every line that stands in the corpus more often than this: menus, notices, footers. "
        "Counted over all documents but exact copies; by default lines are kept.",
    )
    near_duplicates: float | None = Field(
        None,
        ge=0.5,
        le=0.95,
        description="Drop a document that is so similar to an earlier one that is kept: the share of five-character "
        "pieces that they have in common, by MinHash (extra 'dedup'). 0.8 is usual; by default they are kept.",
    )
    shard_tokens: int = Field(20_000_000, ge=1000, description="Tokens in a shard file, roughly.")
    workers: int = Field(
        0,
        ge=0,
        description="Processes of this machine; 0 takes what its quota of CPUs allows. A Ray cluster has its own.",
    )


SIZES: dict[str, tuple[int, int, int]] = {
    "tiny": (2, 128, 2),
    "mini": (4, 256, 4),
    "small": (4, 512, 8),
    "medium": (8, 512, 8),
    "base": (12, 768, 12),
    "large": (24, 1024, 16),
}
"""Layers, hidden size and attention heads of the named sizes (Devlin et al. 2019, section 3; Turc et al. 2019)."""


class ModelConfig(Configuration):
    """The encoder's numbers, as in config.json. Defaults are the paper's."""

    vocab_size: int = Field(ge=6, description="Entries in the vocabulary.")
    num_hidden_layers: int = Field(12, ge=1, description="Transformer layers (L).")
    hidden_size: int = Field(768, ge=1, description="Width (H).")
    num_attention_heads: int = Field(12, ge=1, description="Attention heads (A).")
    intermediate_size: int = Field(3072, ge=1, description="Width of the feed-forward layer; 4H in the paper.")
    max_position_embeddings: int = Field(512, ge=2, description="Longest sequence that positions exist for.")
    type_vocab_size: int = Field(2, ge=1, description="Number of segments.")
    hidden_act: Literal["gelu", "gelu_new", "relu"] = Field(
        "gelu", description="Activation; gelu is the exact one, by erf."
    )
    hidden_dropout_prob: float = Field(0.1, ge=0, lt=1, description="Dropout after embeddings and sub-layers.")
    attention_probs_dropout_prob: float = Field(0.1, ge=0, lt=1, description="Dropout on attention weights.")
    layer_norm_eps: float = Field(1e-12, gt=0, description="Added to the variance in layer normalisation.")
    initializer_range: float = Field(0.02, gt=0, description="Standard deviation of the initial weights.")
    is_decoder: bool = Field(
        False, description="Each token sees itself and those before it only, as in GPT; BERT's tokens see all."
    )
    bilstm: bool = Field(
        False, description="A bidirectional LSTM on the last layer, as section 5.1 puts on a left-to-right model."
    )
    pad_token_id: int = Field(0, ge=0, description="The padding token; never enters the encoder here.")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        if self.bilstm and self.hidden_size % 2:
            raise ValueError(f"hidden_size {self.hidden_size} is odd; a bidirectional LSTM takes half of it each way")
        return self


class OptimizerSettings(Configuration):
    """AdamW with warm-up and linear decay, as in the paper's appendix A.2."""

    warmup: float = Field(0.1, ge=0, lt=1, description="Share of the steps over which the learning rate rises from 0.")
    weight_decay: float = Field(0.01, ge=0, description="Decoupled weight decay; not on biases and layer norms.")
    adam_beta2: float = Field(0.999, gt=0, lt=1, description="Decay of AdamW's second moment.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are scaled down to this global norm.")
    spike: float | None = Field(
        None, gt=1, description="A loss above so many times the median of the last 100 steps makes a step a bad one."
    )
    when_full: Literal["stop", "wait"] = Field(
        "stop", description="What a run does on a full disk: stop with what was written before, or wait for room."
    )
    devices: int = Field(
        1, ge=1, description="Processes to train with on this machine; one a GPU, or the CPUs shared among them."
    )
    sharding: Literal["none", "fsdp"] = Field(
        "none",
        description="fsdp: each process keeps a part of the weights and moments, for models that one device cannot "
        "hold; none: each keeps all.",
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Arithmetic of the matrix products; auto times float32 and bfloat16 for a moment and takes the "
        "faster. float16, with its loss scaled, is for old GPUs.",
    )
    compile: bool = Field(
        False, description="Compile what follows attention in each layer by torch.compile; the first steps take longer."
    )
    device: str = Field("auto", description="cpu, cuda, cuda:1 or mps; auto takes a GPU where there is one.")
    threads: int = Field(0, ge=0, description="CPU threads; 0 takes what the machine's quota allows.")
    seed: int = Field(0, ge=0, description="Everything random follows from it.")
    quiet: bool = Field(False, description="Say nothing but warnings and the result.")
    watch: bool = Field(False, description="Show the curves as they grow on a page of this machine; 'bertsmith watch'.")
    tensorboard: bool = Field(
        False, description="Also write what TensorBoard reads, in OUTPUT/tensorboard (extra 'tensorboard')."
    )


PAPER_MASK_SHARE = 0.15
"""Share of the tokens that are chosen (section 3.1)."""

_PAPER = {
    "dropout": 0.1,
    "initial_bias": "zero",
    "initial_embeddings": "random",
    "initial_layers": "random",
    "batch_size": 256,
    "learning_rate": 1e-4,
    "warmup": 0.01,
}
"""What Devlin et al. 2019 set in appendix A.2, where it differs from the defaults here."""


class PretrainSettings(OptimizerSettings, RemoteSettings):
    """``bertsmith pretrain``: masked language model and next-sentence prediction together."""

    store: AnyPath = argument("A token store made by 'bertsmith prepare', also by URL.")
    output: Path = output("The run's directory.")
    size: Literal["tiny", "mini", "small", "medium", "base", "large", "auto"] = Field(
        "mini",
        description="Layers x width: tiny 2x128, mini 4x256, small 4x512, medium 8x512, base 12x768, large 24x1024; "
        "auto: of tiny to medium the one that learns most in the budget, by its speed here and the length of the text.",
    )
    layers: int | None = Field(None, ge=1, description="Own number of layers, instead of the size's.")
    hidden_size: int | None = Field(None, ge=1, description="Own width, instead of the size's.")
    heads: int | None = Field(None, ge=1, description="Own number of attention heads, instead of the size's.")
    max_positions: int = Field(
        512, ge=8, description="Positions that the model can ever use; fine-tuning may use them all."
    )
    max_length: int = Field(128, ge=8, description="Longest training sequence in tokens.")
    short_probability: float = Field(
        0.1, ge=0, le=1, description="Share of instances aimed at a random shorter length."
    )
    masking: Literal["token", "word"] = Field(
        "token", description="Mask single tokens, or all tokens of a word together."
    )
    mask_share: float = Field(
        PAPER_MASK_SHARE,
        gt=0,
        lt=1,
        description="Share of a sequence's tokens that are to be predicted; evaluations have the paper's 0.15.",
    )
    mask_mix: str = Field(
        "80/10/10",
        description="Percent of these that are replaced by [MASK], kept, and replaced by a random token.",
    )
    direction: Literal["both", "left-to-right"] = Field(
        "both",
        description="What a token sees; left-to-right: those before it, and every next token is predicted, as in GPT.",
    )
    next_sentence: bool = Field(True, description="Train next-sentence prediction beside the masked language model.")
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Dropout on hidden states and attention weights; the paper's is 0.1, for text that is seen often.",
    )
    initial_bias: Literal["unigram", "zero"] = Field(
        "unigram",
        description="Start of the vocabulary's bias; unigram: log frequencies, which a run otherwise learns first.",
    )
    initial_embeddings: Literal["cooccurrence", "random"] = Field(
        "cooccurrence",
        description="Start of the token embeddings; cooccurrence: tokens with like neighbours start alike.",
    )
    initial_layers: Literal["neighbours", "random"] = Field(
        "neighbours",
        description="Start of attention and output layer; neighbours: a token is predicted by those around it.",
    )
    spike: float | None = Field(
        2.0, gt=1, description="A loss above so many times the median of the last 100 steps makes a step a bad one."
    )
    bad_steps: Literal["skip", "rollback", "stop"] = Field(
        "skip",
        description="What is done about a step whose loss or gradient is no number, or whose loss jumps: leave it out, "
        "go back to the last checkpoint and leave out all since then, or stop.",
    )
    recipe: Literal["fast", "paper"] = Field(
        "fast",
        description="Values of what is not given: fast learns most in minutes on few cores; paper restores Devlin et "
        "al.'s dropout 0.1, random start, batches of 256, learning rate 1e-4 and 1 % warm-up.",
    )
    shuffle_shards: int | None = Field(
        None,
        ge=1,
        description="Shuffle the text of so many shards at a time, in a random order of shards; by default all of it "
        "together. For a store behind a URL that is larger than the cache.",
    )
    batch_size: int = Field(16, ge=1, description="Sequences in a step.")
    micro_batch_size: int | None = Field(
        None, ge=1, description="Sequences held in memory at a time; the step's gradient is their sum."
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="Peak learning rate; by default 0.256 / width, 2e-3 at most: 1e-3 for mini, 5e-4 for small.",
    )
    steps: int | None = Field(None, ge=1, description="Train for this many steps.")
    epochs: float | None = Field(None, gt=0, description="Train for this many passes over the store.")
    budget: Duration | None = Field(
        None,
        description="Train for this long (90s, 30m, 1.5h); the schedule is fitted to end on time, or with max_epochs.",
    )
    max_epochs: float = Field(
        20.0,
        gt=0,
        description="A budget ends after so many passes over the store, whatever time is left: more of them teach a "
        "model little but the text by heart.",
    )
    held_out: float = Field(
        0.01, gt=0, lt=0.5, description="Share of documents that are evaluated on and never trained on."
    )
    eval_every: int | None = Field(None, ge=1, description="Steps between evaluations; by default about 20 in a run.")
    eval_instances: int = Field(400, ge=1, description="Held-out instances in an evaluation, with fixed masks.")
    checkpoint_every: int = Field(500, ge=1, description="Steps between checkpoints.")
    resume: bool = Field(False, description="Go on from the last checkpoint in the output directory.")

    @model_validator(mode="before")
    @classmethod
    def _follow_recipe(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("recipe") == "paper":
            # A rate that is left open is not given.
            given = {name: value for name, value in values.items() if (name, value) != ("learning_rate", None)}
            return {**_PAPER, **given}
        return values

    @field_validator("mask_mix")
    @classmethod
    def _shares(cls, value: str) -> str:
        parts = value.split("/")
        if (
            len(parts) != 3
            or not all(part.isascii() and part.isdigit() for part in parts)
            or sum(map(int, parts)) != 100
        ):
            raise ValueError(f"{value!r} is not three percentages that add up to 100, as in 80/10/10")
        return value

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if sum(v is not None for v in (self.steps, self.epochs, self.budget)) > 1:
            raise ValueError("give one of steps, epochs and budget")
        if self.size == "auto" and self.budget is None:
            raise ValueError("size auto fits the model to the time there is: it needs a budget, such as 20m")
        if self.size == "auto" and (self.layers or self.hidden_size or self.heads):
            raise ValueError("size auto chooses layers, hidden_size and heads; leave these out, or the size")
        if self.size == "auto" and self.sharding == "fsdp":
            raise ValueError("size auto is for models that one device holds: it does not go with sharding fsdp")
        if self.max_length > self.max_positions:
            raise ValueError(
                f"max_length {self.max_length} is above the model's positions (max_positions {self.max_positions})"
            )
        return self
