"""How alike documents are, by MinHash over character pieces (Broder 1997), and which of them are near copies of others.

Pieces of five characters serve Korean and English alike: no word borders are needed. Two documents' signatures agree
in as large a share of their numbers as the documents' pieces do (Jaccard similarity), give or take 0.035.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertsmith.errors import InputError
from bertsmith.text.corpus import CorpusDocument

NUMBERS = 128
"""Numbers of a signature."""

_PIECE = 5
_MULTIPLIER = np.uint32(0x9E3779B1)
_PIECES_AT_ONCE = 4096
_SIGNATURES_AT_ONCE = 1 << 16
# Candidates are compared afterwards, so one too many costs a moment, and one too few is a copy that stays.
_WEIGHTS = (0.1, 0.9)
_SCHEME = "affine32"


@dataclass(frozen=True)
class Sketches:
    """D documents as their signatures.

    Attributes:
        signatures: (D, 128) uint32.
        characters: (D,) int64; 0 for one without text, which is like no other.
        sources: (D,) int32, numbers of their files.
        lines: (D,) int64, where they start in them.
        ordinals: (D,) int64, how many documents of the corpus were read before.
    """

    signatures: np.ndarray
    characters: np.ndarray
    sources: np.ndarray
    lines: np.ndarray
    ordinals: np.ndarray

    def where(self, keep: np.ndarray) -> Sketches:
        """Return the documents for which the (D,) bool ``keep`` is true."""
        return Sketches(**{name: getattr(self, name)[keep] for name in Sketches.__dataclass_fields__})


def require_datasketch() -> None:
    """Check that the library is there.

    Raises:
        InputError: it is not.
    """
    try:
        import datasketch  # noqa: F401
    except ImportError:
        raise InputError("--near-duplicates needs datasketch: pip install 'bertsmith[dedup]'") from None


def sketch(documents: list[CorpusDocument]) -> Sketches:
    """Return the signatures of documents: the work of a worker."""
    from datasketch import MinHash

    empty = MinHash(num_perm=NUMBERS, hashfunc=_same, scheme=_SCHEME)
    signatures = np.empty((len(documents), NUMBERS), dtype=np.uint32)
    for row, document in enumerate(documents):
        minhash, pieces = empty.copy(), _pieces(document.text)
        # A long document's pieces, each with 128 numbers, would not fit into memory at once.
        for first in range(0, len(pieces), _PIECES_AT_ONCE):
            minhash.update_batch(pieces[first : first + _PIECES_AT_ONCE].tolist())
        signatures[row] = minhash.hashvalues
    return Sketches(
        signatures=signatures,
        characters=np.array([len(d.text) for d in documents], dtype=np.int64),
        sources=np.array([d.source for d in documents], dtype=np.int32),
        lines=np.array([d.line for d in documents], dtype=np.int64),
        ordinals=np.array([d.ordinal for d in documents], dtype=np.int64),
    )


def _same(number: int) -> int:
    return number


def _pieces(text: str) -> np.ndarray:
    """Return the numbers (uint32) of a text's pieces; case and the kind of white space make no difference."""
    plain = " ".join(unicodedata.normalize("NFC", text).lower().split())
    points = np.frombuffer(plain.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    width = min(_PIECE, len(points))
    found = np.zeros(len(points) - width + 1 if width else 0, dtype=np.uint32)
    for place in range(width):
        found = found * _MULTIPLIER + points[place : len(points) - width + 1 + place]
    return found


def near_copies(
    signatures: np.ndarray, threshold: float, advance: Callable[[int], None] = lambda documents: None
) -> list[tuple[int, int, float]]:
    """Find the documents that are near copies of an earlier one that is no near copy itself.

    Args:
        signatures: (D, 128) uint32, in the order of the documents; may be mapped from disk. Memory holds 24 bytes a
            document, and the index of those that share a band of their signature with another one.
        threshold: the share of numbers in which two signatures must agree, at least.
        advance: called with the number of documents looked at.

    Returns:
        For each near copy in order: its number, that of the earliest such document, and the share.
    """
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=threshold, num_perm=NUMBERS, weights=_WEIGHTS)
    permutations = MinHash(num_perm=NUMBERS, scheme=_SCHEME).permutations

    def minhash(number: int) -> Any:
        return MinHash(hashvalues=signatures[number], permutations=permutations, scheme=_SCHEME)

    found = []
    done = 0
    for number in np.flatnonzero(_share_a_band(signatures, index.b, index.r)).tolist():
        own = minhash(number)
        alike = [(other, float(own.jaccard(minhash(other)))) for other in sorted(index.query(own))]
        original = next(((other, share) for other, share in alike if share >= threshold), None)
        if original is None:
            index.insert(number, own)
        else:
            found.append((number, *original))
        advance(number - done)
        done = number
    advance(len(signatures) - done)
    return found


def _share_a_band(signatures: np.ndarray, bands: int, rows: int) -> np.ndarray:
    """Return (D,) bool: documents that agree with another one in a whole band. An index finds no others."""
    sharing = np.zeros(len(signatures), dtype=bool)
    factors = np.random.default_rng(0).integers(1, 2**63, rows, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    keys = np.empty(len(signatures), dtype=np.uint64)
    for band in range(bands):
        for first in range(0, len(signatures), _SIGNATURES_AT_ONCE):
            part = signatures[first : first + _SIGNATURES_AT_ONCE, band * rows : (band + 1) * rows].astype(np.uint64)
            # Equal bands have equal keys; others rarely do, and a false pair is told apart later.
            keys[first : first + _SIGNATURES_AT_ONCE] = (part * factors).sum(axis=1, dtype=np.uint64)
        order = np.argsort(keys, kind="stable")
        same = keys[order[1:]] == keys[order[:-1]]
        sharing[order[1:][same]] = True
        sharing[order[:-1][same]] = True
    return sharing
