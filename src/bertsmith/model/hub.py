"""Models of the hub, by names such as ``hub:owner/name`` or ``hub:owner/name@revision``; only when so asked."""

from __future__ import annotations

import re
from pathlib import Path

from bertsmith.errors import InputError

PREFIX = "hub:"

# What a model directory needs of a repository; no pickles.
_FILES = (
    "config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)


def is_hub_name(path: Path | str) -> bool:
    """Return whether a model of the hub is meant; a mistyped path never is."""
    return str(path).startswith(PREFIX)


def looks_like_hub_name(path: Path) -> bool:
    """Return whether a path that does not exist may be meant as a model of the hub."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", str(path)) is not None


def download(name: str) -> Path:
    """Return the directory of a model of the hub; what is there already is not fetched again.

    Args:
        name: ``hub:owner/name``, with ``@revision`` at the end for another one than the newest.

    Raises:
        InputError: huggingface_hub is not installed, the model cannot be had, or it has no safetensors.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise InputError(f"{name}: models of the hub need huggingface_hub: pip install 'bertsmith[hub]'") from None
    repository, _, revision = name.removeprefix(PREFIX).partition("@")
    try:
        directory = Path(snapshot_download(repository, revision=revision or None, allow_patterns=list(_FILES)))
    except Exception as error:
        # The library raises its own kinds, the network's and the disk's; the user needs one answer to all of them.
        raise InputError(f"{name}: cannot be had from the hub: {_first_line(error)}") from None
    if not any(directory.glob("*.safetensors")):
        raise InputError(
            f"{name}: publishes no safetensors. Download its files and convert them: "
            "bertsmith convert DIRECTORY --from-pickle -o DIR"
        )
    return directory


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
