"""Model directories in the transformers layout: configuration, safetensors, tokenizer.

A model directory holds config.json, model.safetensors and the tokenizer's files, with checksums. What
Bertsmith adds (task, columns, length) stands under the key ``bertsmith`` of config.json, where transformers
leaves it alone. Weights are read from safetensors only; a pickle has to be converted first (convert.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bertsmith import files
from bertsmith.config import ModelConfig
from bertsmith.errors import InputError
from bertsmith.model.bert import Bert
from bertsmith.model.heads import (
    MultipleChoiceModel,
    PretrainingModel,
    SequenceClassifier,
    SpanModel,
    TokenClassifier,
)
from bertsmith.model.hub import PREFIX, download, is_hub_name, looks_like_hub_name
from bertsmith.model.names import from_transformers, to_transformers

if TYPE_CHECKING:
    from bertsmith.text.tokenizer import Tokenizer

CONFIG = "config.json"
WEIGHTS = "model.safetensors"

ARCHITECTURES: dict[type[nn.Module], str] = {
    Bert: "BertModel",
    PretrainingModel: "BertForPreTraining",
    SequenceClassifier: "BertForSequenceClassification",
    MultipleChoiceModel: "BertForMultipleChoice",
    TokenClassifier: "BertForTokenClassification",
    SpanModel: "BertForQuestionAnswering",
}
# Without and with an LSTM on top.
_MODEL_TYPES = ("bert", "bertsmith_bilstm")
# Their outputs are not from the pooler, and transformers' classes have none.
WITHOUT_POOLER = (TokenClassifier, SpanModel)

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class ModelInfo:
    """What config.json says.

    Attributes:
        config: the encoder's numbers.
        labels: the task's label names in the order of the logits; empty without a task.
        extras: what Bertsmith wrote beside it: task, columns, max_length.
        architecture: transformers' class name, or an empty string.
        problem_type: transformers' word for what a model of sequences predicts, or an empty string.
    """

    config: ModelConfig
    labels: tuple[str, ...]
    extras: dict[str, Any]
    architecture: str
    problem_type: str


def model_directory(path: Path) -> Path:
    """Return the directory with config.json: ``path`` itself, or a finished or running run's model in it.

    ``hub:owner/name`` is fetched from the hub.

    Raises:
        InputError: there is no model.
    """
    if is_hub_name(path):
        return download(str(path))
    if not path.exists():
        name = f"{PREFIX}{path}"
        hint = f" (a model of the hub is named {name})" if looks_like_hub_name(path) else ""
        raise InputError(f"no such directory; expected a model or a run{hint}", path=path)
    if not path.is_dir():
        raise InputError("is a file; expected the directory of a model or a run", path=path)
    checkpoints = sorted((path / "checkpoints").glob("step-*"), reverse=True)
    for candidate in (path, path / "model", *checkpoints):
        if (candidate / CONFIG).is_file():
            return candidate
    raise InputError(f"holds no model: expected {CONFIG} and {WEIGHTS} here or in model/", path=path)


def read_info(directory: Path) -> ModelInfo:
    """Read a model's config.json.

    All files but those of tensors are compared with their checksums, where there are any; those are when they are read.

    Raises:
        InputError: the file is missing or damaged, is not of a BERT, or asks for what is not BERT's (relative
            positions, attention to another encoder, an untied vocabulary projection).
    """
    path = directory / CONFIG
    _check(directory, only=lambda name: not name.endswith(".safetensors"))
    values = files.read_json(path, what="the configuration of a BERT")
    if values.get("model_type") not in _MODEL_TYPES:
        raise InputError(f"model_type is {values.get('model_type')!r}; expected 'bert'", path=path)
    for name, expected in (
        ("position_embedding_type", "absolute"),
        ("add_cross_attention", False),
        ("tie_word_embeddings", True),
    ):
        if values.get(name, expected) != expected:
            raise InputError(f"{name} is {values[name]!r}; only {expected!r} is BERT", path=path)
    numbers = {name: values[name] for name in ModelConfig.model_fields if values.get(name) is not None}
    try:
        config = ModelConfig.parse(numbers)
    except InputError as error:
        raise InputError(str(error), path=path) from None
    id2label = values.get("id2label") or {}
    try:
        labels = tuple(str(id2label[key]) for key in sorted(id2label, key=int))
    except (AttributeError, TypeError, ValueError):
        raise InputError("id2label is not an object of numbers and names", path=path) from None
    return ModelInfo(
        config,
        labels,
        extras=dict(values.get("bertsmith") or {}),
        architecture=(values.get("architectures") or [""])[0],
        problem_type=values.get("problem_type") or "",
    )


def _check(directory: Path, only: Callable[[str], bool]) -> None:
    if (directory / files.CHECKSUMS).is_file():
        files.check_directory(directory, what="the model", only=only)


def write_model(
    model: nn.Module,
    directory: Path,
    tokenizer: Tokenizer,
    *,
    labels: tuple[str, ...] = (),
    extras: dict[str, Any] | None = None,
    problem_type: str | None = None,
) -> None:
    """Write config.json, model.safetensors and the tokenizer into an existing directory.

    Use inside :func:`bertsmith.files.new_directory`, which makes the whole atomic.
    """
    config: ModelConfig = model.config  # type: ignore[assignment]
    values: dict[str, Any] = {"architectures": [ARCHITECTURES[type(model)]], "model_type": _MODEL_TYPES[config.bilstm]}
    values |= config.model_dump() | {"tie_word_embeddings": True, "dtype": "float32"}
    if labels:
        values["id2label"] = {str(number): name for number, name in enumerate(labels)}
        values["label2id"] = {name: number for number, name in enumerate(labels)}
    if problem_type:
        values["problem_type"] = problem_type
    values["bertsmith"] = extras or {}
    tensors = {name: tensor.detach().cpu().float() for name, tensor in model.state_dict().items()}
    if isinstance(model, WITHOUT_POOLER):
        tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("bert.pooler.")}
    if isinstance(model, Bert):
        tensors = {f"bert.{name}": tensor for name, tensor in tensors.items()}
    save_file(to_transformers(tensors, config.num_hidden_layers), directory / WEIGHTS, metadata={"format": "pt"})
    files.write_json(directory / CONFIG, values)
    tokenizer.save(directory)


def save_model(
    model: nn.Module,
    directory: Path,
    tokenizer: Tokenizer,
    *,
    labels: tuple[str, ...] = (),
    extras: dict[str, Any] | None = None,
    problem_type: str | None = None,
) -> None:
    """Write a model directory at once: the one that stood there stays until the new one is whole."""
    with files.new_directory(directory) as temporary:
        write_model(model, temporary, tokenizer, labels=labels, extras=extras, problem_type=problem_type)


def read_tensors(directory: Path, config: ModelConfig) -> dict[str, Tensor]:
    """Read model.safetensors, or the shards of its index, under Bertsmith's names, in float32.

    Raises:
        InputError: there are no safetensors (a pickle is refused), a shard is missing, a file is damaged, or a tensor
            is not of a plain BERT.
    """
    path = directory / WEIGHTS
    paths = [path] if path.is_file() else shard_files(directory / f"{WEIGHTS}.index.json")
    if not paths:
        pickles = sorted(p.name for p in directory.iterdir() if p.suffix in (".bin", ".pt", ".pth", ".pkl", ".ckpt"))
        if pickles:
            raise InputError(
                f"only {', '.join(pickles)} here: a pickle can carry code and is not loaded. Expected {WEIGHTS}; if "
                f"you trust its source: bertsmith convert {directory} --from-pickle -o DIR",
                path=directory,
            )
        raise InputError("expected the weights here, in safetensors", path=path)
    _check(directory, only=lambda name: directory / name in paths)
    tensors: dict[str, Tensor] = {}
    for path in paths:
        try:
            tensors |= load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            hint = " (this is a pickle, which is not loaded)" if _is_pickle(path) else ""
            raise InputError(f"is not a whole safetensors file{hint}: {error}", path=path) from None
    return {
        name: tensor.float() for name, tensor in from_transformers(tensors, config.num_hidden_layers, directory).items()
    }


def shard_files(index: Path) -> list[Path]:
    """Return the files that an index of sharded weights names, each once; none if there is no index.

    Raises:
        InputError: the index is damaged, or a file is missing.
    """
    if not index.is_file():
        return []
    names = files.read_json(index, what="an index of weights").get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise InputError("has no weight_map of tensors and files; expected an index of weights", path=index)
    paths = [index.parent / Path(name).name for name in sorted(set(names.values()))]
    for path in paths:
        if not path.is_file():
            raise InputError("missing; the index of the weights names it", path=path)
    return paths


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(4)
    return start[:1] == b"\x80" or start == b"PK\x03\x04"


def fill_model(model: Model, tensors: dict[str, Tensor], directory: Path, *, fresh: tuple[str, ...] = ()) -> Model:
    """Copy tensors into a model.

    Args:
        model: what to fill; names as in its ``state_dict``.
        tensors: by Bertsmith's names; those that the model does not have are left out.
        directory: where they are from, for messages.
        fresh: prefixes of tensors that may be missing and then keep their random start.

    Raises:
        InputError: a tensor is missing or has another shape than the configuration says.
    """
    state = model.state_dict()
    for name, own in state.items():
        if name not in tensors:
            if name.startswith(fresh):
                continue
            raise InputError(
                f"has no weights for {name} (Bertsmith's name); is it the right kind of model?", path=directory
            )
        if tensors[name].shape != own.shape:
            seen, expected = tuple(tensors[name].shape), tuple(own.shape)
            raise InputError(f"{name} has shape {seen}, but {CONFIG} says {expected}", path=directory)
        own.copy_(tensors[name])
    return model


def load_tokenizer(directory: Path, config: ModelConfig) -> Tokenizer:
    """Load the tokenizer of a model directory.

    Raises:
        InputError: there is none, or it has ids that the model does not know.
    """
    from bertsmith.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(directory)
    if tokenizer.vocab_size > config.vocab_size:
        raise InputError(
            f"the tokenizer has {tokenizer.vocab_size:,} entries, but the model only {config.vocab_size:,}: they do "
            "not belong together",
            path=directory,
        )
    return tokenizer


def stored_heads(directory: Path, config: ModelConfig) -> tuple[str, ...]:
    """Return which pre-training heads a model directory holds: ``mlm.``, ``nsp.``, both or none.

    Raises:
        InputError: the weights cannot be read.
    """
    names = read_tensors(directory, config)
    return tuple(head for head in ("mlm.", "nsp.") if any(name.startswith(head) for name in names))


def load_encoder(path: Path) -> Bert:
    """Load the encoder of any BERT directory, in evaluation mode; a missing pooler starts random."""
    directory = model_directory(path)
    config = read_info(directory).config
    tensors = read_tensors(directory, config)
    encoder = {name.removeprefix("bert."): tensor for name, tensor in tensors.items() if name.startswith("bert.")}
    return fill_model(Bert(config), encoder, directory, fresh=("pooler.",)).eval()


def load_pretraining_model(path: Path, heads: tuple[str, ...] = ("mlm.", "nsp.")) -> PretrainingModel:
    """Load a model with the pre-training heads, in evaluation mode.

    Args:
        path: a run or a model directory.
        heads: those that it must have; many published models have one of them. Another one starts random.

    Raises:
        InputError: the directory lacks such a head (a fine-tuned model, a bare encoder).
    """
    directory = model_directory(path)
    config = read_info(directory).config
    tensors = read_tensors(directory, config)
    for prefix, head in (("mlm.", "masked-language-model"), ("nsp.", "next-sentence")):
        if prefix in heads and not any(name.startswith(prefix) for name in tensors):
            raise InputError(f"has no {head} head; expected a pre-training run", path=directory)
    # Next sentences are told from the pooler; without that head nobody looks at it.
    fresh = tuple({"mlm.", "nsp."} - set(heads)) + (() if "nsp." in heads else ("bert.pooler.",))
    return fill_model(PretrainingModel(config), tensors, directory, fresh=fresh).eval()


def load_tuned(model: Model, directory: Path, config: ModelConfig) -> Model:
    """Fill a model of a task from a directory, in evaluation mode.

    Raises:
        InputError: the directory holds another kind of model.
    """
    fresh = ("bert.pooler.",) if isinstance(model, WITHOUT_POOLER) else ()
    return fill_model(model, read_tensors(directory, config), directory, fresh=fresh).eval()
