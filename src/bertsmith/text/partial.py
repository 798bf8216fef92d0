"""A token store that is not whole yet: its finished shards, and the journal that lets a later run go on."""

from __future__ import annotations

import contextlib
import errno
import itertools
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bertsmith import __version__, files
from bertsmith.console import Log, human
from bertsmith.errors import InputError
from bertsmith.text.screen import SCREEN
from bertsmith.text.shards import TokenisedDocuments, read_shard, shard_name, write_shard

JOURNAL = "journal.json"

_COUNTED_AT_ONCE = 1_000_000
_CONTENT = ("identity", "sources", "shards")


@dataclass
class PartialStore:
    """The shards that are finished, and the documents that wait for the next one.

    Attributes:
        path: the directory; nothing else than one process at a time works in it.
        identity: all that determines the shards beside the sources.
        sources: path, size and hash of every file.
        token_counts: (V,) int64, over the finished shards.
        shards: an entry for each finished shard, as in the journal.
        waiting: documents that are in no shard yet.
        waiting_tokens: their tokens.
    """

    path: Path
    identity: dict[str, Any]
    sources: list[dict[str, Any]]
    token_counts: np.ndarray
    shards: list[dict[str, Any]] = field(default_factory=list)
    waiting: list[TokenisedDocuments] = field(default_factory=list)
    waiting_tokens: int = 0

    @classmethod
    def open(
        cls, path: Path, identity: dict[str, Any], sources: list[dict[str, Any]], vocab_size: int, log: Log
    ) -> PartialStore:
        """Take over what an interrupted run with the same settings left; remove what cannot be used.

        Raises:
            InputError: what stands in the place of the journal is none.
        """
        # Another release may cut sentences differently, so its shards do not mix with ours.
        identity = {**identity, "release": __version__}
        counts = np.zeros(vocab_size, dtype=np.int64)
        work = cls(path, identity, sources, counts)
        kept_screen: set[str] = set()
        journal = _read_journal(path, log) if (path / JOURNAL).exists() else None
        if journal is not None:
            work.shards = _usable(path, journal, identity, sources)
            # What is left out follows from the whole corpus.
            kept_screen = {SCREEN} if (journal["identity"], journal["sources"]) == (identity, sources) else set()
            if work.shards:
                log.say(f"Going on after {len(work.shards)} finished shard(s) of an interrupted run.")
            elif journal["shards"]:
                log.say("Settings or sources have changed since the interrupted run: starting anew.")
        # The journal is replaced last: without it a later run could not tell whose shards these are.
        keep = {files.LOCK, JOURNAL, *(shard["file"] for shard in work.shards), *kept_screen}
        for entry in [e for e in path.iterdir() if e.name not in keep]:
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        for shard in work.shards:
            _count(read_shard(path / shard["file"]).token_ids, counts)
        work.write_journal()
        return work

    @property
    def documents_read(self) -> int:
        """Documents of the corpus that the finished shards cover, dropped ones included."""
        return int(self.shards[-1]["documents_read"]) if self.shards else 0

    @property
    def last_source(self) -> int:
        """The number of the source that the last finished shard ends in; 0 if there is none."""
        return int(self.shards[-1]["last_source"]) if self.shards else 0

    def add(self, documents: TokenisedDocuments, shard_tokens: int) -> None:
        """Append documents; write each shard that they fill."""
        documents = documents.without_empty()
        ends = documents.token_ends()
        start, tokens_before = 0, 0
        while start < documents.num_documents:
            # The first document with which the shard is full, if there is one.
            stop = int(np.searchsorted(ends, tokens_before + shard_tokens - self.waiting_tokens)) + 1
            full = stop <= documents.num_documents
            stop = min(stop, documents.num_documents)
            self.waiting.append(documents.slice(start, stop))
            self.waiting_tokens += int(ends[stop - 1]) - tokens_before
            if full:
                self.flush()
            start, tokens_before = stop, int(ends[stop - 1])

    def flush(self) -> None:
        """Write what waits as a shard."""
        if not self.waiting:
            return
        documents = TokenisedDocuments.join(self.waiting)
        file = self.path / shard_name(len(self.shards))
        with writing(self.path, _shard_bytes(documents)):
            write_shard(file, documents)
            self.shards.append(
                {
                    "file": file.name,
                    "documents": documents.num_documents,
                    "sentences": len(documents.sentence_lengths),
                    "tokens": len(documents.token_ids),
                    "characters": int(documents.characters.sum()),
                    "documents_with_one_sentence": int((documents.sentence_counts == 1).sum()),
                    "bytes": file.stat().st_size,
                    "sha256": files.sha256(file),
                    "last_source": int(documents.sources[-1]),
                    "documents_read": int(documents.ordinals[-1]) + 1,
                }
            )
            self.write_journal()
        _count(documents.token_ids, self.token_counts)
        self.waiting, self.waiting_tokens = [], 0

    def write_journal(self) -> None:
        """Put down which shards are finished."""
        journal = {"identity": self.identity, "sources": self.sources, "shards": self.shards}
        files.write_summed_json(self.path / JOURNAL, journal)

    def totals(self) -> dict[str, int]:
        """Return the counts of all shards together."""
        names = ("documents", "sentences", "tokens", "characters", "documents_with_one_sentence")
        return {name: sum(shard[name] for shard in self.shards) for name in names}


def _shard_bytes(documents: TokenisedDocuments) -> int:
    """Return about how large a shard of these documents is: ids, offsets and origins."""
    names = ("token_ids", "sentence_lengths", "sentence_counts", "sources", "lines")
    return sum(getattr(documents, name).nbytes for name in names)


def _count(token_ids: np.ndarray, counts: np.ndarray) -> None:
    """Add how often each id occurs to ``counts``, a piece at a time: bincount copies its input as int64."""
    for first in range(0, len(token_ids), _COUNTED_AT_ONCE):
        counts += np.bincount(token_ids[first : first + _COUNTED_AT_ONCE], minlength=len(counts))


def _read_journal(path: Path, log: Log) -> dict[str, Any] | None:
    """Return what the journal in a directory says; None, and a warning, if it is not what was written.

    Raises:
        InputError: it cannot be read as one. The directory may be somebody else's, so nothing in it is removed.
    """
    try:
        journal, is_whole = files.read_summed_json(
            path / JOURNAL, what="the journal of an interrupted 'bertsmith prepare'"
        )
    except InputError as error:
        raise InputError(f"{error.message}. If it is damaged, remove {path} to begin anew", path=error.path) from None
    missing = [name for name in _CONTENT if name not in journal]
    if missing:
        raise InputError(f"has no {missing[0]!r}. If it is damaged, remove {path} to begin anew", path=path / JOURNAL)
    # The number of documents that were read stands nowhere else: a wrong one would leave documents out.
    if not is_whole:
        log.warn(f"{path / JOURNAL} does not match its own checksum: it was changed on disk. Starting anew")
        return None
    return journal


def _usable(
    path: Path, journal: dict[str, Any], identity: dict[str, Any], sources: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the journal's first shards that a run with ``identity`` over ``sources`` would write again."""
    if journal["identity"] != identity:
        return []
    old = journal["sources"]
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(old, sources, strict=False)))
    unchanged = same == len(old) == len(sources)
    if not unchanged and {"near_duplicates", "repeated_lines"} & identity["settings"].keys():
        return []  # what is left out of a document depends on all others
    kept = []
    for shard in journal["shards"]:
        # With other sources the last shard, which the end of the corpus cut short, would not be written so.
        full = shard["tokens"] >= identity["settings"]["shard_tokens"]
        file = path / shard["file"]
        if not (unchanged or (full and shard["last_source"] < same)):
            break
        if not file.is_file() or file.stat().st_size != shard["bytes"] or files.sha256(file) != shard["sha256"]:
            break
        kept.append(shard)
    return kept


def refuse_foreign_directory(partial: Path) -> None:
    """Refuse a directory that no run of ours has left: what cannot be used in it would be removed.

    Raises:
        InputError: it holds something else.
    """
    if partial.is_dir() and (partial / JOURNAL).exists():
        return
    # A kill may have come before the journal had its name.
    if partial.exists() and (not partial.is_dir() or not all(_is_beginning(e.name) for e in partial.iterdir())):
        raise InputError("is needed for unfinished work but holds something else; move it away", path=partial)


def _is_beginning(name: str) -> bool:
    return name == files.LOCK or name.startswith(f".{JOURNAL}.")


@contextlib.contextmanager
def writing(partial: Path, needed: int = 0) -> Iterator[None]:
    """Turn a failing disk into an answer.

    Args:
        partial: where the block writes.
        needed: bytes that it writes; 0 if that is not known.

    Raises:
        InputError: the block met an OSError.
    """
    try:
        yield
    except OSError as error:
        reason = f"cannot write: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            # The disk may have had no room for the directory itself.
            free = shutil.disk_usage(next(p for p in (partial, *partial.parents) if p.exists())).free
            room = f"{human(needed)}B needed, {human(free)}B free" if needed else f"{human(free)}B free"
            reason = f"the disk is full ({room})"
        raise InputError(
            f"{reason}; finished shards stay, and the same command goes on from them", path=partial
        ) from None
