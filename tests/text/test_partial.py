"""Shards under way: how much memory a finished one takes, and a journal that was changed on disk."""

import errno
import json
import os
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.text import partial
from bertsmith.text.partial import PartialStore
from bertsmith.text.shards import TokenisedDocuments

VOCABULARY = 57
IDENTITY = {"settings": {"shard_tokens": 110}}


def documents(tokens: int) -> TokenisedDocuments:
    """One document of sentences of 11 tokens."""
    sentences = tokens // 11
    return TokenisedDocuments(
        sentence_counts=np.array([sentences], dtype=np.int32),
        sentence_lengths=np.full(sentences, 11, dtype=np.int32),
        token_ids=np.random.default_rng(3).integers(VOCABULARY, size=sentences * 11).astype(np.uint16),
        characters=np.array([sentences * 20]),
        sources=np.zeros(1, dtype=np.int32),
        lines=np.ones(1, dtype=np.int64),
        ordinals=np.zeros(1, dtype=np.int64),
    )


def test_tokens_are_counted_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partial, "_COUNTED_AT_ONCE", 7)
    store = PartialStore.open(tmp_path, {}, [], VOCABULARY, Log(quiet=True))
    added = documents(330)
    store.add(added, 200)
    store.flush()
    assert store.token_counts.tolist() == np.bincount(added.token_ids, minlength=VOCABULARY).tolist()


def test_a_finished_shard_takes_little_more_memory_than_its_tokens(tmp_path: Path) -> None:
    store = PartialStore.open(tmp_path, {}, [], VOCABULARY, Log(quiet=True))
    added = documents(5_500_000)
    store.add(added, 100_000_000)
    tracemalloc.start()
    store.flush()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # One copy of the ids and the lengths, and the offsets; counting all ids at once would take 44 MB more.
    assert peak < 2 * (added.token_ids.nbytes + added.sentence_lengths.nbytes) + 10e6


def said_and_left(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, list[dict[str, Any]] | None]:
    """Go on with an interrupted run: what is said, and the shards that are kept; None if it is refused."""
    capsys.readouterr()
    try:
        left = PartialStore.open(path, IDENTITY, [], VOCABULARY, Log()).shards
    except InputError as error:
        return str(error), None
    return " ".join(capsys.readouterr().err.split()), left


def test_a_flipped_bit_of_the_journal_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "store.partial"
    path.mkdir()
    store = PartialStore.open(path, IDENTITY, [], VOCABULARY, Log())
    for _ in range(3):
        store.add(documents(330), 110)
    whole = (path / "journal.json").read_bytes()
    assert len(said_and_left(path, capsys)[1] or []) == 3
    rng = np.random.default_rng(8)
    anew = 0
    for at in rng.integers(0, len(whole), 120).tolist():
        damaged = tmp_path / f"damaged at {at}"
        shutil.copytree(path, damaged, dirs_exist_ok=True)
        (damaged / "journal.json").write_bytes(
            whole[:at] + bytes([whole[at] ^ 1 << int(rng.integers(8))]) + whole[at + 1 :]
        )
        said, left = said_and_left(damaged, capsys)
        if left is None:
            assert f"{damaged / 'journal.json'}: " in said
            assert f"If it is damaged, remove {damaged} to begin anew" in said
            # It may be a folder of somebody else.
            assert len(list(damaged.iterdir())) == 4
        else:
            assert left == []
            assert "journal.json does not match its own checksum" in said
            assert [entry.name for entry in damaged.iterdir()] == ["journal.json"]
            anew += 1
    assert 10 < anew < 110


def test_what_is_no_journal(tmp_path: Path) -> None:
    for content, said in (("[]", "holds a JSON list"), (json.dumps({"identity": 1}), "has no 'sources'")):
        (tmp_path / "journal.json").write_text(content)
        (tmp_path / "mine").touch()
        with pytest.raises(InputError, match=said):
            PartialStore.open(tmp_path, {}, [], VOCABULARY, Log(quiet=True))
        assert (tmp_path / "mine").exists()


def test_a_full_disk_says_what_a_shard_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PartialStore.open(tmp_path, {}, [], VOCABULARY, Log(quiet=True))
    store.add(documents(220_000), 10**9)
    with monkeypatch.context() as patch:
        patch.setattr(partial, "write_shard", lambda path, documents: full())
        with pytest.raises(
            InputError, match=r"the disk is full \(\d+ kB needed, .*B free\); finished shards"
        ) as caught:
            store.flush()
    store.flush()
    needed = int(caught.value.message.split("(")[1].split()[0]) * 1000
    assert needed == pytest.approx(next(tmp_path.glob("shard-*")).stat().st_size, rel=0.01)


def test_a_full_disk_without_room_for_the_directory(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"the disk is full \([\d.]+ .?B free\)"),
        partial.writing(tmp_path / "a" / "b.partial"),
    ):
        full()


def full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
