"""Documents to token ids: the work of a worker."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal, cast

import numpy as np

from bertsmith.text.corpus import CorpusDocument
from bertsmith.text.sentences import split_sentences
from bertsmith.text.shards import TokenisedDocuments
from bertsmith.text.tokenizer import Tokenizer
from bertsmith.text.word_cache import WordCache
from bertsmith.text.workers import Work


def tokenise(documents: list[CorpusDocument], words: WordCache) -> TokenisedDocuments:
    """Find the sentences of documents and their ids. Sentences without a token are left out."""
    sentences: list[str] = []
    owners: list[int] = []
    for number, document in enumerate(documents):
        rule = cast(Literal["rules", "line", "kiwi"], document.rule)
        found = split_sentences(document.text, rule)
        sentences += found
        owners += [number] * len(found)
    ids, lengths = words.sentence_ids(sentences)
    full = lengths > 0
    owner = np.array(owners, dtype=np.int64)[full]
    characters = np.array([len(s) for s in sentences], dtype=np.int64)[full]
    return TokenisedDocuments(
        sentence_counts=np.bincount(owner, minlength=len(documents)).astype(np.int32),
        sentence_lengths=lengths[full],
        token_ids=ids,
        characters=np.bincount(owner, weights=characters, minlength=len(documents)).astype(np.int64),
        sources=np.array([d.source for d in documents], dtype=np.int32),
        lines=np.array([d.line for d in documents], dtype=np.int64),
        ordinals=np.array([d.ordinal for d in documents], dtype=np.int64),
    )


def tokenising(tokenizer: Tokenizer, directory: Path, workers: int) -> Work[TokenisedDocuments]:
    """Return :func:`tokenise` as what workers do.

    Args:
        tokenizer: used in this process when there is one worker; a cluster gets it too.
        directory: the same tokenizer on disk, which worker processes load.
        workers: processes.
    """
    if workers == 1:
        return functools.partial(tokenise, words=WordCache(tokenizer))
    return functools.partial(_tokenise, directory=str(directory))


def _tokenise(documents: list[CorpusDocument], directory: str) -> TokenisedDocuments:
    return tokenise(documents, _words(directory))


@functools.cache
def _words(directory: str) -> WordCache:
    return WordCache(Tokenizer.load(directory))
