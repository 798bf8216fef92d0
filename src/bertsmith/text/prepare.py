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
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bertsmith import files
from bertsmith.config import PrepareSettings
from bertsmith.console import Log, human
from bertsmith.errors import InputError
from bertsmith.machine import cpu_quota
from bertsmith.remote import Source, hash_of, size_of
from bertsmith.text.cluster import Cluster, connected
from bertsmith.text.corpus import Corpus, expansion, sample
from bertsmith.text.engine import Engine
from bertsmith.text.minhash import require_datasketch
from bertsmith.text.partial import JOURNAL, PartialStore, refuse_foreign_directory, writing
from bertsmith.text.readers import find_files
from bertsmith.text.screen import SCREEN, Screen
from bertsmith.text.screening import look_at_corpus, scratch_bytes
from bertsmith.text.shards import id_dtype
from bertsmith.text.store import CONFIG, FORMAT_VERSION, MANIFEST, TOKEN_COUNTS, TOKENIZER, TokenStore, read_manifest
from bertsmith.text.tokenising import tokenise, tokenising
from bertsmith.text.tokenizer import Tokenizer
from bertsmith.text.word_cache import WordCache

# Settings that do not change what stands in a store, or that its fingerprint knows by their content.
_FREE = ("corpus", "vocab", "lowercase", "output", "workers", "engine", "address", "cache", "cache_gb")
# Settings that change nothing where they are not given: a store is the same as before they existed.
_OPTIONAL = ("near_duplicates", "repeated_lines")
# What stands in a store only while it is made.
_WORKING_FILES = (JOURNAL, SCREEN, files.LOCK)
# Offsets in a shard are 32-bit.
_MAX_SHARD_TOKENS = 1_000_000_000
# More of them are in the manifest.
_SAID_EXAMPLES = 3


def prepare(settings: PrepareSettings, log: Log = Log()) -> TokenStore:  # noqa: B008
    """Turn text files into a token store.

    A store that stands at ``settings.output`` with the same settings and sources is opened and returned.
    An interrupted call leaves its finished shards in ``OUTPUT.partial``; the same call goes on from there.

    Raises:
        InputError: the corpus holds no text, the vocabulary or a source cannot be read, the output is
            taken by something else, or the disk has too little room.
        KeyboardInterrupt: passed on after a line that says how to go on.
    """
    with connected(settings) as cluster:
        return _prepare(settings, cluster, log)


def _prepare(settings: PrepareSettings, cluster: Cluster | None, log: Log) -> TokenStore:
    if settings.near_duplicates is not None:
        require_datasketch()
    output = settings.output.absolute()
    partial = output.with_name(f"{output.name}.partial")
    # An output below a corpus folder must not become its own input the second time.
    paths = [p for p in find_files(settings.corpus, settings) if not _is_below(p, output, partial)]
    if not paths:
        raise InputError("no text files in the corpus", path=settings.corpus[0])
    tokenizer = Tokenizer.from_vocabulary(settings.vocab, lowercase=settings.lowercase)
    sources = _describe(paths, cluster, log)
    identity = {
        "format": FORMAT_VERSION,
        "settings": {
            name: value
            for name, value in settings.model_dump(mode="json", exclude=set(_FREE)).items()
            if name not in _OPTIONAL or value is not None
        },
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
            engine = Engine(_workers(paths, settings), cluster, log)
            screen = _screen(work, paths, settings, engine, log)
            corpus = Corpus(paths, settings, screen)
            _fill(work, corpus, settings, tokenizer, engine)
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
    files.seal(work.path, leave_out=_WORKING_FILES)
    work.path.replace(output)
    _remove_working_files(output)
    files.sync_directory(output.parent)


def _remove_working_files(output: Path) -> None:
    for name in _WORKING_FILES:
        (output / name).unlink(missing_ok=True)


def _leave(work: PartialStore, error: BaseException, log: Log) -> None:
    """Tidy up after a run that did not end, and say how to go on if the user stopped it."""
    is_kept = work.shards or (work.path / SCREEN).exists()
    if not is_kept:
        shutil.rmtree(work.path, ignore_errors=True)
    if isinstance(error, KeyboardInterrupt):
        kept = f"{len(work.shards)} finished shard(s) are kept in {_shown(work.path)}" if is_kept else "nothing is kept"
        log.say(f"Interrupted: {kept}. Run the same command again to go on.")


def _workers(paths: Sequence[Source], settings: PrepareSettings) -> int:
    # A process takes a second to start and then learns the words of the text anew: worth it from 10 MB on.
    return settings.workers or max(1, min(cpu_quota(), round(sum(map(size_of, paths)) / 1e7)))


def _screen(
    work: PartialStore, paths: list[Source], settings: PrepareSettings, engine: Engine, log: Log
) -> Screen | None:
    """Return what is left out of the corpus; an interrupted run may have found it already."""
    if settings.near_duplicates is None and settings.repeated_lines is None:
        return None
    screen = Screen.read(work.path)
    if screen is None:
        with writing(work.path):
            screen = look_at_corpus(paths, settings, engine, work.path, log)
            screen.write(work.path)
    return screen


def _fill(work: PartialStore, corpus: Corpus, settings: PrepareSettings, tokenizer: Tokenizer, engine: Engine) -> None:
    """Read, tokenise and write everything that ``work`` does not hold yet."""
    total = sum(map(size_of, corpus.paths)) / 1e6
    shard_tokens = min(settings.shard_tokens, _MAX_SHARD_TOKENS)
    workers = 1 if engine.cluster else engine.workers
    to_ids = tokenising(tokenizer, work.path / TOKENIZER, workers)
    results = engine.results(corpus, to_ids, work.documents_read, work.last_source)
    with engine.log.progress("preparing", total - corpus.megabytes, "MB") as advance:
        tokens = 0
        for result, megabytes in results:
            work.add(result, shard_tokens)
            tokens += len(result.token_ids)
            advance(megabytes, tokens=human(tokens))
    work.flush()


def _describe(paths: Sequence[Source], cluster: Cluster | None, log: Log) -> list[dict[str, Any]]:
    """Return path, size and SHA-256 of every source.

    Raises:
        InputError: one cannot be read.
    """
    sources = []
    total = sum(map(size_of, paths))
    # Hashing takes about a second a gigabyte: nothing to show for less.
    shown = log if total > 1e9 else Log(quiet=True)
    hashes = map(hash_of, paths) if cluster is None else cluster.hashes(paths)
    with shown.progress("hashing sources", total / 1e6, "MB") as advance:
        for path, sha256 in zip(paths, hashes, strict=True):
            sources.append({"path": str(path), "bytes": size_of(path), "sha256": sha256})
            advance(size_of(path) / 1e6)
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
    _remove_working_files(output)
    log.say(f"{_shown(output)} already holds this token store ({human(store.num_tokens)} tokens); nothing to do.")
    return store


def _check_disk(
    paths: Sequence[Source], settings: PrepareSettings, tokenizer: Tokenizer, work: PartialStore, log: Log
) -> None:
    """Forecast the store's size from a sample and refuse to start without room for it."""
    text_bytes = sum(size_of(path) * expansion(path) for path in paths)
    documents = sample(paths, settings)
    tokenised = tokenise(documents, WordCache(tokenizer))
    sample_bytes = max(1, sum(len(d.text.encode("utf-8", "surrogatepass")) for d in documents))
    arrays = (getattr(tokenised, name).nbytes for name in ("token_ids", "sentence_lengths", "sentence_counts"))
    per_document = 12 * tokenised.num_documents
    forecast = (sum(arrays) + per_document) / sample_bytes * text_bytes
    tokens = len(tokenised.token_ids) / sample_bytes * text_bytes
    lines = sum(document.text.count("\n") + 1 for document in documents)
    scratch = scratch_bytes(lines / sample_bytes * text_bytes, len(documents) / sample_bytes * text_bytes, settings)
    needed = 1.2 * (forecast + scratch) + 10e6 - sum(shard["bytes"] for shard in work.shards)
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
            "empty_dropped": corpus.read - corpus.duplicates - corpus.near_duplicates - totals["documents"],
        },
        **({"screening": corpus.screen.report} if corpus.screen is not None else {}),
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
    _say_screening(store.manifest.get("screening", {}), log)
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
    log.say(f"Token store: {_shown(settings.output)}")
    log.say(f"Next: bertsmith pretrain {settings.output} --size auto --budget 20m -o RUN")


def _say_screening(report: dict[str, Any], log: Log) -> None:
    if lines := report.get("repeated_lines"):
        log.say(
            f"{lines['lines']:,} lines left out, {lines['share']:.1%} of the text: {lines['different']:,} different "
            f"ones, each of them more than {lines['limit']} times in the corpus."
        )
        for example in lines["examples"][:_SAID_EXAMPLES]:
            log.say(f"  {example['times']:,} times, first at {example['first_in_document_at']}: {example['line'][:80]}")
    if near := report.get("near_duplicates"):
        log.say(
            f"{near['documents']:,} near duplicates dropped ({near['share']:.1%} of the text): documents that are "
            f"{near['threshold']:.0%} or more like an earlier one."
        )
        for example in near["examples"][:_SAID_EXAMPLES]:
            log.say(f"  {example['document']} is like {example['is_like']} ({example['similarity']:.0%})")


def _write_array(path: Path, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    files.write_bytes(path, buffer.getvalue())


def _is_below(path: Source, *directories: Path) -> bool:
    return isinstance(path, Path) and any(path.resolve().is_relative_to(d.resolve()) for d in directories)


def _shown(path: Path) -> str:
    """Return ``path`` as a user would type it here."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)
