"""Documents to token ids, in this process or in several, results always in the order of the documents."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Literal, cast

import numpy as np

from bertsmith.errors import InputError
from bertsmith.text.corpus import CorpusDocument, DocumentBatch
from bertsmith.text.sentences import split_sentences
from bertsmith.text.store import TokenisedDocuments
from bertsmith.text.tokenizer import Tokenizer
from bertsmith.text.word_cache import WordCache


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


def tokenise_in_order(
    batches: Iterator[DocumentBatch], tokenizer: Tokenizer, directory: Path, workers: int
) -> Iterator[tuple[TokenisedDocuments, float]]:
    """Yield each batch tokenised, and its size in megabytes of the source files.

    Args:
        batches: read as results are taken; at most two a worker are under way.
        tokenizer: used in this process when there is one worker.
        directory: the same tokenizer on disk, which worker processes load.
        workers: processes; 1 stays in this one.

    Raises:
        InputError: a worker process was killed.
    """
    if workers == 1:
        words = WordCache(tokenizer)
        for batch in batches:
            yield tokenise(batch.documents, words), batch.megabytes
        return
    # Started afresh, not forked: this process may hold threads of torch or of the tokenizer.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker)
    under_way: deque[tuple[Future[TokenisedDocuments], float]] = deque()
    try:
        for batch in batches:
            if len(under_way) >= 2 * workers:
                result, megabytes = under_way.popleft()
                yield _result_of(result), megabytes
            with _interrupts_held():
                future = pool.submit(_work, batch.documents, str(directory))
            under_way.append((future, batch.megabytes))
        while under_way:
            result, megabytes = under_way.popleft()
            yield _result_of(result), megabytes
    except BrokenProcessPool:
        raise InputError(
            "a worker process ended before its work was done: memory ran out (take fewer workers), or a script called "
            "prepare() outside of 'if __name__ == \"__main__\":' (put it there, or take workers=1)"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _result_of(future: Future[TokenisedDocuments]) -> TokenisedDocuments:
    """Wait for a result; Ctrl-C comes through between two looks.

    In the middle of one it could leave a lock of the pool taken, and ending the pool would wait for ever.
    """
    while True:
        with _interrupts_held():
            if wait([future], timeout=0.2).done:
                return future.result()


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Let Ctrl-C wait, here and in the processes that the block starts.

    Ctrl-C reaches every process of the terminal; the main one decides what to do about it, and a worker
    that is still starting must not print a traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # One thread a worker: the processes are the parallelism.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when the one that started it is killed; otherwise it would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _work(documents: list[CorpusDocument], directory: str) -> TokenisedDocuments:
    return tokenise(documents, _words(directory))


@functools.cache
def _words(directory: str) -> WordCache:
    return WordCache(Tokenizer.load(directory))
