"""The documents of a corpus in a fixed order, each text once, and how far through the files they are."""

from __future__ import annotations

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bertsmith.text.readers import Document, ReadReport, read_documents
from bertsmith.text.sentences import choose_rule

if TYPE_CHECKING:
    # Worker processes have no use for it, and importing it takes longer than anything else here.
    from bertsmith.config import CorpusSettings

HEAD_CHARACTERS = 100_000
"""How much of a file decides its sentence rule."""

BATCH_CHARACTERS = 500_000
BATCH_DOCUMENTS = 20_000

_EXPANSION = {".gz": 4.0, ".zst": 4.0, ".bz2": 4.0, ".xz": 4.0, ".parquet": 3.0}


@dataclass(frozen=True)
class CorpusDocument:
    """A document that is to be tokenised.

    Attributes:
        text: as the reader gave it.
        rule: how its sentences are found.
        source: the number of its file.
        line: where it starts in the file, counted from 1.
        ordinal: how many documents of the corpus were read before it, dropped ones included.
    """

    text: str
    rule: str
    source: int
    line: int
    ordinal: int


@dataclass
class DocumentBatch:
    """Consecutive documents, about ``BATCH_CHARACTERS`` of text: what a worker gets at a time.

    Attributes:
        documents: in the order of the corpus.
        megabytes: how much of the source files they take the reader on, about.
    """

    documents: list[CorpusDocument] = field(default_factory=list)
    megabytes: float = 0.0


class SeenTexts:
    """Which texts were there before, by a 128-bit hash; about 18 bytes of memory a text.

    A set of digests takes five times as much. Here the digest's first two bytes choose one of 65,536
    byte strings, which holds the other 14 bytes of all its digests end to end.
    """

    _WIDTH = 14

    def __init__(self) -> None:
        self._buckets: defaultdict[bytes, bytearray] = defaultdict(bytearray)

    def add(self, text: bytes) -> bool:
        """Return whether ``text`` is new, and remember it."""
        digest = hashlib.blake2b(text, digest_size=16).digest()
        bucket, rest = self._buckets[digest[:2]], digest[2:]
        at = bucket.find(rest)
        while at >= 0 and at % self._WIDTH:
            at = bucket.find(rest, at + 1)
        if at >= 0:
            return False
        bucket += rest
        return True


class Corpus:
    """The documents of ``paths``, streamed once in order; memory holds hashes of texts, not texts.

    Attributes, all for what was read so far:
        report: what the readers met.
        read: documents, dropped ones included.
        duplicates: documents that were dropped as exact copies of an earlier one.
        megabytes: position in the source files, about.
        rules: the sentence rule of each file.
    """

    def __init__(self, paths: Sequence[Path], settings: CorpusSettings) -> None:
        self.report = ReadReport()
        self.read = 0
        self.duplicates = 0
        self.megabytes = 0.0
        self.rules: list[str] = []
        self._paths = paths
        self._settings = settings

    def documents(self) -> Iterator[CorpusDocument]:
        """Yield every document once."""
        seen = SeenTexts()
        for source, path in enumerate(self._paths):
            start, size = self.megabytes, path.stat().st_size / 1e6
            done = 0.0
            for document in self._file(path):
                text = document.text.encode("utf-8", "surrogatepass")
                done += len(text) / 1e6 / expansion(path)
                self.megabytes = start + min(done, size)
                self.read += 1
                if not self._settings.keep_duplicates and not seen.add(text):
                    self.duplicates += 1
                    continue
                yield CorpusDocument(document.text, self.rules[source], source, document.line, self.read - 1)
            self.megabytes = start + size

    def _file(self, path: Path) -> Iterator[Document]:
        documents = read_documents(path, self._settings, self.report)
        if self._settings.sentences == "auto":
            head = take(documents, HEAD_CHARACTERS)
            self.rules.append(choose_rule([d.text for d in head]))
            return itertools.chain(head, documents)
        self.rules.append(self._settings.sentences)
        return documents


def batches(documents: Iterator[CorpusDocument], corpus: Corpus) -> Iterator[DocumentBatch]:
    """Group ``documents``, which come from ``corpus``, into batches; none is empty."""
    batch = DocumentBatch()
    start, characters = corpus.megabytes, 0
    for document in documents:
        batch.documents.append(document)
        characters += len(document.text)
        if characters >= BATCH_CHARACTERS or len(batch.documents) >= BATCH_DOCUMENTS:
            batch.megabytes = corpus.megabytes - start
            yield batch
            batch = DocumentBatch()
            start, characters = corpus.megabytes, 0
    if batch.documents:
        batch.megabytes = corpus.megabytes - start
        yield batch


def take(documents: Iterator[Document], characters: int) -> list[Document]:
    """Return the first documents, until they hold ``characters`` or there are no more."""
    head = []
    while characters > 0 and (document := next(documents, None)) is not None:
        head.append(document)
        characters -= len(document.text)
    return head


def sample(paths: Sequence[Path], settings: CorpusSettings, num_files: int = 8) -> list[CorpusDocument]:
    """Return documents from the start of ``num_files`` files, evenly spaced over the corpus, texts cut at 100,000."""
    chosen = sorted({i * len(paths) // num_files for i in range(num_files)})
    found = []
    for source in chosen:
        head = take(read_documents(paths[source], settings, ReadReport()), HEAD_CHARACTERS)
        rule = choose_rule([d.text for d in head]) if settings.sentences == "auto" else settings.sentences
        found += [CorpusDocument(d.text[:HEAD_CHARACTERS], rule, source, d.line, i) for i, d in enumerate(head)]
    return found


def expansion(path: Path) -> float:
    """Return how many bytes of text a byte of the file gives, about."""
    return _EXPANSION.get(path.suffix.lower(), 1.0)
