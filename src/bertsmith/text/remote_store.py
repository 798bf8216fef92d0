"""A token store behind a URL: shards are fetched whole when their ids are first needed, into a cache of bounded size.

What says where documents and sentences begin, a tenth of a shard, is kept apart from its ids: from it alone steps are
planned. Shards that make room for others are fetched again when they are needed again. Several processes of a machine
share what was fetched; a shard that this one has open stays readable, and is let go at the next fetch.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from bertsmith import files
from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.file_cache import FileCache
from bertsmith.locations import Location, Url
from bertsmith.remote import RemoteFile, read_remote
from bertsmith.text.shards import Shard, parse_shard
from bertsmith.text.store import TOKEN_COUNTS, TOKENIZER, TokenStore, read_manifest, read_token_counts
from bertsmith.text.tokenizer import Tokenizer

_TOUCH_SECONDS = 30.0
_TRIES = 3


def open_store(location: Location, cache: FileCache, log: Log, check: bool = True) -> TokenStore:
    """Open a store on this machine, or behind a URL.

    Args:
        location: the directory.
        cache: where shards behind a URL are kept.
        log: told what is fetched.
        check: as for :meth:`TokenStore.open`; what is fetched is checked as it is used, whatever this says.

    Raises:
        InputError: this is not a token store, a file of it is damaged or cannot be fetched.
    """
    if isinstance(location, Path):
        return TokenStore.open(location, check)
    return open_remote_store(location, cache, log)


def open_together(
    location: Location, cache: FileCache, log: Log, *, checks: bool, any_of_all: Callable[[bool], bool]
) -> TokenStore:
    """Open a store in each process of a run: those that check it read the whole of it, and the others wait for them.

    Args:
        location: the directory.
        cache: as for :func:`open_store`.
        log: as there.
        checks: whether this process is one that does: one a machine, as machines may hold different copies.
        any_of_all: tells whether a flag is set in any process. Every process asks, once.

    Raises:
        InputError: as for :func:`open_store`, and in every process if one that checks has met it.
    """
    store, refused = None, None
    if checks:
        try:
            store = open_store(location, cache, log)
        except InputError as error:
            refused = error
    if any_of_all(refused is not None):
        raise refused or InputError("another process of this run cannot use it; its message says why", path=location)
    # Not before: half of what is damaged may end in a traceback.
    return store or open_store(location, cache, log, check=False)


def open_remote_store(url: Url, cache: FileCache, log: Log = Log(mute=True)) -> TokenStore:  # noqa: B008
    """Open a store behind a URL. The first time on a machine each of its shards is fetched once, for its index."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        sums = _checksums(url, directory)
        for name, expected in sums.items():
            if name.endswith(".arrow"):
                continue
            content = read_remote(url / name, what="a part of the token store")
            if hashlib.sha256(content).hexdigest() != expected:
                raise InputError("does not match its checksum: the token store was changed", path=url / name)
            files.write_bytes(directory / name, content)
        try:
            manifest = read_manifest(directory)
            tokenizer = Tokenizer.load(directory / TOKENIZER)
            counts = read_token_counts(directory / TOKEN_COUNTS, manifest["vocab_size"])
        except InputError as error:
            raise InputError(error.message, path=url) from None
    held = _OpenShards(cache)
    total = sum(shard["bytes"] for shard in manifest["shards"])
    shards = []
    with log.progress("fetching", total / 1e6, "MB") as advance:
        for entry in manifest["shards"]:
            if sums.get(entry["file"]) != entry["sha256"]:
                raise InputError("has another checksum in the manifest", path=url / entry["file"])
            file = RemoteFile(url / entry["file"], entry["bytes"], entry["sha256"], cache, entry["sha256"])
            shards.append(RemoteShard(file, _index(file, entry), held))
            advance(entry["bytes"] / 1e6)
    return TokenStore(url, manifest, tokenizer, counts, shards, partial(open_remote_store, url, cache))


def _checksums(url: Url, directory: Path) -> dict[str, str]:
    """Return the checksums of a store's files, having put their own file into a directory here.

    Raises:
        InputError: there are none, or they were changed.
    """
    content = read_remote(url / files.CHECKSUMS, what="the checksums of a token store made by 'bertsmith prepare'")
    files.write_bytes(directory / files.CHECKSUMS, content)
    try:
        # Of themselves alone: a flipped bit of theirs would blame another file.
        files.check_directory(directory, what="the token store", only=lambda name: False)
    except InputError as error:
        raise InputError(error.message, path=url / files.CHECKSUMS) from None
    sums: dict[str, str] = json.loads(content)
    sums.pop(files.CHECKSUMS, None)
    return sums


def _index(file: RemoteFile, entry: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return where a shard's documents and sentences begin, from a small file of the cache; see :class:`Shard`."""
    documents, sentences = int(entry["documents"]), int(entry["sentences"])
    layout: dict[str, tuple[np.dtype[Any], int]] = {
        "lines": (np.dtype(np.int64), documents),
        "sentence_starts": (np.dtype(np.int32), documents + 1),
        "token_starts": (np.dtype(np.int32), sentences + 1),
        "sources": (np.dtype(np.int32), documents),
    }
    size = sum(dtype.itemsize * length for dtype, length in layout.values())

    def derive(target: IO[bytes]) -> None:
        shard = _checked(file)
        content = b"".join(getattr(shard, name).astype(dtype).tobytes() for name, (dtype, _) in layout.items())
        target.write(content + hashlib.sha256(content).digest())

    key = f"{file.key}.index"
    for _ in range(_TRIES):
        with file.cache.open(key, size + hashlib.sha256().digest_size, derive, file.url) as opened:
            content = memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
        if hashlib.sha256(content[:size]).digest() == content[size:]:
            arrays, at = {}, 0
            for name, (dtype, length) in layout.items():
                arrays[name] = np.frombuffer(content, dtype, length, at)
                at += dtype.itemsize * length
            return arrays
        file.cache.remove(key)
    raise InputError("its copy in the cache is damaged each time that it is written", path=file.cache.directory / key)


def _checked(file: RemoteFile) -> Shard:
    """Return the views into a shard's copy; one that was damaged in the cache is fetched again."""
    for _ in range(_TRIES):
        opened = file.open()
        if hashlib.file_digest(opened, "sha256").hexdigest() == file.sha256:
            return parse_shard(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ), file)
        file.cache.remove(file.key)
    raise InputError("its copy in the cache is damaged each time that it is written", path=file)


class _OpenShards:
    """The shards that this process has open. Threads may ask together."""

    def __init__(self, cache: FileCache) -> None:
        self._cache = cache
        self._open: dict[str, tuple[np.ndarray, float]] = {}
        self._lock = threading.Lock()

    def ids(self, file: RemoteFile) -> np.ndarray:
        """Return a shard's ids, (T,) uint16 or uint32."""
        with self._lock:
            ids, used = self._open.get(file.key, (None, 0.0))
            now = time.monotonic()
            if ids is None:
                # The space of what others have removed comes free only now.
                self._open = {key: held for key, held in self._open.items() if self._cache.holds(key)}
                ids = _checked(file).token_ids
            elif now - used < _TOUCH_SECONDS:
                return ids
            else:
                self._cache.touch(file.key)
            self._open[file.key] = (ids, now)
            return ids


@dataclass(frozen=True)
class RemoteShard:
    """A shard behind a URL: what :class:`bertsmith.text.shards.Shard` has, the ids being fetched on demand."""

    file: RemoteFile
    index: dict[str, np.ndarray]
    held: _OpenShards

    @property
    def sentence_starts(self) -> np.ndarray:
        """(D + 1,) int32."""
        return self.index["sentence_starts"]

    @property
    def token_starts(self) -> np.ndarray:
        """(S + 1,) int32."""
        return self.index["token_starts"]

    @property
    def token_ids(self) -> np.ndarray:
        """(T,) uint16 or uint32."""
        return self.held.ids(self.file)

    @property
    def sources(self) -> np.ndarray:
        """(D,) int32."""
        return self.index["sources"]

    @property
    def lines(self) -> np.ndarray:
        """(D,) int64."""
        return self.index["lines"]
