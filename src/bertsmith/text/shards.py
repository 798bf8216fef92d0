"""A shard of a token store: documents > sentences > token ids in an Arrow file, written whole, read as mapped pages.

It holds one record batch: sentences list<list<uint16>>, source int32, line int64. The nested offsets of the lists give
document and sentence lengths without touching an id.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bertsmith import files
from bertsmith.errors import InputError


def id_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return the dtype that a store keeps ids in: uint16 up to 65,535 entries, uint32 above."""
    return np.dtype(np.uint16 if vocab_size <= 65_535 else np.uint32)


@dataclass(frozen=True)
class TokenisedDocuments:
    """D documents of S sentences and T tokens in total, laid end to end.

    Attributes:
        sentence_counts: (D,) int32, sentences of each document.
        sentence_lengths: (S,) int32, tokens of each sentence.
        token_ids: (T,) uint16 or uint32, no special tokens.
        characters: (D,) int64, characters of each document's sentences.
        sources: (D,) int32, index into the manifest's sources.
        lines: (D,) int64, where the document starts in its source, counted from 1.
        ordinals: (D,) int64, how many documents were read before it, dropped ones included.
    """

    sentence_counts: np.ndarray
    sentence_lengths: np.ndarray
    token_ids: np.ndarray
    characters: np.ndarray
    sources: np.ndarray
    lines: np.ndarray
    ordinals: np.ndarray

    @property
    def num_documents(self) -> int:
        """D."""
        return len(self.sentence_counts)

    def token_ends(self) -> np.ndarray:
        """Return (D,) int64: tokens up to and including each document."""
        sentence_ends = np.cumsum(self.sentence_counts, dtype=np.int64)
        return offsets(self.sentence_lengths, np.int64)[sentence_ends]

    def without_empty(self) -> TokenisedDocuments:
        """Return the documents that have a sentence."""
        return self.where(self.sentence_counts > 0)

    def where(self, keep: np.ndarray) -> TokenisedDocuments:
        """Return the documents for which the (D,) bool ``keep`` is true."""
        if keep.all():
            return self
        sentences = np.repeat(keep, self.sentence_counts)
        return TokenisedDocuments(
            sentence_counts=self.sentence_counts[keep],
            sentence_lengths=self.sentence_lengths[sentences],
            token_ids=self.token_ids[np.repeat(sentences, self.sentence_lengths)],
            characters=self.characters[keep],
            sources=self.sources[keep],
            lines=self.lines[keep],
            ordinals=self.ordinals[keep],
        )

    def slice(self, start: int, stop: int) -> TokenisedDocuments:
        """Return documents ``[start, stop)`` as views."""
        sentences = offsets(self.sentence_counts, np.int64)[[start, stop]]
        tokens = offsets(self.sentence_lengths, np.int64)[sentences]
        return TokenisedDocuments(
            sentence_counts=self.sentence_counts[start:stop],
            sentence_lengths=self.sentence_lengths[slice(*sentences)],
            token_ids=self.token_ids[slice(*tokens)],
            characters=self.characters[start:stop],
            sources=self.sources[start:stop],
            lines=self.lines[start:stop],
            ordinals=self.ordinals[start:stop],
        )

    @staticmethod
    def join(parts: list[TokenisedDocuments]) -> TokenisedDocuments:
        """Lay parts end to end."""
        names = TokenisedDocuments.__dataclass_fields__
        return TokenisedDocuments(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in names})


def offsets(lengths: np.ndarray, dtype: type[np.integer[Any]]) -> np.ndarray:
    """Return (N + 1,) starts of N pieces laid end to end, the total as the last."""
    starts = np.zeros(len(lengths) + 1, dtype=dtype)
    np.cumsum(lengths, out=starts[1:])
    return starts


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:05d}.arrow"


def write_shard(path: Path, documents: TokenisedDocuments) -> None:
    """Write one shard so that ``path`` appears only when it is whole and on disk.

    Fewer than 2^31 tokens: the offsets are 32-bit.
    """
    import pyarrow as pa

    sentences = pa.ListArray.from_arrays(
        pa.array(offsets(documents.sentence_lengths, np.int32)), pa.array(documents.token_ids)
    )
    batch = pa.record_batch(
        {
            "sentences": pa.ListArray.from_arrays(
                pa.array(offsets(documents.sentence_counts, np.int32)),
                sentences,
            ),
            "source": pa.array(documents.sources, type=pa.int32()),
            "line": pa.array(documents.lines, type=pa.int64()),
        }
    )
    with (
        files.new_file(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, batch.schema) as writer,
    ):
        writer.write_batch(batch)


@dataclass(frozen=True)
class Shard:
    """Views into one memory-mapped shard of D documents, S sentences and T tokens.

    Attributes:
        sentence_starts: (D + 1,) int32, document d holds sentences ``[starts[d], starts[d + 1])``.
        token_starts: (S + 1,) int32, the same for the tokens of sentences.
        token_ids: (T,) uint16 or uint32.
        sources: (D,) int32.
        lines: (D,) int64.
        pages: the mapping that they are views into; None where they are not of a mapped file.
    """

    sentence_starts: np.ndarray
    token_starts: np.ndarray
    token_ids: np.ndarray
    sources: np.ndarray
    lines: np.ndarray
    pages: mmap.mmap | None = None


class AnyShard(Protocol):
    """A shard, wherever its ids are; see :class:`Shard`."""

    @property
    def sentence_starts(self) -> np.ndarray: ...  # noqa: D102

    @property
    def token_starts(self) -> np.ndarray: ...  # noqa: D102

    @property
    def token_ids(self) -> np.ndarray: ...  # noqa: D102

    @property
    def sources(self) -> np.ndarray: ...  # noqa: D102

    @property
    def lines(self) -> np.ndarray: ...  # noqa: D102


def read_shard(path: Path) -> Shard:
    """Memory-map a shard; nothing is copied.

    Raises:
        InputError: the file is missing or is not a whole shard.
    """
    try:
        with path.open("rb") as file:
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise InputError("missing; the token store is not complete", path=path) from None
    except (OSError, ValueError) as error:
        raise InputError(f"is not a whole shard of a token store: {error}", path=path) from None
    return parse_shard(pages, path)


def parse_shard(pages: mmap.mmap, path: object) -> Shard:
    """Return the views into a mapped shard; nothing is copied.

    Raises:
        InputError: it is not a whole shard; ``path`` names it.
    """
    import pyarrow as pa

    try:
        batch = pa.ipc.open_file(pa.py_buffer(pages)).get_batch(0)
        documents = batch.column("sentences")
        sentences = documents.values
        shard = Shard(
            sentence_starts=documents.offsets.to_numpy(),
            token_starts=sentences.offsets.to_numpy(),
            token_ids=sentences.values.to_numpy(),
            sources=batch.column("source").to_numpy(),
            lines=batch.column("line").to_numpy(),
            pages=pages,
        )
    except (pa.ArrowException, OSError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"is not a whole shard of a token store: {error}", path=path) from None
    if shard.sentence_starts[-1] != len(shard.token_starts) - 1 or shard.token_starts[-1] != len(shard.token_ids):
        raise InputError("is not a whole shard of a token store: its offsets do not fit", path=path)
    return shard
