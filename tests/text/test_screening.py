"""Repeated lines and near copies, as options of ``prepare``: against a plain count, with any number of processes."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertsmith.config import PrepareSettings
from bertsmith.console import Log
from bertsmith.text import prepare as prepare_module
from bertsmith.text import screening
from bertsmith.text.corpus import Corpus
from bertsmith.text.prepare import prepare
from bertsmith.text.readers import find_files
from bertsmith.text.screen import SCREEN, Screen, hash_lines, line_hashes
from tests.conftest import made_up_text
from tests.text.test_prepare import changed, content, interrupted

QUIET = Log(quiet=True)
NOTICE = "All rights reserved. 무단 전재 금지."


@pytest.fixture
def settings(tmp_path: Path, vocabulary: Path) -> PrepareSettings:
    """Two files: documents of several lines, most with a notice; some come again with a word or two changed."""
    rng = np.random.default_rng(1)
    blocks = made_up_text(60, seed=7).strip().split("\n\n")
    long = [
        "\n".join(f"{line} {number}-{place}" for place, line in enumerate(block.split("\n") * 3))
        for number, block in enumerate(blocks)
    ]
    out = []
    for number, text in enumerate(long):
        out.append(text + (f"\n{NOTICE}" if number % 3 else ""))
        if number % 4 == 0:
            words = text.split(" ")
            words[int(rng.integers(len(words)))] = "바뀐"
            out.append(" ".join(words))
    half = len(out) // 2
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text("\n\n".join(out[:half]) + "\n", encoding="utf-8")
    rows = [*out[half:], out[0], NOTICE]
    (folder / "b.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows), encoding="utf-8")
    return PrepareSettings(
        corpus=[folder],
        vocab=vocabulary,
        output=tmp_path / "store",
        documents="blank-line",
        sentences="line",
        shard_tokens=1500,
        workers=1,
        repeated_lines=5,
        near_duplicates=0.8,
    )


def read(settings: PrepareSettings) -> list[str]:
    plain = changed(settings, near_duplicates=None, repeated_lines=None)
    return [d.text for d in Corpus(find_files(settings.corpus, plain), plain).documents()]


def test_repeated_lines_are_those_of_a_plain_count(settings: PrepareSettings) -> None:
    settings = changed(settings, near_duplicates=None, repeated_lines=2)
    lines = [line for text in read(settings) for line in text.split("\n")]
    times = Counter(lines)
    gone = {line: n for line, n in times.items() if n > 2}
    store = prepare(settings, QUIET)
    figures = store.manifest["screening"]["repeated_lines"]
    assert figures["different"] == len(gone) >= 1
    assert figures["lines"] == sum(gone.values())
    assert figures["characters"] == sum(n * len(line) for line, n in gone.items())
    assert figures["share"] == pytest.approx(figures["characters"] / sum(map(len, lines)))
    first = figures["examples"][0]
    assert (first["line"], first["times"]) == (NOTICE, times[NOTICE])
    assert first["first_in_document_at"].startswith(f"{settings.corpus[0] / 'a.txt'}:")
    left = sum(len(line) for line in lines if line not in gone)
    assert store.manifest["counts"]["characters"] == left
    # A document that was nothing but the notice.
    assert store.manifest["counts"]["empty_dropped"] == 1


def test_near_copies_are_dropped_and_told(settings: PrepareSettings, capsys: pytest.CaptureFixture[str]) -> None:
    store = prepare(settings)
    near = store.manifest["screening"]["near_duplicates"]
    assert 12 <= near["documents"] <= 15
    assert store.num_documents + near["documents"] + store.manifest["counts"]["duplicates_dropped"] == 60 + 15 + 1
    assert len(near["examples"]) == 10
    for example in near["examples"]:
        assert example["document"] != example["is_like"]
        assert 0.8 <= example["similarity"] <= 1
    said = capsys.readouterr().err
    assert f"{near['documents']} near duplicates dropped" in said
    assert f"{near['examples'][0]['document']} is like {near['examples'][0]['is_like']}" in said
    assert NOTICE in said
    assert sorted(p.name for p in store.path.iterdir() if not p.name.startswith("shard-")) == [
        *("checksums.json", "config.yaml", "manifest.json", "token_counts.npy", "tokenizer"),
    ]


def test_any_number_of_processes_gives_the_same_bytes(settings: PrepareSettings, tmp_path: Path) -> None:
    expected = content(prepare(settings, QUIET).path)
    assert content(prepare(changed(settings, workers=2, output=tmp_path / "two"), QUIET).path) == expected


def test_parts_and_flushes_change_nothing(
    settings: PrepareSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = content(prepare(settings, QUIET).path)
    monkeypatch.setattr(screening, "PART_BYTES", 400)
    assert content(prepare(changed(settings, output=tmp_path / "parts"), QUIET).path) == expected


@pytest.mark.parametrize("shards", [0, 2])
def test_an_interrupted_run_looks_only_once(
    settings: PrepareSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: int
) -> None:
    expected = content(prepare(changed(settings, output=tmp_path / "whole"), QUIET).path)
    interrupted(settings, shards)
    assert (tmp_path / "store.partial" / SCREEN).exists()

    def looked(*_: Any) -> None:
        raise AssertionError("the corpus was looked at again")

    monkeypatch.setattr(prepare_module, "look_at_corpus", looked)
    assert content(prepare(settings, QUIET).path) == expected


@pytest.mark.parametrize("change", ["setting", "source", "damage"])
def test_a_look_that_is_out_of_date_is_done_again(settings: PrepareSettings, tmp_path: Path, change: str) -> None:
    interrupted(settings, 2)
    if change == "setting":
        settings = changed(settings, repeated_lines=4)
    elif change == "source":
        with (tmp_path / "corpus" / "b.jsonl").open("a") as file:
            file.write('{"text": "something else at the end"}\n')
    else:
        (tmp_path / "store.partial" / SCREEN).write_bytes(b"PK nonsense")
    whole = prepare(changed(settings, output=tmp_path / "whole"), QUIET)
    assert content(prepare(settings, QUIET).path) == content(whole.path)


def test_options_are_part_of_what_a_store_is(settings: PrepareSettings, tmp_path: Path) -> None:
    plain = changed(settings, near_duplicates=None, repeated_lines=None)
    manifests = [
        prepare(changed(s, output=tmp_path / str(n)), QUIET).manifest
        for n, s in enumerate((plain, settings, changed(settings, near_duplicates=0.9)))
    ]
    assert len({m["fingerprint"] for m in manifests}) == 3
    # A store without them is what it was before they existed.
    assert not {"near_duplicates", "repeated_lines", "engine", "cache"} & manifests[0]["text"].keys()
    assert "screening" not in manifests[0]


def test_a_corpus_that_is_left_out_as_a_whole(settings: PrepareSettings, tmp_path: Path) -> None:
    (tmp_path / "same.txt").write_text("\n\n".join(f"{NOTICE}\n{'다른 줄'}" for _ in range(9)))
    only = changed(settings, corpus=[tmp_path / "same.txt"], keep_duplicates=True)
    with pytest.raises(ValueError, match="no text found"):
        prepare(only, QUIET)
    assert prepare(changed(only, repeated_lines=None), QUIET).num_documents == 1


def test_a_screen_takes_out_what_it_names(tmp_path: Path) -> None:
    hashes = np.sort(line_hashes(["b", "다"]))
    screen = Screen(hashes, np.array([3, 7]), {"x": "가"})
    assert screen.without_repeated("a\nb\n다\n다 \nb") == "a\n다 "
    assert [n for n in range(9) if screen.drops(n)] == [3, 7]
    screen.write(tmp_path)
    again = Screen.read(tmp_path)
    assert again is not None
    assert (again.repeated.tolist(), again.dropped.tolist(), again.report) == (hashes.tolist(), [3, 7], {"x": "가"})
    assert Screen.read(tmp_path / "none") is None


def test_lines_of_some_documents(settings: PrepareSettings) -> None:
    documents = list(Corpus(find_files(settings.corpus, settings), settings).documents())[:5]
    keep = np.array([True, False, True, True, False])
    some = hash_lines(documents).where(keep)
    alone = hash_lines([d for d, kept in zip(documents, keep, strict=True) if kept])
    for name in ("counts", "hashes", "characters", "sources", "ordinals"):
        assert getattr(some, name).tolist() == getattr(alone, name).tolist()
