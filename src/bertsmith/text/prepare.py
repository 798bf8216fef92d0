"""``bertsmith prepare``: raw text to a token store, over several processes.

The main process reads documents in order, drops copies and sends batches of text to workers, which find
sentences and tokenise; results come back in the same order with a bounded number under way. A shard ends
with the document that fills it, so the bytes of a store do not depend on the number of workers.

Finished shards and a journal stand in ``OUTPUT.partial`` until the store is whole and takes its name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bertsmith import files
from bertsmith.config import PrepareSettings
from bertsmith.console import Log, human
from bertsmith.errors import InputError
from bertsmith.text.corpus import Corpus, CorpusDocument, batches, expansion, sample
from bertsmith.text.partial import JOURNAL, PartialStore, refuse_foreign_directory, writing
from bertsmith.text.readers import find_files
from bertsmith.text.store import (
    CONFIG,
    FORMAT_VERSION,
    MANIFEST,
    TOKEN_COUNTS,
    TOKENIZER,
    TokenStore,
    id_dtype,
    read_manifest,
)
from bertsmith.text.tokenising import tokenise, tokenise_in_order
from bertsmith.text.tokenizer import Tokenizer
from bertsmith.text.word_cache import WordCache

# Settings that do not change what stands in a store, or that its fingerprint knows by their content.
_FREE = ("corpus", "vocab", "lowercase", "output", "workers")
# Offsets in a shard are 32-bit.
_MAX_SHARD_TOKENS = 1_000_000_000


def prepare(settings: PrepareSettings, log: Log = Log()) -> TokenStore:  # noqa: B008
    """Turn text files into a token store.

    A store that stands at ``settings.output`` with the same settings and sources is opened and returned.
    An interrupted call leaves its finished shards in ``OUTPUT.partial``; the same call goes on from there.

    Raises:
        InputError: the corpus holds no text, the vocabulary or a source cannot be read, the output is
            taken by something else, or the disk has too little room.
        KeyboardInterrupt: passed on after a line that says how to go on.
    """
    output = settings.output.absolute()
    partial = output.with_name(f"{output.name}.partial")
    # An output below a corpus folder must not become its own input the second time.
    paths = [p for p in find_files(settings.corpus, settings) if not _is_below(p, output, partial)]
    if not paths:
        raise InputError("no text files in the corpus", path=settings.corpus[0])
    tokenizer = Tokenizer.from_vocabulary(settings.vocab, lowercase=settings.lowercase)
    sources = _describe(paths, log)
    identity = {
        "format": FORMAT_VERSION,
        "settings": settings.model_dump(mode="json", exclude=set(_FREE)),
        "tokenizer": tokenizer.hash,
    }
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        return _existing(output, _fingerprint(identity, sources), log)

    refuse_foreign_directory(partial)
    with writing(partial):
        partial.mkdir(parents=True, exist_ok=True)
    with files.only_writer(partial):
        with writing(partial):
            work = PartialStore.open(partial, identity, sources, tokenizer.vocab_size, log)
            tokenizer.save(partial / TOKENIZER)
        try:
            _check_disk(paths, settings, tokenizer, work, log)
            corpus = Corpus(paths, settings)
            _fill(work, corpus, paths, settings, tokenizer, log)
            if not work.shards:
                raise InputError(f"no text found in {len(paths)} file(s): the corpus is empty", path=settings.corpus[0])
            with writing(partial):
                _finish(work, corpus, settings, tokenizer, output)
        except BaseException as error:
            _leave(work, error, log)
            raise
    store = TokenStore.open(output, check=False)
    _say_result(store, corpus, settings, log)
    return store


def _finish(work: PartialStore, corpus: Corpus, settings: PrepareSettings, tokenizer: Tokenizer, output: Path) -> None:
    """Write what stands beside the shards and give the directory its name."""
    files.write_json(work.path / MANIFEST, _manifest(work, corpus, settings, tokenizer))
    _write_array(work.path / TOKEN_COUNTS, work.token_counts)
    settings.write(work.path / CONFIG)
    # The journal goes last: until the store has its name, an interrupted run needs it.
    files.seal(work.path, leave_out=(JOURNAL, files.LOCK))
    work.path.replace(output)
    (output / JOURNAL).unlink()
    (output / files.LOCK).unlink()
    files.sync_directory(output.parent)


def _leave(work: PartialStore, error: BaseException, log: Log) -> None:
    """Tidy up after a run that did not end, and say how to go on if the user stopped it."""
    if not work.shards:
        shutil.rmtree(work.path, ignore_errors=True)
    if isinstance(error, KeyboardInterrupt):
        kept = (
            f"{len(work.shards)} finished shard(s) are kept in {_shown(work.path)}"
            if work.shards
            else "nothing is kept"
        )
        log.say(f"Interrupted: {kept}. Run the same command again to go on.")


def _fill(
    work: PartialStore, corpus: Corpus, paths: list[Path], settings: PrepareSettings, tokenizer: Tokenizer, log: Log
) -> None:
    """Read, tokenise and write everything that ``work`` does not hold yet."""
    total = sum(path.stat().st_size for path in paths) / 1e6
    shard_tokens = min(settings.shard_tokens, _MAX_SHARD_TOKENS)
    documents = _skip(corpus.documents(), work.documents_read, log)
    # A process takes a second to start and then learns the words of the text anew: worth it from 10 MB on.
    workers = settings.workers or max(1, min(_cores(), round((total - corpus.megabytes) / 10)))
    with log.progress("preparing", total - corpus.megabytes, "MB") as advance:
        tokens = 0
        for result, megabytes in tokenise_in_order(
            batches(documents, corpus), tokenizer, work.path / TOKENIZER, workers
        ):
            work.add(result, shard_tokens)
            tokens += len(result.token_ids)
            advance(megabytes, tokens=human(tokens))
    work.flush()


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


def _describe(paths: list[Path], log: Log) -> list[dict[str, Any]]:
    """Return path, size and SHA-256 of every source.

    Raises:
        InputError: one cannot be read.
    """
    sources = []
    total = sum(path.stat().st_size for path in paths)
    # Hashing takes about a second a gigabyte: nothing to show for less.
    shown = log if total > 1e9 else Log(quiet=True)
    with shown.progress("hashing sources", total / 1e6, "MB") as advance:
        for path in paths:
            size = path.stat().st_size
            try:
                sources.append({"path": str(path), "bytes": size, "sha256": files.sha256(path)})
            except OSError as error:
                raise InputError(f"cannot be read: {error.strerror}", path=path) from None
            advance(size / 1e6)
    return sources


def _fingerprint(identity: dict[str, Any], sources: list[dict[str, Any]]) -> str:
    """Return a hash over all that determines a store's content; where the sources lie is not part of it."""
    contents = [(Path(s["path"]).name, s["bytes"], s["sha256"]) for s in sources]
    return hashlib.sha256(json.dumps([identity, contents], sort_keys=True).encode()).hexdigest()


def _existing(output: Path, fingerprint: str, log: Log) -> TokenStore:
    if not output.is_dir() or not (output / MANIFEST).exists():
        raise InputError("exists and is not a token store; choose another output", path=output)
    if read_manifest(output).get("fingerprint") != fingerprint:
        raise InputError(
            "holds a token store made with other settings, another vocabulary or other sources; "
            "choose another output or delete it",
            path=output,
        )
    store = TokenStore.open(output)
    # A kill may have come between the store's name and these.
    for name in (JOURNAL, files.LOCK):
        (output / name).unlink(missing_ok=True)
    log.say(f"{_shown(output)} already holds this token store ({human(store.num_tokens)} tokens); nothing to do.")
    return store


def _check_disk(
    paths: list[Path], settings: PrepareSettings, tokenizer: Tokenizer, work: PartialStore, log: Log
) -> None:
    """Forecast the store's size from a sample and refuse to start without room for it."""
    text_bytes = sum(path.stat().st_size * expansion(path) for path in paths)
    documents = sample(paths, settings)
    tokenised = tokenise(documents, WordCache(tokenizer))
    sample_bytes = max(1, sum(len(d.text.encode("utf-8", "surrogatepass")) for d in documents))
    arrays = (getattr(tokenised, name).nbytes for name in ("token_ids", "sentence_lengths", "sentence_counts"))
    per_document = 12 * tokenised.num_documents
    forecast = (sum(arrays) + per_document) / sample_bytes * text_bytes
    tokens = len(tokenised.token_ids) / sample_bytes * text_bytes
    needed = 1.2 * forecast + 10e6 - sum(shard["bytes"] for shard in work.shards)
    free = shutil.disk_usage(work.path).free
    log.say(
        f"{len(paths)} file(s), about {human(text_bytes)}B of text: about {human(tokens)} tokens, "
        f"{human(forecast)}B on disk ({human(free)}B free)."
    )
    if needed > free:
        raise InputError(
            f"the store needs about {human(needed)}B and {human(free)}B are free; "
            "make room or choose an output on another disk",
            path=settings.output,
        )


def _manifest(work: PartialStore, corpus: Corpus, settings: PrepareSettings, tokenizer: Tokenizer) -> dict[str, Any]:
    totals = work.totals()
    private = ("last_source", "documents_read")
    reading = json.loads(json.dumps(dataclasses.asdict(corpus.report), default=str))
    return {
        "version": FORMAT_VERSION,
        "fingerprint": _fingerprint({k: v for k, v in work.identity.items() if k != "release"}, work.sources),
        "counts": {
            **totals,
            "unknown_tokens": int(work.token_counts[tokenizer.unk_id]),
            "duplicates_dropped": corpus.duplicates,
            "empty_dropped": corpus.read - corpus.duplicates - totals["documents"],
        },
        "tokenizer_hash": tokenizer.hash,
        "vocab_size": tokenizer.vocab_size,
        "id_dtype": id_dtype(tokenizer.vocab_size).name,
        "text": work.identity["settings"],
        "sources": [{**s, "sentences": rule} for s, rule in zip(work.sources, corpus.rules, strict=True)],
        "shards": [{k: v for k, v in shard.items() if k not in private} for shard in work.shards],
        "reading": {"warnings": corpus.report.warnings(), **reading},
    }


def _say_result(store: TokenStore, corpus: Corpus, settings: PrepareSettings, log: Log) -> None:
    counts = store.manifest["counts"]
    for warning in store.manifest["reading"]["warnings"]:
        log.warn(warning)
    rules = Counter(source["sentences"] for source in store.manifest["sources"])
    unknown = counts["unknown_tokens"] / counts["tokens"]
    log.say(
        f"{counts['documents']:,} documents, {counts['sentences']:,} sentences, {counts['tokens']:,} tokens; "
        f"{counts['duplicates_dropped']:,} exact duplicates and {counts['empty_dropped']:,} empty documents dropped."
    )
    log.say(
        f"{counts['characters'] / counts['tokens']:.2f} characters per token, {unknown:.3%} unknown; sentences by "
        + ", ".join(f"{rule} ({number} file(s))" for rule, number in sorted(rules.items()))
        + "."
    )
    if unknown > 0.02:
        log.warn(f"{unknown:.1%} of the tokens are unknown: the vocabulary does not fit this text")
    if counts["documents"] < 2:
        log.warn("the store holds a single document; next-sentence pairs need others (see the setting 'documents')")
    elif counts["documents_with_one_sentence"] > 0.9 * counts["documents"]:
        log.warn(
            f"{counts['documents_with_one_sentence']:,} of {counts['documents']:,} documents are one sentence: "
            "there is hardly a next sentence to predict (see the settings 'documents' and 'sentences')"
        )
    log.say(f"Token store: {_shown(store.path)}")
    log.say(f"Next: bertsmith pretrain {settings.output} --size mini --budget 20m -o RUN")


def _write_array(path: Path, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    files.write_bytes(path, buffer.getvalue())


def _is_below(path: Path, *directories: Path) -> bool:
    resolved = path.resolve()
    return any(resolved.is_relative_to(d.resolve()) for d in directories)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _shown(path: Path) -> str:
    """Return ``path`` as a user would type it here."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)
