"""The documents of a corpus in a fixed order, each text once, and how far through the files they are."""

from __future__ import annotations

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bertsmith.remote import Source, size_of
from bertsmith.text.readers import Document, ReadReport, read_documents
from bertsmith.text.sentences import choose_rule

if TYPE_CHECKING:
    # Worker processes have no use for it, and importing it takes longer than anything else here.
    from bertsmith.config import CorpusSettings
    from bertsmith.text.screen import Screen

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
        return self.add_digest(digest_of(text))

    def add_digest(self, digest: bytes) -> bool:
        """Do what :meth:`add` does with the digest of a text."""
        bucket, rest = self._buckets[digest[:2]], digest[2:]
        at = bucket.find(rest)
        while at >= 0 and at % self._WIDTH:
            at = bucket.find(rest, at + 1)
        if at >= 0:
            return False
        bucket += rest
        return True


def digest_of(text: bytes) -> bytes:
    """Return the 16 bytes by which a text is known."""
    return hashlib.blake2b(text, digest_size=16).digest()


class Corpus:
    """The documents of ``paths`` in order, each text once; memory holds hashes of texts, not texts.

    Attributes, all for what was read so far:
        report: what the readers met.
        read: documents, dropped ones included.
        duplicates: documents that were dropped as exact copies of an earlier one.
        near_duplicates: documents that the screen dropped.
        megabytes: position in the source files, about.
        rules: the sentence rule of each file.
    """

    def __init__(self, paths: Sequence[Source], settings: CorpusSettings, screen: Screen | None = None) -> None:
        self.report = ReadReport()
        self.read = 0
        self.duplicates = 0
        self.near_duplicates = 0
        self.megabytes = 0.0
        self.rules: list[str] = []
        self.paths = paths
        self.settings = settings
        self.screen = screen
        self._seen = SeenTexts()

    def documents(self) -> Iterator[CorpusDocument]:
        """Yield every document once; can be called once."""
        screen = self.screen
        for source, path in enumerate(self.paths):
            start, size = self.megabytes, size_of(path) / 1e6
            done = 0.0
            rule, documents = open_documents(path, self.settings, self.report)
            self.rules.append(rule)
            for document in documents:
                text = document.text.encode("utf-8", "surrogatepass")
                done += len(text) / 1e6 / expansion(path)
                self.megabytes = start + min(done, size)
                if not self._admits(text):
                    continue
                kept = document.text if screen is None else screen.without_repeated(document.text)
                yield CorpusDocument(kept, rule, source, document.line, self.read - 1)
            self.megabytes = start + size

    def admit(self, digests: Sequence[bytes]) -> list[bool]:
        """Count documents that another process has read; return which of them are kept."""
        return [self._admits_digest(digest) for digest in digests]

    def _admits(self, text: bytes) -> bool:
        return self._admits_digest(b"" if self.settings.keep_duplicates else digest_of(text))

    def _admits_digest(self, digest: bytes) -> bool:
        self.read += 1
        if not self.settings.keep_duplicates and not self._seen.add_digest(digest):
            self.duplicates += 1
            return False
        if self.screen is not None and self.screen.drops(self.read - 1):
            self.near_duplicates += 1
            return False
        return True


def open_documents(path: Source, settings: CorpusSettings, report: ReadReport) -> tuple[str, Iterator[Document]]:
    """Return the sentence rule of a file, and its documents."""
    documents = read_documents(path, settings, report)
    if settings.sentences != "auto":
        return settings.sentences, documents
    head = take(documents, HEAD_CHARACTERS)
    return choose_rule([d.text for d in head]), itertools.chain(head, documents)


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


def grouped(documents: Iterable[Document]) -> Iterator[tuple[list[Document], bool]]:
    """Group a file's documents as :func:`batches` does; the last batch, which may be empty, is marked as such."""
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= BATCH_CHARACTERS or len(batch) >= BATCH_DOCUMENTS:
            yield batch, False
            batch, characters = [], 0
    yield batch, True


def take(documents: Iterator[Document], characters: int) -> list[Document]:
    """Return the first documents, until they hold ``characters`` or there are no more."""
    head = []
    while characters > 0 and (document := next(documents, None)) is not None:
        head.append(document)
        characters -= len(document.text)
    return head


def sample(paths: Sequence[Source], settings: CorpusSettings, num_files: int = 8) -> list[CorpusDocument]:
    """Return documents from the start of ``num_files`` files, evenly spaced over the corpus, texts cut at 100,000."""
    chosen = sorted({i * len(paths) // num_files for i in range(num_files)})
    found = []
    for source in chosen:
        head = take(read_documents(paths[source], settings, ReadReport()), HEAD_CHARACTERS)
        rule = choose_rule([d.text for d in head]) if settings.sentences == "auto" else settings.sentences
        found += [CorpusDocument(d.text[:HEAD_CHARACTERS], rule, source, d.line, i) for i, d in enumerate(head)]
    return found


def expansion(path: Source) -> float:
    """Return how many bytes of text a byte of the file gives, about."""
    return _EXPANSION.get(path.suffix.lower(), 1.0)
