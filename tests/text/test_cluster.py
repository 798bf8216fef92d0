"""A real Ray cluster of two machines (on this one): the same bytes as without it, also when a machine is lost."""

from __future__ import annotations

import functools
import gzip
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertsmith.config import CorpusSettings, PrepareSettings, VocabularySettings
from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.text import cluster as cluster_module
from bertsmith.text.cluster import Group, Task, connected, parts_of
from bertsmith.text.corpus import Corpus, CorpusDocument
from bertsmith.text.engine import Engine
from bertsmith.text.prepare import prepare
from bertsmith.text.readers import find_files
from bertsmith.text.screen import Screen, hash_lines, line_hashes
from bertsmith.text.vocabulary import learn_vocabulary
from tests.conftest import made_up_text
from tests.text.test_prepare import changed, content, interrupted

QUIET = Log(quiet=True)
STORE_BYTES = 80_000_000


@pytest.fixture(scope="module")
def machines() -> Iterator[Any]:
    """Two machines of one processor each, the second of which can be lost."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # A machine that is busy with other things starts slowly.
        patch.setenv("RAY_raylet_start_wait_time_s", "300")
        patch.setenv("RAY_agent_register_timeout_ms", "300000")
        first = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False}
        found = Cluster(initialize_head=True, head_node_args=first)
        found.second = found.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        yield found
        found.shutdown()


@pytest.fixture
def settings(tmp_path: Path, vocabulary: Path) -> PrepareSettings:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text(made_up_text(50, seed=1), encoding="utf-8")
    (folder / "b.txt.gz").write_bytes(gzip.compress(made_up_text(30, seed=2).encode()))
    (folder / "c.txt").write_text(" \n")
    again = made_up_text(50, seed=1).strip().split("\n\n")[7:20] + made_up_text(20, seed=3).strip().split("\n\n")
    (folder / "d.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in again), encoding="utf-8")
    return PrepareSettings(
        corpus=[folder],
        vocab=vocabulary,
        output=tmp_path / "store",
        documents="blank-line",
        shard_tokens=1000,
        workers=1,
    )


@pytest.fixture(autouse=True)
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "GROUP_BYTES", 3000)


def elsewhere(settings: Any, machines: Any, output: Path) -> Any:
    return changed(settings, engine="ray", address=machines.address, output=output)


def test_prepare_gives_the_same_bytes(settings: PrepareSettings, tmp_path: Path, machines: Any) -> None:
    whole = changed(settings, repeated_lines=6, near_duplicates=0.9)
    here = prepare(changed(whole, output=tmp_path / "here"), QUIET)
    assert here.manifest["counts"]["duplicates_dropped"] >= 13
    assert len(here.manifest["shards"]) > 2
    there = prepare(elsewhere(whole, machines, tmp_path / "there"), QUIET)
    assert content(there.path) == content(here.path)


def test_an_interrupted_run_goes_on_there(settings: PrepareSettings, tmp_path: Path, machines: Any) -> None:
    expected = content(prepare(changed(settings, output=tmp_path / "whole"), QUIET).path)
    interrupted(settings, 2)
    assert content(prepare(elsewhere(settings, machines, settings.output), QUIET).path) == expected


def test_vocab_gives_the_same_bytes(settings: PrepareSettings, tmp_path: Path, machines: Any) -> None:
    ours = VocabularySettings(
        corpus=settings.corpus, size=150, held_out=0.2, documents="blank-line", output=tmp_path / "here"
    )
    learn_vocabulary(ours, QUIET)
    learn_vocabulary(elsewhere(ours, machines, tmp_path / "there"), QUIET)
    assert [(tmp_path / "here" / n).read_bytes() for n in ("vocab.txt", "tokenizer.json", "report.json")] == [
        (tmp_path / "there" / n).read_bytes() for n in ("vocab.txt", "tokenizer.json", "report.json")
    ]


def test_an_error_names_its_file(settings: PrepareSettings, tmp_path: Path, machines: Any) -> None:
    (tmp_path / "corpus" / "d.jsonl").write_text('{"text": "a b."}\n{"other": 1}\n')
    with pytest.raises(InputError, match=r"d\.jsonl:2: has no field 'text'"):
        prepare(elsewhere(settings, machines, tmp_path / "there"), QUIET)


def test_a_lost_machine_costs_nothing_but_time(
    settings: PrepareSettings, tmp_path: Path, machines: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = find_files(settings.corpus, settings)
    doomed, mark = machines.second.node_id, tmp_path / "mark"

    def work(documents: list[CorpusDocument]) -> Any:
        import ray

        if ray.get_runtime_context().get_node_id() == doomed:
            mark.touch()
            time.sleep(600)
        return hash_lines(documents)

    def kill() -> None:
        while not mark.exists():
            time.sleep(0.05)
        machines.remove_node(machines.second, allow_graceful=False)

    expected = [result.hashes for result, _ in Engine(1, None, QUIET).results(Corpus(paths, settings), hash_lines)]
    killer = threading.Thread(target=kill)
    killer.start()
    with connected(elsewhere(settings, machines, tmp_path)) as cluster:
        assert cluster is not None
        found = [r.hashes for r, _ in cluster.results(Corpus(paths, settings), work, 0, 0, Log())]
    killer.join()
    assert mark.exists()
    assert np.concatenate(found).tolist() == np.concatenate(expected).tolist()
    assert "the cluster lost a machine or process; its files from" in capsys.readouterr().err


def test_nobody_at_the_address(settings: PrepareSettings, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(InputError, match=f"address {address}: no Ray cluster answers there"):
        prepare(changed(settings, engine="ray", address=address), QUIET)


def test_the_extra_is_named(settings: PrepareSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'bertsmith\[cluster\]'"):
        prepare(changed(settings, engine="ray"), QUIET)


def texts_of(documents: list[CorpusDocument]) -> list[str]:
    return [document.text for document in documents]


def test_a_task_can_go_on_after_some_parts(settings: PrepareSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertsmith.text.corpus.BATCH_CHARACTERS", 900)
    paths = tuple(find_files(settings.corpus, settings))
    task = Task(CorpusSettings(documents="blank-line"), None, texts_of, after_source=1)
    whole = list(parts_of(task, Group(0, paths)))
    assert [part.source for part in whole] == sorted(part.source for part in whole)
    assert {part.source for part in whole if part.end} == {0, 1, 2, 3}
    assert sum(part.megabytes for part in whole) == pytest.approx(sum(p.stat().st_size for p in paths) / 1e6)
    # Files that need no work give digests alone, and so do those without a document.
    assert [part.result is None for part in whole] == [part.source in (0, 2) or not len(part.digests) for part in whole]
    for skip in (1, 4, len(whole)):
        rest = list(parts_of(task, Group(0, paths), skip=skip))
        assert [(p.source, p.digests.tolist(), p.result) for p in rest] == [
            (p.source, p.digests.tolist(), p.result) for p in whole[skip:]
        ]


def test_a_task_takes_the_documents_that_are_wanted(settings: PrepareSettings) -> None:
    path = settings.corpus[0] / "d.jsonl"
    task = Task(CorpusSettings(), None, texts_of)
    (every,) = parts_of(task, Group(3, (path,)))
    keep = np.arange(33) % 3 == 0
    (some,) = parts_of(task, Group(3, (path,)), {3: keep})
    assert some.result == [text for text, kept in zip(every.result, keep, strict=True) if kept]
    line = every.result[0].split("\n")[0]
    screen = Screen(line_hashes([line]), np.zeros(0, dtype=np.int64))
    (without,) = parts_of(Task(CorpusSettings(), screen, texts_of), Group(3, (path,)))
    assert not any(line in text.split("\n") for text in without.result)


def test_other_versions_do_not_mix(settings: PrepareSettings) -> None:
    task = Task(CorpusSettings(), None, functools.partial(texts_of), release="0.0.1")
    with pytest.raises(InputError, match=r"has Bertsmith .*, and 0\.0\.1 gave out the work"):
        next(iter(parts_of(task, Group(0, (settings.corpus[0] / "a.txt",)))))
