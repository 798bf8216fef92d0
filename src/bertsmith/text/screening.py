"""The look at the whole corpus from which a :class:`Screen` follows; memory is bounded, the rest is on disk.

Lines: 16 bytes of disk a line, in parts by hash of about 64 MB, which are counted one after the other; memory holds a
part three times over, and 8 bytes for each different line that is left out. Near copies: 536 bytes of disk a document,
and the memory that :func:`bertsmith.text.minhash.near_copies` takes.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from bertsmith.config import PrepareSettings
from bertsmith.console import Log
from bertsmith.remote import Source, size_of
from bertsmith.text.corpus import Corpus, expansion
from bertsmith.text.engine import Engine
from bertsmith.text.minhash import NUMBERS, near_copies, sketch
from bertsmith.text.readers import ReadReport, read_documents
from bertsmith.text.screen import HashedLines, Screen, hash_lines, line_hashes

SCRATCH = "screening"
EXAMPLES = 10
PART_BYTES = 64_000_000

_LINE = np.dtype([("hash", "<u8"), ("source", "<i4"), ("characters", "<i4")])
_FACTS = np.dtype([("ordinal", "<i8"), ("line", "<i8"), ("source", "<i4"), ("characters", "<i4")])
_BYTES_A_LINE = 50
# So many files may be open; beyond some 100 GB of text the parts get larger.
_MOST_PARTS = 512


def scratch_bytes(lines: float, documents: float, settings: PrepareSettings) -> float:
    """Return about how much disk the look takes."""
    for_lines = lines * _LINE.itemsize if settings.repeated_lines is not None else 0
    for_documents = documents * (4 * NUMBERS + _FACTS.itemsize) if settings.near_duplicates is not None else 0
    return for_lines + for_documents


def look_at_corpus(
    paths: Sequence[Source], settings: PrepareSettings, engine: Engine, directory: Path, log: Log
) -> Screen:
    """Find the lines that are repeated too often, then the near copies among documents without these lines.

    Args:
        paths: the corpus.
        settings: at least one of ``repeated_lines`` and ``near_duplicates`` is set.
        engine: who does the work; what comes out is the same with any.
        directory: a folder ``screening`` is made in it for the time.
        log: told how far it is.
    """
    scratch = directory / SCRATCH
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    screen = Screen(np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64))
    megabytes = sum(size_of(path) for path in paths) / 1e6
    if settings.repeated_lines is not None:
        with log.progress("counting lines", megabytes, "MB") as advance, _LineCounter(scratch, paths) as counter:
            for hashed, done in engine.results(Corpus(paths, settings), hash_lines):
                counter.add(hashed)
                advance(done)
            repeated, figures = counter.repeated(settings.repeated_lines)
        examples = _line_examples(figures.pop("first"), paths, settings)
        screen = Screen(repeated, screen.dropped, {"repeated_lines": {**figures, "examples": examples}})
    if settings.near_duplicates is not None:
        with (
            log.progress("sketching documents", megabytes, "MB") as advance,
            (scratch / "signatures").open("wb") as signatures,
            (scratch / "facts").open("wb") as facts,
        ):
            for sketches, done in engine.results(Corpus(paths, settings, screen), sketch):
                full = sketches.where(sketches.characters > 0)
                signatures.write(full.signatures.astype("<u4").tobytes())
                columns = (full.ordinals, full.lines, full.sources, full.characters)
                facts.write(np.rec.fromarrays(columns, dtype=_FACTS).tobytes())
                advance(done)
        dropped, figures = _near_copies(scratch, paths, settings.near_duplicates, log)
        screen = Screen(screen.repeated, dropped, {**screen.report, "near_duplicates": figures})
    shutil.rmtree(scratch)
    return screen


class _LineCounter:
    """Counts lines on disk: their hashes, in parts that fit into memory."""

    def __init__(self, directory: Path, paths: Sequence[Source]) -> None:
        text = sum(size_of(path) * expansion(path) for path in paths)
        wanted = text / _BYTES_A_LINE * _LINE.itemsize / PART_BYTES
        self._bits = max(1, (min(_MOST_PARTS, int(wanted) + 1) - 1).bit_length())
        self._paths = [directory / f"lines-{part:04d}" for part in range(1 << self._bits)]
        self._files = contextlib.ExitStack()
        self._waiting: list[np.ndarray] = []
        self._held = 0

    def __enter__(self) -> _LineCounter:
        self._parts: list[IO[bytes]] = [self._files.enter_context(path.open("w+b")) for path in self._paths]
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def add(self, hashed: HashedLines) -> None:
        """Write down the lines of documents."""
        sources = np.repeat(hashed.sources, hashed.counts)
        self._waiting.append(np.rec.fromarrays((hashed.hashes, sources, hashed.characters), dtype=_LINE))
        self._held += len(sources)
        if self._held * _LINE.itemsize >= PART_BYTES:
            self._flush()

    def _flush(self) -> None:
        if not self._waiting:
            return
        lines = np.concatenate(self._waiting)
        parts = (lines["hash"] >> np.uint64(64 - self._bits)).astype(np.int64)
        # Stable: within a part, lines stay in the order of the corpus.
        order = np.argsort(parts, kind="stable")
        edges = np.searchsorted(parts[order], np.arange(len(self._parts) + 1))
        for part, (first, end) in enumerate(itertools.pairwise(edges)):
            self._parts[part].write(lines[order[first:end]].tobytes())
        self._waiting, self._held = [], 0

    def repeated(self, limit: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the hashes of lines that occur more than ``limit`` times, rising, and figures about them.

        ``first`` in the figures holds (times, hash, source) of those that occur most often.
        """
        self._flush()
        found: list[np.ndarray] = []
        totals = dict.fromkeys(("lines", "characters", "all_lines", "all_characters"), 0)
        most: list[tuple[int, int, int]] = []
        for file in self._parts:
            file.seek(0)
            lines = np.frombuffer(file.read(), dtype=_LINE)
            hashes, first, times = np.unique(lines["hash"], return_index=True, return_counts=True)
            often = times > limit
            characters = lines["characters"][first[often]].astype(np.int64)
            totals["lines"] += int(times[often].sum())
            totals["characters"] += int((times[often] * characters).sum())
            totals["all_lines"] += len(lines)
            totals["all_characters"] += int(lines["characters"].sum(dtype=np.int64))
            found.append(hashes[often])
            columns = (times[often], hashes[often], lines["source"][first[often]])
            rows = zip(*(column.tolist() for column in columns), strict=True)
            most = sorted([*most, *rows], key=lambda row: (-row[0], row[1]))[:EXAMPLES]
        repeated = np.concatenate(found)
        share = totals["characters"] / max(1, totals["all_characters"])
        return repeated, {"limit": limit, "different": len(repeated), **totals, "share": share, "first": most}


def _line_examples(
    wanted: list[tuple[int, int, int]], paths: Sequence[Source], settings: PrepareSettings
) -> list[dict[str, Any]]:
    """Read again where lines stand for the first time: their text and place."""
    found: dict[int, tuple[str, str]] = {}
    for source in sorted({source for _, _, source in wanted}):
        left = {number for _, number, where in wanted if where == source}
        for document in read_documents(paths[source], settings, ReadReport()):
            lines = document.text.split("\n")
            for line, number in zip(lines, line_hashes(lines).tolist(), strict=True):
                if number in left:
                    left.remove(number)
                    found[number] = (line[:200], f"{document.source}:{document.line}")
            if not left:
                break
    return [
        {"times": times, "line": found[number][0], "first_in_document_at": found[number][1]}
        for times, number, _ in wanted
    ]


def _near_copies(
    scratch: Path, paths: Sequence[Source], threshold: float, log: Log
) -> tuple[np.ndarray, dict[str, Any]]:
    facts = np.fromfile(scratch / "facts", dtype=_FACTS)
    pairs: list[tuple[int, int, float]] = []
    if len(facts):
        signatures = np.memmap(scratch / "signatures", dtype="<u4", mode="r").reshape(-1, NUMBERS)
        with log.progress("comparing documents", len(facts), "documents") as advance:
            pairs = near_copies(signatures, threshold, advance)
    numbers = np.array([number for number, _, _ in pairs], dtype=np.int64)
    characters, total = (int(rows["characters"].sum(dtype=np.int64)) for rows in (facts[numbers], facts))

    def place(number: int) -> str:
        return f"{paths[facts['source'][number]]}:{facts['line'][number]}"

    return facts["ordinal"][numbers], {
        "threshold": threshold,
        "documents": len(pairs),
        "characters": characters,
        "all_documents": len(facts),
        "all_characters": total,
        "share": characters / max(1, total),
        "examples": [
            {"document": place(number), "is_like": place(original), "similarity": round(share, 3)}
            for number, original, share in _spread(pairs)
        ],
    }


def _spread(pairs: list[tuple[int, int, float]]) -> Iterator[tuple[int, int, float]]:
    """Yield examples from all over the corpus."""
    for place in sorted({len(pairs) * n // EXAMPLES for n in range(EXAMPLES)} if pairs else ()):
        yield pairs[place]
