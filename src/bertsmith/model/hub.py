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


def pinned(path: Path, directory: Path) -> Path:
    """Return a name of the hub with the revision that was fetched, for a run that goes on later; others as they are.

    Args:
        path: the model as it was given.
        directory: where its files are; the hub's library names it by the commit.
    """
    if not is_hub_name(path) or not re.fullmatch(r"[0-9a-f]{40}", directory.name):
        return path
    return Path(f"{str(path).partition('@')[0]}@{directory.name}")


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
        raise InputError(f"{name}: {_reason(error, revision)}") from None
    if not any(directory.glob("*.safetensors")):
        raise InputError(
            f"{name}: publishes no safetensors. Download its files and convert them: "
            "bertsmith convert DIRECTORY --from-pickle -o DIR"
        )
    return directory


def _reason(error: Exception, revision: str) -> str:
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # A gated repository counts as one that was not found, so it is asked for first.
    if isinstance(error, GatedRepoError):
        return "is gated: accept its terms on its page of the hub, then give your access token (HF_TOKEN)"
    if isinstance(error, RepositoryNotFoundError):
        return "the hub has no such model, or it is private and needs your access token (HF_TOKEN)"
    if isinstance(error, RevisionNotFoundError):
        return f"the model has no revision {revision!r}"
    if isinstance(error, LocalEntryNotFoundError):
        cause = _first_line(error.__cause__ or error)
        return f"the hub cannot be reached, and there is no earlier download: {cause}"
    return f"cannot be had from the hub: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
