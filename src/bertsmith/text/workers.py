"""Work on batches of documents, in this process or in several of this machine, results always in their order."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from typing import TypeVar

from bertsmith.errors import InputError
from bertsmith.text.corpus import CorpusDocument, DocumentBatch

Result = TypeVar("Result")
Work = Callable[[list[CorpusDocument]], Result]
"""What is done with a batch of documents, wherever that is; it can be pickled."""


def in_order(batches: Iterator[DocumentBatch], work: Work[Result], workers: int) -> Iterator[tuple[Result, float]]:
    """Yield what ``work`` makes of each batch, and the batch's size in megabytes of the source files.

    Args:
        batches: read as results are taken; at most two a worker are under way.
        work: what is done; with several workers it goes to other processes with every batch.
        workers: processes; 1 stays in this one.

    Raises:
        InputError: a worker process was killed.
    """
    if workers == 1:
        for batch in batches:
            yield work(batch.documents), batch.megabytes
        return
    # Started afresh, not forked: this process may hold threads of torch or of the tokenizer.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker)
    under_way: deque[tuple[Future[Result], float]] = deque()
    try:
        for batch in batches:
            if len(under_way) >= 2 * workers:
                result, megabytes = under_way.popleft()
                yield _result_of(result), megabytes
            with _interrupts_held():
                future = pool.submit(work, batch.documents)
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


def _result_of(future: Future[Result]) -> Result:
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
