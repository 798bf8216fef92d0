"""What is left out of a corpus beside exact copies: lines that are repeated all over it, and near copies of documents.

Both need a look at the whole corpus before its first document can be taken, so :mod:`bertsmith.text.screening` reads it
beforehand; what came out is a :class:`Screen`.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bertsmith import files
from bertsmith.text.corpus import CorpusDocument

SCREEN = "screen.npz"


@dataclass(frozen=True)
class Screen:
    """What is left out.

    Attributes:
        repeated: (R,) uint64, rising: hashes of lines.
        dropped: (D,) int64, rising: documents, by how many were read before them.
        report: what that is, in figures and examples; JSON.
    """

    repeated: np.ndarray
    dropped: np.ndarray
    report: dict[str, Any] = field(default_factory=dict)

    def without_repeated(self, text: str) -> str:
        """Return a document's text without the lines that are left out."""
        if not len(self.repeated):
            return text
        lines = text.split("\n")
        repeated = _among(self.repeated, line_hashes(lines))
        return "\n".join(line for line, out in zip(lines, repeated.tolist(), strict=True) if not out)

    def drops(self, ordinal: int) -> bool:
        """Tell whether a document is left out."""
        at = int(np.searchsorted(self.dropped, ordinal))
        return at < len(self.dropped) and int(self.dropped[at]) == ordinal

    def write(self, directory: Path) -> None:
        """Write the screen into a directory, whole or not at all."""
        buffer = io.BytesIO()
        report = np.frombuffer(json.dumps(self.report, ensure_ascii=False).encode(), dtype=np.uint8)
        np.savez(buffer, repeated=self.repeated, dropped=self.dropped, report=report)
        files.write_bytes(directory / SCREEN, buffer.getvalue())

    @staticmethod
    def read(directory: Path) -> Screen | None:
        """Return the screen that an earlier run wrote; None if there is none that can be read."""
        try:
            with np.load(directory / SCREEN, allow_pickle=False) as stored:
                report = json.loads(stored["report"].tobytes())
                return Screen(stored["repeated"], stored["dropped"], report)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None


def line_hashes(lines: list[str]) -> np.ndarray:
    """Return (L,) uint64: lines with the same hash are taken for the same (one pair in 2^64)."""
    digests = [hashlib.blake2b(line.encode("utf-8", "surrogatepass"), digest_size=8).digest() for line in lines]
    return np.frombuffer(b"".join(digests), dtype="<u8")


def _among(rising: np.ndarray, values: np.ndarray) -> np.ndarray:
    at = np.minimum(np.searchsorted(rising, values), len(rising) - 1)
    found: np.ndarray = rising[at] == values
    return found


@dataclass(frozen=True)
class HashedLines:
    """The lines of D documents, L in all.

    Attributes:
        counts: (D,) int32, lines of each document.
        hashes: (L,) uint64.
        characters: (L,) int32, of each line.
        sources: (D,) int32, numbers of their files.
        ordinals: (D,) int64, how many documents of the corpus were read before.
    """

    counts: np.ndarray
    hashes: np.ndarray
    characters: np.ndarray
    sources: np.ndarray
    ordinals: np.ndarray

    def where(self, keep: np.ndarray) -> HashedLines:
        """Return the documents for which the (D,) bool ``keep`` is true."""
        lines = np.repeat(keep, self.counts)
        return HashedLines(
            self.counts[keep], self.hashes[lines], self.characters[lines], self.sources[keep], self.ordinals[keep]
        )


def hash_lines(documents: list[CorpusDocument]) -> HashedLines:
    """Return the hashes of documents' lines: the work of a worker."""
    texts = [document.text.split("\n") for document in documents]
    lines = [line for text in texts for line in text]
    return HashedLines(
        counts=np.array([len(text) for text in texts], dtype=np.int32),
        hashes=line_hashes(lines),
        characters=np.array([len(line) for line in lines], dtype=np.int32),
        sources=np.array([d.source for d in documents], dtype=np.int32),
        ordinals=np.array([d.ordinal for d in documents], dtype=np.int64),
    )
