"""TokenStore: documents > sentences > token ids in memory-mapped Arrow files.

A store is a directory::

    manifest.json        counts, fingerprint of the tokenizer, sources, shards
    shard-00000.arrow    documents, as shards.py lays them out
    token_counts.npy     (V,) int64, how often each token occurs
    tokenizer/           the vocabulary that made the ids
    config.yaml          the settings that it was made with
    checksums.json       SHA-256 of every file above
"""

from __future__ import annotations

import mmap
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bertsmith import files
from bertsmith.errors import InputError
from bertsmith.locations import Location
from bertsmith.text.shards import AnyShard, Shard, offsets, read_shard
from bertsmith.text.tokenizer import Tokenizer

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
TOKEN_COUNTS = "token_counts.npy"
TOKENIZER = "tokenizer"
CONFIG = "config.yaml"

# After so many look-ups the pages of mapped shards are let go of: resident memory does not grow with the store.
_LOOK_UPS = 512

_WHAT = "a token store made by 'bertsmith prepare'"


class TokenStore:
    """A corpus as token ids, read from memory-mapped files. Threads may read it together; it can be pickled.

    The files' pages are let go of as it is read, so resident memory does not grow with the store.

    Attributes:
        path: the directory, or its URL.
        manifest: what manifest.json holds.
        tokenizer: the one that made the ids.
        token_counts: (V,) int64, how often each token of the vocabulary occurs.
        num_documents: D.
        num_sentences: over all documents.
        num_tokens: over all documents.
    """

    def __init__(
        self,
        path: Location,
        manifest: dict[str, Any],
        tokenizer: Tokenizer,
        token_counts: np.ndarray,
        shards: Sequence[AnyShard],
        reopen: Callable[[], TokenStore] | None = None,
    ) -> None:
        """Use :meth:`open`, or :func:`bertsmith.text.remote_store.open_store`."""
        self.path = path
        self.manifest = manifest
        self.tokenizer = tokenizer
        self.token_counts = token_counts
        self.num_documents = int(manifest["counts"]["documents"])
        self.num_sentences = int(manifest["counts"]["sentences"])
        self.num_tokens = int(manifest["counts"]["tokens"])
        self._shards = list(shards)
        self._reopen = reopen
        # A list, not an array: bisect on it takes a tenth of np.searchsorted's time.
        self._shard_starts = offsets(np.array([len(s.lines) for s in shards]), np.int64).tolist()
        self._look_ups = 0

    @classmethod
    def open(cls, path: Path | str, check: bool = True) -> TokenStore:
        """Open a store.

        Args:
            path: the directory.
            check: compare every file with its checksum (reads the whole store once, about 1 GB/s); without
                it only names and sizes are compared.

        Raises:
            InputError: this is not a token store, or a file of it is missing, cut short, changed or does
                not belong to it. The message names the file.
        """
        path = Path(path)
        if not (path / files.CHECKSUMS).is_file():
            # It says what this is not.
            read_manifest(path)
        if check:
            files.check_directory(path, what="the token store")
        manifest = read_manifest(path)
        for shard in manifest["shards"]:
            file = path / shard["file"]
            if not file.is_file():
                raise InputError("missing; the token store is not complete", path=file)
            if file.stat().st_size != shard["bytes"]:
                raise InputError(
                    f"holds {file.stat().st_size} bytes, expected {shard['bytes']}: it was cut short or changed on "
                    "disk; run 'bertsmith prepare' again into another output",
                    path=file,
                )
        tokenizer = Tokenizer.load(path / TOKENIZER)
        if tokenizer.hash != manifest["tokenizer_hash"] or tokenizer.vocab_size != manifest["vocab_size"]:
            raise InputError("is not the vocabulary that this store was made with", path=path / TOKENIZER)
        shards = [read_shard(path / shard["file"]) for shard in manifest["shards"]]
        for shard, entry in zip(shards, manifest["shards"], strict=True):
            if len(shard.lines) != entry["documents"] or len(shard.token_ids) != entry["tokens"]:
                raise InputError("does not hold the counts of the manifest", path=path / entry["file"])
        return cls(path, manifest, tokenizer, read_token_counts(path / TOKEN_COUNTS, manifest["vocab_size"]), shards)

    @property
    def vocab_size(self) -> int:
        """V."""
        return int(self.manifest["vocab_size"])

    @cached_property
    def document_tokens(self) -> np.ndarray:
        """(D,) int64, tokens of each document."""
        return self._per_document(lambda s: np.diff(s.token_starts[s.sentence_starts]))

    @cached_property
    def document_sentences(self) -> np.ndarray:
        """(D,) int64, sentences of each document; at least 1."""
        return self._per_document(lambda s: np.diff(s.sentence_starts))

    def sentence_lengths(self, document: int) -> np.ndarray:
        """Return (S,) int32, the tokens of each sentence of a document; none is 0."""
        shard, number = self._find(document)
        start, stop = shard.sentence_starts[number], shard.sentence_starts[number + 1]
        starts = shard.token_starts[start : stop + 1]
        lengths: np.ndarray = starts[1:] - starts[:-1]
        return lengths

    def sentence(self, document: int, sentence: int) -> np.ndarray:
        """Return the ids of a sentence, a read-only uint16 or uint32 view; ``sentence`` counts from 0."""
        shard, number = self._find(document)
        at = shard.sentence_starts[number] + sentence
        if sentence < 0 or at >= shard.sentence_starts[number + 1]:
            raise IndexError(f"document {document} has no sentence {sentence}")
        return shard.token_ids[shard.token_starts[at] : shard.token_starts[at + 1]]

    def document(self, document: int) -> np.ndarray:
        """Return the ids of a document, its sentences end to end: a read-only uint16 or uint32 view."""
        shard, number = self._find(document)
        first, last = shard.sentence_starts[number], shard.sentence_starts[number + 1]
        return shard.token_ids[shard.token_starts[first] : shard.token_starts[last]]

    def origin(self, document: int) -> tuple[str, int]:
        """Return the source of a document and the line in it where it starts."""
        shard, number = self._find(document)
        return self.manifest["sources"][shard.sources[number]]["path"], int(shard.lines[number])

    @property
    def num_shards(self) -> int:
        """How many shards there are."""
        return len(self._shards)

    def shards_of(self, documents: np.ndarray) -> np.ndarray:
        """Return (D,) int64, the number of the shard that holds each of the documents."""
        numbers: np.ndarray = np.searchsorted(self._shard_starts, documents, side="right") - 1
        return numbers

    def require_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Refuse to go on with another vocabulary than the one that made the ids.

        Raises:
            InputError: ``tokenizer`` gives other ids than the store holds.
        """
        if tokenizer.hash != self.manifest["tokenizer_hash"]:
            raise InputError(
                f"was made with another vocabulary (of {self.vocab_size} entries; this one has "
                f"{tokenizer.vocab_size}); prepare the text again with this vocabulary",
                path=self.path,
            )

    def close(self) -> None:
        """Let go of the files. Views that were handed out stay valid."""
        self._shards = []
        self._shard_starts = [0]

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process maps the files itself; they were checked when this one opened them.
        if self._reopen is not None:
            return self._reopen, ()
        assert isinstance(self.path, Path)
        return TokenStore.open, (self.path.absolute(), False)

    def _find(self, document: int) -> tuple[AnyShard, int]:
        if not 0 <= document < self._shard_starts[-1]:
            raise IndexError(f"no document {document}: the store holds {self._shard_starts[-1]}")
        self._look_ups += 1
        if self._look_ups >= _LOOK_UPS:
            self._look_ups = 0
            for shard in self._shards:
                _let_go(shard)
        number = bisect_right(self._shard_starts, document) - 1
        return self._shards[number], document - self._shard_starts[number]

    def _per_document(self, numbers: Callable[[AnyShard], np.ndarray]) -> np.ndarray:
        found = []
        for shard in self._shards:
            found.append(numbers(shard))
            _let_go(shard)
        return np.concatenate(found, dtype=np.int64)


def _let_go(shard: AnyShard) -> None:
    """Let go of a mapped shard's pages; they stay in the system's cache, and come back as they are asked for."""
    if isinstance(shard, Shard) and shard.pages is not None and hasattr(mmap, "MADV_DONTNEED"):
        shard.pages.madvise(mmap.MADV_DONTNEED)


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest of the store in the directory ``path``.

    Raises:
        InputError: there is none, or it is not one that this version reads.
    """
    manifest = files.read_json(path / MANIFEST, what=_WHAT)
    if manifest.get("version") != FORMAT_VERSION:
        raise InputError(
            f"version {manifest.get('version')!r}, expected {FORMAT_VERSION}: {_WHAT} of this version of Bertsmith",
            path=path / MANIFEST,
        )
    missing = {"counts", "tokenizer_hash", "vocab_size", "sources", "shards"} - manifest.keys()
    if missing:
        raise InputError(f"has no {sorted(missing)[0]!r}; expected {_WHAT}", path=path / MANIFEST)
    return manifest


def read_token_counts(path: Path, vocab_size: int) -> np.ndarray:
    """Return (V,) int64, how often each token occurs.

    Raises:
        InputError: the file is missing or is not that.
    """
    try:
        counts: np.ndarray = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise InputError("missing; the token store is not complete", path=path) from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"is not readable as token counts: {error}", path=path) from None
    if counts.shape != (vocab_size,) or counts.dtype != np.int64:
        raise InputError(f"holds {counts.dtype} {counts.shape}, expected int64 ({vocab_size},)", path=path)
    counts.setflags(write=False)
    return counts
