"""``bertsmith convert``: a published BERT whose weights are a pickle, to a model directory with safetensors.

A pickle can carry code. torch's ``weights_only`` reader refuses everything but tensors and plain containers; even so
this is the one place that opens a pickle, and only when the user says so.
"""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from bertsmith import files
from bertsmith.config import ConvertSettings
from bertsmith.console import Log, human
from bertsmith.errors import InputError
from bertsmith.model.bert import Bert
from bertsmith.model.weights import (
    CONFIG,
    WEIGHTS,
    fill_model,
    from_transformers,
    left_out,
    read_info,
    shard_files,
    to_transformers,
)
from bertsmith.text.tokenizer import Tokenizer

PICKLE = "pytorch_model.bin"

_COPIED = (CONFIG, "vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def convert(settings: ConvertSettings, log: Log | None = None) -> Path:
    """Write the model at ``settings.model`` as a directory with safetensors and return it.

    Encoder, pooler and known heads are kept, in float32; config.json and the tokenizer's files are copied.

    Raises:
        InputError: there is no pickle, ``from_pickle`` is not set, the pickle is damaged or holds more than tensors,
            the weights do not fit config.json, or the output is taken; nothing is written then.
    """
    log = log or Log()
    directory = settings.model
    if not directory.is_dir():
        seen = "is a file" if directory.exists() else "no such directory"
        raise InputError(f"{seen}; expected a directory with config.json and pickled weights", path=directory)
    if settings.output.exists() and (not settings.output.is_dir() or any(settings.output.iterdir())):
        raise InputError("exists and is not empty; choose another output", path=settings.output)
    info = read_info(directory)
    if (directory / WEIGHTS).exists():
        raise InputError(f"holds {WEIGHTS} already; it can be used as it is", path=directory)
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
    tensors = {name: tensor.float() for name, tensor in from_transformers(raw, layers).items()}
    encoder = {name.removeprefix("bert."): tensor for name, tensor in tensors.items() if name.startswith("bert.")}
    fill_model(Bert(info.config), encoder, directory, fresh=("pooler.",))
    Tokenizer.load(directory)
    unknown = left_out(raw, layers)
    if unknown:
        log.warn(f"{len(unknown)} tensor(s) that are not of a BERT are left out: {', '.join(unknown[:3])}")
    with files.new_directory(settings.output) as temporary:
        for name in _COPIED:
            if (directory / name).is_file():
                shutil.copyfile(directory / name, temporary / name)
        save_file(to_transformers(tensors, layers), temporary / WEIGHTS, metadata={"format": "pt"})
    size = sum(tensor.nbytes for tensor in tensors.values())
    log.say(f"{len(tensors)} tensors, {human(size)}B: {settings.output}")
    log.say(f"next: bertsmith finetune classify {settings.output} --train F --dev F -o DIR")
    return settings.output


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
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = next(iter(str(error).splitlines()), "")
        raise InputError(
            f"holds something else than tensors, or is damaged, and was not loaded: {reason}", path=path
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise InputError(f"is not a whole pickle of weights: {error}", path=path) from None
    if isinstance(values, dict) and isinstance(values.get("state_dict"), dict):
        values = values["state_dict"]
    if not isinstance(values, dict) or not values or not all(isinstance(value, Tensor) for value in values.values()):
        raise InputError("holds no tensors by name; expected the weights of a model", path=path)
    return {str(name): value for name, value in values.items()}
