"""``bertsmith embed``: a file of texts to a file of vectors, in flat memory, going on after a stop."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bertsmith import files
from bertsmith.console import Log, human
from bertsmith.errors import InputError
from bertsmith.feature_config import EmbedSettings
from bertsmith.features.encoder import Encoder, Text, Vectors, usable_precision
from bertsmith.features.formats import Finished, companions, format_of, how_to_read, write_output
from bertsmith.features.inputs import TextDigest, count_inputs, input_identity, read_inputs
from bertsmith.features.spool import (
    Progress,
    begin,
    begin_output,
    has_begun_output,
    open_spool,
    refuse_foreign,
    remove,
    work_directory,
)
from bertsmith.training.device import set_up_process
from bertsmith.training.disk import is_full
from bertsmith.training.launch import over_texts
from bertsmith.training.processes import Processes

_COMMIT_SECONDS = 5.0


def embed(settings: EmbedSettings, log: Log | None = None) -> Path:
    """Write the vectors of all texts of a file, and return the file.

    Row n of the output is the n-th row or line of the input. A parquet file has a column ``vector``, of tokens the
    columns ``token_ids`` and ``vectors``; safetensors ``vectors``, of tokens also ``starts`` and ``token_ids``; npy the
    vectors alone, with the others in files beside it. What is done is kept in ``OUTPUT.partial/``: the same command
    goes on after a stop and gives the same bytes. Started by torchrun or accelerate, or with ``devices``, several
    processes share the texts; the bytes do not depend on it.

    Raises:
        InputError: the model, a setting or the input cannot be used, the output exists, or unfinished work of another
            command stands beside it.
        LostProcessError: another of several processes ended.
    """
    return over_texts(embed, _embed, settings, log or Log(settings.quiet))


def _embed(settings: EmbedSettings, processes: Processes, log: Log) -> Path:
    """Do what :func:`embed` does, in one of its processes; the first one writes."""
    output, kind = settings.output, format_of(settings.output, settings.format)
    total = None
    if processes.is_first:
        _check_output(settings, kind)
        total = count_inputs(settings)
    threads = set_up_process(settings.threads)
    encoder = Encoder.load(
        settings.model,
        layers=settings.layers,
        pooling=settings.pooling,
        normalize=settings.normalize,
        max_length=settings.max_length,
        tokens=settings.tokens,
        device=settings.device,
        threads=threads,
        # Each process would time its own arithmetic; all must do the same.
        precision=processes.share(usable_precision(settings.model, settings.precision, settings.device)),
    )
    recipe = encoder.recipe
    which: str = "every token" if settings.tokens else recipe.pooling
    which = f"{which}, scaled to length 1" if recipe.normalize else which
    log.say(
        f"vectors of {encoder.width:,} numbers: layers {', '.join(map(str, recipe.layers.numbers))} "
        f"({recipe.layers.joined}), {which}; at most {recipe.max_length} tokens; "
        f"{encoder.device}, {recipe.precision}, {processes.in_short(threads)}"
    )
    if not processes.is_first:
        _help(settings, encoder, processes)
        return output
    job = _job(settings, encoder, kind)
    work = work_directory(output)
    with files.only_writer(work):
        done = processes.share(begin(work, job, overwrite=settings.overwrite))
        try:
            done = _encode(settings, encoder, done, total, processes, log)
        except KeyboardInterrupt:
            log.say(f"stopped; what is done is in {work}. The same command goes on.")
            raise
        except OSError as error:
            raise _full(error, work, encoder, settings.tokens, total) from error
        if not done.texts:
            remove(work)
            raise InputError("holds no text; expected at least one", path="standard input")
        finished = Finished(work, done.texts, done.tokens if settings.tokens else None, encoder.width, job)
        try:
            begin_output(work)
            write_output(finished, output.resolve(), kind)
        except OSError as error:
            raise _full(error, work, encoder, settings.tokens, total) from error
        remove(work)
    if done.truncated:
        log.warn(f"{done.truncated:,} of {done.texts:,} texts were longer than {recipe.max_length} tokens and were cut")
    log.say(f"{finished.rows:,} vectors of {encoder.width:,} numbers from {done.texts:,} texts: {output}")
    for path in companions(output, kind, tokens=settings.tokens):
        log.say(f"beside it: {path}")
    log.say(f"next, in Python: {how_to_read(output, kind)}")
    return output


def _full(error: OSError, work: Path, encoder: Encoder, tokens: bool, total: int | None) -> OSError | InputError:
    """Return what to say of an error in writing: with figures, where the disk is full."""
    if not is_full(error):
        return error
    size = 4 * encoder.width * total if total and not tokens else 0
    free = human(shutil.disk_usage(work).free)
    room = f"{human(size)}B of vectors are written twice, {free}B free" if size else f"{free}B free"
    return InputError(
        f"the disk is full ({room}). What is done is whole; make room, and the same command goes on",
        path=work,
    )


def _help(settings: EmbedSettings, encoder: Encoder, processes: Processes) -> None:
    """Encode this process's share of the texts that are not done yet for the first process."""
    done: Progress = processes.share(None)
    texts = read_inputs(settings)
    _skip(texts, done, TextDigest(), settings.input)
    for _ in _stretches(settings, encoder, texts, processes):
        pass


def _stretches(
    settings: EmbedSettings, encoder: Encoder, texts: Iterator[Text], processes: Processes
) -> Iterator[Vectors]:
    """Yield the vectors of all texts in their order, in the first process; the others give theirs, and get nothing."""
    own = encoder.stream(texts, tokens=settings.tokens, first=processes.rank, step=processes.size)
    while True:
        part = next(own, None)
        if not processes.any(part is not None):
            return
        yield from (found for found in processes.collected(part) if found is not None)


def _encode(
    settings: EmbedSettings, encoder: Encoder, done: Progress, total: int | None, processes: Processes, log: Log
) -> Progress:
    """Encode the texts that are not done yet and return the progress at the end."""
    work = work_directory(settings.output)
    if done.texts:
        log.say(f"goes on after {done.texts:,} texts")
    digest = TextDigest()
    texts = read_inputs(settings)
    _skip(texts, done, digest, settings.input)
    left = None if total is None else total - done.texts
    with (
        open_spool(work, tokens=settings.tokens, progress=done) as spool,
        log.progress("encoding", left, "texts") as advance,
    ):
        begun = committed = time.monotonic()
        before = done.tokens
        taken: list[Text] = []
        for part in _stretches(settings, encoder, _noted(texts, taken), processes):
            spool.add(part)
            for text in taken[: len(part.lengths)]:
                digest.add(text)
            del taken[: len(part.lengths)]
            done = Progress(
                done.texts + len(part.lengths),
                done.tokens + int(part.lengths.sum()),
                done.truncated + part.truncated,
                digest.value(),
            )
            now = time.monotonic()
            advance(len(part.lengths), tokens=f"{human((done.tokens - before) / max(now - begun, 1e-9))}/s")
            if now - committed >= _COMMIT_SECONDS:
                spool.commit(done)
                committed = now
        spool.commit(done)
    return done


def _noted(texts: Iterator[Text], taken: list[Text]) -> Iterator[Text]:
    """Pass texts on and keep those that are under way."""
    for text in texts:
        taken.append(text)
        yield text


def _skip(texts: Iterator[Text], done: Progress, digest: TextDigest, path: Path) -> None:
    """Pass over the texts that are done.

    Raises:
        InputError: they are not the ones that were done.
    """
    for _, text in zip(range(done.texts), texts, strict=False):
        digest.add(text)
    if done.texts and digest.value() != done.digest:
        raise InputError(
            f"does not begin with the {done.texts:,} texts that are done already; --overwrite begins anew",
            path="standard input" if str(path) == "-" else path,
        )


def _job(settings: EmbedSettings, encoder: Encoder, kind: str) -> dict[str, Any]:
    """Return what vectors are made of and with: the identity of the work, and the output's metadata."""
    return {
        "model": encoder.checksum,
        "input": input_identity(settings.input),
        **encoder.recipe.to_json(),
        "tokens": settings.tokens,
        "text": settings.text,
        "text_b": settings.text_b,
        "encoding": settings.encoding,
        "quoting": settings.quoting,
        "format": kind,
        "device": encoder.device.type,
    }


def _check_output(settings: EmbedSettings, kind: str) -> None:
    output = settings.output
    if output.is_dir():
        raise InputError("is a directory; expected the name of a file to write", path=output)
    refuse_foreign(work_directory(output))
    is_ours = has_begun_output(work_directory(output))
    for path in (output, *companions(output, kind, tokens=settings.tokens)):
        if path.exists() and settings.input.exists() and path.samefile(settings.input):
            raise InputError("is the input itself; choose another file to write to", path=path)
        if path.exists() and not (settings.overwrite or is_ours):
            raise InputError("exists; choose another output, or give --overwrite to replace it", path=path)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be made as a directory: {error.strerror}", path=output.parent) from None
