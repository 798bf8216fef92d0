"""``bertsmith convert``: a published BERT whose weights are a pickle, to a model directory with safetensors.

A pickle can carry code. torch's ``weights_only`` reader refuses everything but tensors and plain containers; even so
this is the one place that opens a pickle, and only when the user says so.
"""

from __future__ import annotations

import pickle
import re
import shutil
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from bertsmith import files
from bertsmith.config import ConvertSettings
from bertsmith.console import Log, human
from bertsmith.errors import InputError
from bertsmith.model.heads import MultipleChoiceModel, PretrainingModel, SequenceClassifier, SpanModel, TokenClassifier
from bertsmith.model.hub import PREFIX, is_hub_name, looks_like_hub_name
from bertsmith.model.names import from_transformers, left_out, to_transformers
from bertsmith.model.weights import ARCHITECTURES, CONFIG, WEIGHTS, ModelInfo, fill_model, read_info, shard_files
from bertsmith.text.tokenizer import Tokenizer

PICKLE = "pytorch_model.bin"

_TUNED = tuple(ARCHITECTURES[kind] for kind in (SequenceClassifier, MultipleChoiceModel, TokenClassifier, SpanModel))

_COPIED = (
    CONFIG,
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


def convert(settings: ConvertSettings, log: Log | None = None) -> Path:
    """Write the model at ``settings.model`` as a directory with safetensors and return it.

    Encoder, pooler and known heads are kept, in float32; config.json and the tokenizer's files are copied.

    Raises:
        InputError: there is no pickle, ``from_pickle`` is not set, the pickle is damaged or holds more than tensors,
            the weights do not fit config.json, or the output is taken; nothing is written then.
    """
    log = log or Log()
    directory = settings.model
    _check_paths(directory, settings.output)
    info = read_info(directory)
    for name in (WEIGHTS, f"{WEIGHTS}.index.json"):
        if (directory / name).exists():
            raise InputError(f"holds {name} already; it can be used as it is", path=directory)
    paths = _pickles(directory)
    if not settings.from_pickle:
        raise InputError(
            f"{paths[0].name} is a pickle, a format that can carry code. --from-pickle reads it with torch's "
            "weights_only reader, which refuses code; give it if you trust where the file is from",
            path=directory,
        )
    log.warn(f"reading {len(paths)} pickle file(s) with torch's weights_only reader: only for files that you trust")
    raw: dict[str, Tensor] = {}
    for path in paths:
        raw |= _read(path)
    layers = info.config.num_hidden_layers
    tensors = {name: tensor.float() for name, tensor in from_transformers(raw, layers, directory).items()}
    _check_shapes(tensors, info, directory)
    Tokenizer.load(directory)
    unknown = left_out(raw, layers)
    if unknown:
        log.warn(f"{len(unknown)} tensor(s) that are not of a BERT are left out: {', '.join(unknown[:3])}")
    with files.new_directory(settings.output) as temporary:
        for name in _COPIED:
            if (directory / name).is_file():
                shutil.copyfile(directory / name, temporary / name)
        save_file(_apart(to_transformers(tensors, layers)), temporary / WEIGHTS, metadata={"format": "pt"})
    size = sum(tensor.nbytes for tensor in tensors.values())
    log.say(f"{len(tensors)} tensors, {human(size)}B: {settings.output}")
    if info.architecture in _TUNED:
        log.say(f"next: bertsmith predict {settings.output} --input FILE -o predictions.jsonl")
    else:
        log.say(f"next: bertsmith finetune classify {settings.output} --train F --dev F -o DIR")
    return settings.output


def _check_paths(directory: Path, output: Path) -> None:
    """Check that there is a directory to read and none to overwrite.

    Raises:
        InputError: a name of the hub or something else was given, or the output is taken.
    """
    expected = f"expected a directory with {CONFIG} and pickled weights"
    if is_hub_name(directory):
        raise InputError(f"{directory}: {expected}; download the model's files first, {PICKLE} among them")
    if not directory.is_dir():
        if directory.exists():
            raise InputError(f"is a file; {expected}", path=directory)
        hint = f" (a model of the hub with safetensors needs no conversion: {PREFIX}{directory})"
        hint = hint if looks_like_hub_name(directory) else ""
        raise InputError(f"no such directory{hint}; {expected}", path=directory)
    if output.exists() and not output.is_dir():
        raise InputError("is a file; expected a new directory", path=output)
    if output.exists() and any(output.iterdir()):
        raise InputError("exists and is not empty; choose another output", path=output)


def _check_shapes(tensors: dict[str, Tensor], info: ModelInfo, directory: Path) -> None:
    """Check that the encoder is whole, and that it and all heads have the shapes that config.json says.

    Raises:
        InputError: they do not.
    """
    scores = tensors.get("classifier.bias")
    rows = 1 if scores is None else scores.numel()
    if info.architecture in (ARCHITECTURES[SequenceClassifier], ARCHITECTURES[TokenClassifier]):
        # Two labels are what transformers takes for granted.
        rows = len(info.labels) or 2
    # Shapes are all that is needed: nothing is computed or stored.
    with torch.device("meta"):
        one = info.architecture == ARCHITECTURES[MultipleChoiceModel]
        classifier = MultipleChoiceModel(info.config) if one else SequenceClassifier(info.config, rows)
        models = (PretrainingModel(info.config), SpanModel(info.config), classifier)
    for model in models:
        fill_model(model, tensors, directory, fresh=("bert.pooler.", "mlm.", "nsp.", "span.", "classifier."))


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors that lie in the same place as another: safetensors writes each place once."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        apart[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return apart


def _pickles(directory: Path) -> list[Path]:
    """Return the files with the weights: one, or the shards of an index.

    Raises:
        InputError: there are none, several that could be meant, or a shard is missing.
    """
    shards = shard_files(directory / f"{PICKLE}.index.json")
    if shards:
        return shards
    found = [directory / PICKLE] if (directory / PICKLE).is_file() else sorted(directory.glob("*.bin"))
    if len(found) != 1:
        seen = ", ".join(path.name for path in found) or "none"
        raise InputError(f"expected one pickle of weights, {PICKLE}; found {seen}", path=directory)
    return found


def _read(path: Path) -> dict[str, Tensor]:
    """Return a pickle's tensors by transformers' names, still on disk where its format allows that.

    Raises:
        InputError: it is damaged, or holds something else.
    """
    try:
        # torch does not look at the checksums of its own files.
        in_parts = zipfile.is_zipfile(path)
        damaged = zipfile.ZipFile(path).testzip() if in_parts else None
        values = None if damaged else torch.load(str(path), map_location="cpu", weights_only=True, mmap=in_parts)
    except pickle.UnpicklingError as error:
        # torch's own message goes on with ways to load it all the same.
        code = re.search(r"GLOBAL (\S+)", str(error))
        seen = f"code or objects ({code[1]}) beside tensors" if code else "something else than tensors, or is damaged,"
        raise InputError(f"holds {seen} and was not loaded", path=path) from None
    except Exception as error:
        # Damaged bytes make the readers fail in any way there is.
        reason = next(iter(str(error).splitlines()), "")[:200] or type(error).__name__
        raise InputError(f"is not a whole pickle of weights: {reason}", path=path) from None
    if damaged:
        raise InputError(f"is not a whole pickle of weights: {damaged} in it does not match its checksum", path=path)
    if isinstance(values, dict) and isinstance(values.get("state_dict"), dict):
        values = values["state_dict"]
    if not isinstance(values, dict) or not values or not all(isinstance(value, Tensor) for value in values.values()):
        raise InputError("holds no tensors by name; expected the weights of a model", path=path)
    return {str(name): value for name, value in values.items()}
