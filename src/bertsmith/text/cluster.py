"""Work on a corpus by the machines of a Ray cluster, a task a group of files; results in the order of the corpus.

A task reads its files, does the work and yields what came out batch by batch, with the digests of the documents. Which
documents are copies of earlier ones only this process can tell, and it leaves them out. A task whose machine or process
is lost is given out again, and goes on after the batches that have arrived.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertsmith import __version__
from bertsmith.config import CorpusSettings
from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.remote import Source, hash_of, size_of
from bertsmith.text.corpus import (
    Corpus,
    CorpusDocument,
    digest_of,
    expansion,
    grouped,
    open_documents,
)
from bertsmith.text.engine import Result
from bertsmith.text.readers import Document, ReadReport
from bertsmith.text.screen import Screen
from bertsmith.text.workers import Work

GROUP_BYTES = 50_000_000
"""Files up to so much text together are one task: a process learns the words of the text anew for each."""

_DIGEST = 16
# A group may be lost so often, without a batch of it having arrived in between, before it is given up.
_MOST_LOSSES = 5


@dataclass(frozen=True)
class Part:
    """What came out of consecutive documents of one file.

    Attributes:
        source: the file's number.
        digests: (D, 16) uint8.
        result: of the work; None where none was asked for, or there are no documents.
        megabytes: how much of the file that was, about.
        end: with a file's last part, its sentence rule and what its reader met.
    """

    source: int
    digests: np.ndarray
    result: Any
    megabytes: float
    end: tuple[str, ReadReport] | None


@dataclass(frozen=True)
class Group:
    """Consecutive files of a corpus.

    Attributes:
        first: the first one's number.
        paths: the files.
    """

    first: int
    paths: tuple[Source, ...]


@dataclass(frozen=True)
class Task:
    """What all groups of a pass have in common.

    Attributes:
        settings: how files are read.
        screen: what is left out of documents.
        work: what is done with documents; None for their digests alone.
        after_source: files before this one need no work.
        release: the version that gives out the tasks.
    """

    settings: CorpusSettings
    screen: Screen | None
    work: Work[Any] | None
    after_source: int = 0
    release: str = __version__


def parts_of(task: Task, group: Group, keep: dict[int, np.ndarray] | None = None, skip: int = 0) -> Iterator[Part]:
    """Do the work on a group's files: what runs on a machine of the cluster.

    Args:
        task: the work.
        group: the files.
        keep: by file which of its documents are wanted, (D,) bool; others are passed over as if they were not there.
        skip: the first parts are not wanted: for them nothing is done but reading.

    Raises:
        InputError: a file cannot be read, or this machine has another version of Bertsmith.
    """
    if task.release != __version__:
        raise InputError(f"a machine of the cluster has Bertsmith {__version__}, and {task.release} gave out the work")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    number = 0
    for source, path in enumerate(group.paths, start=group.first):
        report = ReadReport()
        rule, documents = open_documents(path, task.settings, report)
        work = task.work if source >= task.after_source else None
        read, left = 0, size_of(path) / 1e6
        if keep is not None:
            documents = itertools.compress(documents, keep[source])
        for batch, is_last in grouped(documents):
            texts = [document.text.encode("utf-8", "surrogatepass") for document in batch]
            done = left if is_last else min(left, sum(map(len, texts)) / 1e6 / expansion(path))
            number += 1
            if number > skip:
                yield Part(
                    source=source,
                    digests=np.frombuffer(b"".join(map(digest_of, texts)), dtype=np.uint8).reshape(-1, _DIGEST),
                    result=work(_screened(batch, task.screen, rule, source, read)) if work and batch else None,
                    megabytes=done,
                    end=(rule, report) if is_last else None,
                )
            read += len(batch)
            left -= done


def _screened(
    documents: list[Document], screen: Screen | None, rule: str, source: int, read: int
) -> list[CorpusDocument]:
    texts = [d.text if screen is None else screen.without_repeated(d.text) for d in documents]
    return [
        CorpusDocument(text, rule, source, document.line, ordinal)
        for ordinal, (text, document) in enumerate(zip(texts, documents, strict=True), start=read)
    ]


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster that this process is connected to.

    Attributes:
        ray: the library.
    """

    ray: Any

    def results(
        self, corpus: Corpus, work: Work[Result], after: int, after_source: int, log: Log
    ) -> Iterator[tuple[Result, float]]:
        """Do what :meth:`bertsmith.text.engine.Engine.results` says."""
        task = Task(corpus.settings, corpus.screen, work, after_source)
        for part in self.parts(task, corpus.paths, log):
            before = corpus.read
            kept = np.array(corpus.admit([digest.tobytes() for digest in part.digests]), dtype=bool)
            if part.end is not None:
                rule, report = part.end
                corpus.rules.append(rule)
                corpus.report.merge(report)
            corpus.megabytes += part.megabytes
            if part.result is not None:
                # Tasks count the documents of their file, and those before it only this process knows.
                first = before - int(part.result.ordinals[0]) if len(kept) else 0
                result: Result = dataclasses.replace(part.result, ordinals=part.result.ordinals + first)
                yield result.where(kept & (result.ordinals >= after)), part.megabytes

    def parts(
        self, task: Task, paths: Sequence[Source], log: Log, keep: Sequence[np.ndarray] | None = None
    ) -> Iterator[Part]:
        """Yield what comes out of all files, in their order.

        Args:
            task: the work.
            paths: the files.
            log: told when a machine was lost.
            keep: as in :func:`parts_of`, for every file.

        Raises:
            InputError: a file cannot be read, or a group of files was lost again and again.
        """
        ray = self.ray
        shared = ray.put(task)
        remote = ray.remote(max_retries=0)(parts_of)

        def give_out(group: Group, skip: int = 0) -> Any:
            wanted = None
            if keep is not None:
                wanted = {source: keep[source] for source in range(group.first, group.first + len(group.paths))}
            return remote.remote(shared, group, wanted, skip)

        under_way: deque[tuple[Group, Any]] = deque()
        waiting = deque(_groups(paths))
        try:
            while waiting or under_way:
                while waiting and len(under_way) <= self._processors():
                    group = waiting.popleft()
                    under_way.append((group, give_out(group)))
                group, stream = under_way[0]
                yield from self._taken(group, stream, give_out, log)
                under_way.popleft()
        finally:
            for _, stream in under_way:
                with contextlib.suppress(ray.exceptions.RayError):
                    ray.cancel(stream)

    def _taken(self, group: Group, stream: Any, give_out: Callable[[Group, int], Any], log: Log) -> Iterator[Part]:
        """Yield a group's parts; where its machine is lost, give it out again and go on after those that came."""
        exceptions = self.ray.exceptions
        taken = losses = 0
        while True:
            try:
                for reference in stream:
                    part: Part = self.ray.get(reference)
                    taken, losses = taken + 1, 0
                    yield part
                return
            except exceptions.RayTaskError as error:
                raise _cause(error) from None
            except exceptions.RayError as error:
                losses += 1
                if losses > _MOST_LOSSES:
                    raise InputError(
                        f"the cluster lost its work on this file {losses} times in a row ({_first_line(error)}); "
                        "is there memory enough on its machines?",
                        path=group.paths[0],
                    ) from None
                log.warn(f"the cluster lost a machine or process; its files from {group.paths[0]} on go to another")
                stream = give_out(group, taken)

    def hashes(self, paths: Sequence[Source]) -> Iterator[str]:
        """Yield the SHA-256 of each file, in hexadecimal digits.

        Raises:
            InputError: one cannot be read.
        """
        ray = self.ray
        remote = ray.remote(max_retries=-1)(hash_of)
        under_way: deque[Any] = deque()
        for number, path in enumerate(paths):
            under_way.append(remote.remote(path))
            while under_way and (len(under_way) > 2 * self._processors() or number == len(paths) - 1):
                try:
                    digest: str = ray.get(under_way.popleft())
                except ray.exceptions.RayTaskError as error:
                    raise _cause(error) from None
                yield digest

    def _processors(self) -> int:
        # Asked each time: a cluster may grow.
        return max(1, int(self.ray.cluster_resources().get("CPU", 1)))


def _groups(paths: Sequence[Source]) -> Iterator[Group]:
    first, held, size = 0, list[Source](), 0.0
    for number, path in enumerate(paths):
        held.append(path)
        size += size_of(path) * expansion(path)
        if size >= GROUP_BYTES or number == len(paths) - 1:
            yield Group(first, tuple(held))
            first, held, size = number + 1, [], 0.0


def _cause(error: Any) -> BaseException:
    """Return what a task raised: a user's error as such, anything else with what Ray tells about it."""
    return error.cause if isinstance(error.cause, InputError) else error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


@contextlib.contextmanager
def connected(settings: CorpusSettings) -> Iterator[Cluster | None]:
    """Connect to the cluster that the settings ask for; None where they ask for this machine's processes.

    Raises:
        InputError: Ray is not installed, or there is no cluster at the address.
    """
    if settings.engine != "ray":
        yield None
        return
    # Nothing is told about what users do.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise InputError("--engine ray needs Ray: pip install 'bertsmith[cluster]'") from None
    if ray.is_initialized():
        yield Cluster(ray)
        return
    # Without "local", Ray would look for a cluster that somebody may have left here.
    address = settings.address or os.environ.get("RAY_ADDRESS") or "local"
    try:
        _require_listener(address)
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray has no common type for it either
        raise InputError(f"address {address}: no Ray cluster answers there ({_first_line(error)})") from None
    try:
        yield Cluster(ray)
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """Check that somebody listens at host:port; Ray itself would wait for many minutes.

    Raises:
        OSError: nobody does.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()
