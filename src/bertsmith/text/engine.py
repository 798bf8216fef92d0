"""One pass over a corpus: the same work on every document, done by processes of this machine or by a cluster."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

import numpy as np

from bertsmith.console import Log
from bertsmith.text.corpus import Corpus, CorpusDocument, batches
from bertsmith.text.workers import Work, in_order

if TYPE_CHECKING:
    from bertsmith.text.cluster import Cluster


class OfDocuments(Protocol):
    """What work makes of D documents: a dataclass of arrays."""

    @property
    def ordinals(self) -> np.ndarray:
        """(D,) int64, how many documents of the corpus were read before each."""

    def where(self, keep: np.ndarray) -> Self:
        """Return the documents for which the (D,) bool ``keep`` is true."""


Result = TypeVar("Result", bound=OfDocuments)


@dataclass(frozen=True)
class Engine:
    """Who does the work.

    Attributes:
        workers: processes of this machine; 1 is this one.
        cluster: does it instead, where there is one.
        log: told when something takes long or goes wrong.
    """

    workers: int
    cluster: Cluster | None
    log: Log

    def results(
        self, corpus: Corpus, work: Work[Result], after: int = 0, after_source: int = 0
    ) -> Iterator[tuple[Result, float]]:
        """Yield what ``work`` makes of the corpus's documents, in their order, and how many MB of the files that took.

        Args:
            corpus: has not been read yet.
            work: what is done with a batch of documents.
            after: documents read that need no work any more.
            after_source: the files before this one hold no others.
        """
        if self.cluster is not None:
            return self.cluster.results(corpus, work, after, after_source, self.log)
        documents = _skip(corpus.documents(), after, self.log)
        return in_order(batches(documents, corpus), work, self.workers)


def _skip(documents: Iterator[CorpusDocument], number: int, log: Log) -> Iterator[CorpusDocument]:
    """Return the documents after the first ``number`` read; those are read again for their hashes only."""
    if number == 0:
        return documents
    first = []
    with log.progress("reading again", number, "documents") as advance:
        last = 0
        for document in documents:
            if document.ordinal >= number:
                first.append(document)
                break
            advance(document.ordinal - last)
            last = document.ordinal
    return itertools.chain(first, documents)
