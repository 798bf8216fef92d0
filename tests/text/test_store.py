from __future__ import annotations

import json
import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest

from bertsmith import files
from bertsmith.config import PrepareSettings
from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.file_cache import FileCache
from bertsmith.text import store as store_module
from bertsmith.text.prepare import prepare
from bertsmith.text.remote_store import open_together
from bertsmith.text.shards import TokenisedDocuments, id_dtype, read_shard, write_shard
from bertsmith.text.store import TokenStore
from bertsmith.text.tokenizer import Tokenizer

QUIET = Log(quiet=True)
LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *LETTERS, *(f"##{c}" for c in LETTERS)]


def write_vocabulary(directory: Path, extra: list[str] | None = None) -> Path:
    (directory / "plain.txt").write_text("\n".join(VOCABULARY + (extra or [])) + "\n")
    Tokenizer.from_vocabulary(directory / "plain.txt", lowercase=False).save(directory / "vocab")
    return directory / "vocab"


def documents(seed: int = 0, number: int = 13, dtype: type = np.uint16) -> TokenisedDocuments:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 6, number).astype(np.int32)
    lengths = rng.integers(1, 8, counts.sum()).astype(np.int32)
    return TokenisedDocuments(
        sentence_counts=counts,
        sentence_lengths=lengths,
        token_ids=rng.integers(0, 99, lengths.sum()).astype(dtype),
        characters=rng.integers(1, 99, number),
        sources=rng.integers(0, 3, number).astype(np.int32),
        lines=np.arange(1, number + 1),
        ordinals=np.arange(number),
    )


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    """A store of 60 documents of 1 to 5 sentences in several shards."""
    rng = np.random.default_rng(0)
    texts = []
    for _ in range(60):
        words = ["".join(rng.choice(list(LETTERS), rng.integers(1, 9))) for _ in range(rng.integers(20, 60))]
        cut = [" ".join(part) + "." for part in np.array_split(words, rng.integers(1, 6))]
        texts.append("\n".join(cut))
    (tmp_path / "corpus.txt").write_text("\n\n".join(texts) + "\n")
    settings = PrepareSettings(
        corpus=[tmp_path / "corpus.txt"],
        vocab=write_vocabulary(tmp_path),
        output=tmp_path / "store",
        sentences="line",
        documents="blank-line",
        shard_tokens=2000,
        workers=1,
    )
    prepare(settings, Log(quiet=True)).close()
    return tmp_path / "store"


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_shard_round_trip(tmp_path: Path, dtype: type) -> None:
    expected = documents(dtype=dtype)
    write_shard(tmp_path / "a.arrow", expected)
    shard = read_shard(tmp_path / "a.arrow")
    assert [p.name for p in tmp_path.iterdir()] == ["a.arrow"]
    assert shard.token_ids.dtype == dtype
    assert np.diff(shard.sentence_starts).tolist() == expected.sentence_counts.tolist()
    assert np.diff(shard.token_starts).tolist() == expected.sentence_lengths.tolist()
    assert shard.token_ids.tolist() == expected.token_ids.tolist()
    assert shard.sources.tolist() == expected.sources.tolist()
    assert shard.lines.tolist() == expected.lines.tolist()
    for view in (shard.token_ids, shard.token_starts, shard.sentence_starts):
        assert not view.flags.owndata, "a view into the file, not a copy"
        assert not view.flags.writeable


def test_slices_joined_are_the_whole() -> None:
    whole = documents(number=11)
    joined = TokenisedDocuments.join([whole.slice(0, 4), whole.slice(4, 4), whole.slice(4, 11)])
    for name in TokenisedDocuments.__dataclass_fields__:
        assert getattr(joined, name).tolist() == getattr(whole, name).tolist()
    assert whole.token_ends()[-1] == len(whole.token_ids)
    assert whole.slice(2, 5).token_ends().tolist() == (whole.token_ends()[2:5] - whole.token_ends()[1]).tolist()


def test_ids_take_two_bytes_while_they_fit() -> None:
    assert id_dtype(99) == id_dtype(65_535) == np.uint16
    assert id_dtype(65_537) == np.uint32


def test_store_gives_back_the_sentences(store_path: Path, tmp_path: Path) -> None:
    store = TokenStore.open(store_path)
    texts = (tmp_path / "corpus.txt").read_text().strip().split("\n\n")
    assert len(store.manifest["shards"]) > 2
    assert store.num_documents == 60
    for number, text in enumerate(texts):
        expected = store.tokenizer.sentence_ids(text.split("\n"))
        lengths = store.sentence_lengths(number)
        assert lengths.dtype == np.int32
        assert lengths.tolist() == [len(ids) for ids in expected]
        for sentence, ids in enumerate(expected):
            assert store.sentence(number, sentence).tolist() == list(ids)
    assert store.sentence(0, 0).dtype == np.uint16
    line = 1 + sum(text.count("\n") + 2 for text in texts[:59])
    source, at = store.origin(59)
    assert (Path(source).name, at) == ("corpus.txt", line)


def test_store_counts_agree_with_its_content(store_path: Path) -> None:
    store = TokenStore.open(store_path)
    lengths = [store.sentence_lengths(d) for d in range(store.num_documents)]
    everything = np.concatenate([store.sentence(d, s) for d, n in enumerate(lengths) for s in range(len(n))])
    assert store.num_sentences == sum(len(n) for n in lengths)
    assert store.num_tokens == len(everything)
    assert store.document_tokens.tolist() == [int(n.sum()) for n in lengths]
    assert store.document_sentences.tolist() == [len(n) for n in lengths]
    assert store.document_tokens.dtype == store.token_counts.dtype == np.int64
    assert store.token_counts.tolist() == np.bincount(everything, minlength=store.vocab_size).tolist()


def test_sentences_outside_of_the_store(store_path: Path) -> None:
    store = TokenStore.open(store_path)
    with pytest.raises(IndexError, match="no document 60"):
        store.sentence_lengths(60)
    with pytest.raises(IndexError, match="no document -1"):
        store.sentence(-1, 0)
    # Not the first sentence of the next document.
    with pytest.raises(IndexError, match="has no sentence"):
        store.sentence(0, len(store.sentence_lengths(0)))


def test_store_can_be_pickled_and_read_by_threads(store_path: Path) -> None:
    store = TokenStore.open(store_path)
    other = pickle.loads(pickle.dumps(store))
    numbers = list(range(store.num_documents)) * 5
    with ThreadPoolExecutor(4) as pool:
        ours = list(pool.map(lambda d: store.sentence(d, 0).tolist(), numbers))
    assert ours == [other.sentence(d, 0).tolist() for d in numbers]


def test_views_stay_valid_after_close(store_path: Path) -> None:
    store = TokenStore.open(store_path)
    view = store.sentence(3, 0)
    before = view.tolist()
    store.close()
    assert view.tolist() == before
    with pytest.raises(IndexError):
        store.sentence(3, 0)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux tells how much of a mapping is in memory")
def test_pages_are_let_go_of_and_come_back(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_memory() -> int:
        """Bytes of the mapped shards that this process holds, in kB."""
        lines, held, inside = Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines(), 0, False
        for line in lines:
            first = line.split()[0]
            if "-" in first:
                inside = str(store_path) in line
            elif first == "Rss:" and inside:
                held += int(line.split()[1])
        return held

    store = TokenStore.open(store_path)
    views = [store.document(document) for document in range(store.num_documents)]
    before = [view.tolist() for view in views]
    assert in_memory() > 0
    assert int(store.document_tokens.sum()) == store.num_tokens
    assert in_memory() == 0
    assert [view.tolist() for view in views] == before
    assert in_memory() > 0
    monkeypatch.setattr("bertsmith.text.store._LOOK_UPS", 1)
    store.sentence_lengths(7)
    # Those of one look-up, of the offsets of documents and sentences.
    assert in_memory() <= 2 * 64


def _files(store: Path) -> list[str]:
    return sorted(str(p.relative_to(store)) for p in store.rglob("*") if p.is_file())


def test_every_flipped_byte_is_found(store_path: Path) -> None:
    rng = np.random.default_rng(1)
    for name in _files(store_path):
        file = store_path / name
        whole = file.read_bytes()
        for at in rng.integers(0, len(whole), 5).tolist():
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x01]) + whole[at + 1 :])
            with pytest.raises(InputError) as caught:
                TokenStore.open(store_path)
            assert name in str(caught.value)
        file.write_bytes(whole)
    TokenStore.open(store_path)


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("name", ["shard-00001.arrow", "token_counts.npy", "tokenizer/tokenizer.json"])
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_truncated_file_is_refused(store_path: Path, name: str, keep: float, check: bool) -> None:
    file = store_path / name
    whole = file.read_bytes()
    file.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(InputError, match=name.split("/")[0]):
        TokenStore.open(store_path, check=check)


def test_missing_shard_is_named(store_path: Path) -> None:
    (store_path / "shard-00001.arrow").unlink()
    for check in (True, False):
        with pytest.raises(InputError, match=r"shard-00001.arrow.*missing"):
            TokenStore.open(store_path, check=check)


def open_in_three(path: Path, cache: Path, checking: set[int]) -> list[TokenStore | InputError]:
    """Open a store in three threads as three processes would, and return what each of them gets."""
    meeting, flags = Barrier(3, timeout=30), [False] * 3

    def work(rank: int) -> TokenStore | InputError:
        def any_of_all(flag: bool) -> bool:
            flags[rank] = flag
            meeting.wait()
            return any(flags)

        files_cache = FileCache(cache, 10**8)
        try:
            return open_together(path, files_cache, QUIET, checks=rank in checking, any_of_all=any_of_all)
        except InputError as error:
            return error

    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(work, range(3)))


@pytest.mark.parametrize("checking", [{0}, {0, 2}, {0, 1, 2}])
def test_one_process_a_machine_reads_the_whole_store(
    store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checking: set[int]
) -> None:
    done: list[str] = []
    check, read = files.check_directory, store_module.read_shard

    def checked(path: Path, *, what: str, **more: Any) -> None:
        if path == store_path:
            time.sleep(0.2)
            check(path, what=what, **more)
            done.append("checked")
        else:
            check(path, what=what, **more)

    monkeypatch.setattr(files, "check_directory", checked)
    monkeypatch.setattr(store_module, "read_shard", lambda path: done.append("read") or read(path))
    stores = open_in_three(store_path, tmp_path / "cache", checking)
    assert done.count("checked") == len(checking)
    # Nobody uses what has not been found whole.
    assert done[0] == "checked"
    found = [store for store in stores if isinstance(store, TokenStore)]
    assert [store.num_documents for store in found] == [60] * 3
    assert done.count("read") == 3 * found[0].num_shards


def test_no_process_goes_on_with_a_damaged_store(store_path: Path, tmp_path: Path) -> None:
    for name in ("shard-00001.arrow", "manifest.json"):
        whole = (store_path / name).read_bytes()
        (store_path / name).write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
        first, *others = open_in_three(store_path, tmp_path / "cache", {0})
        assert f"{name}: does not match its checksum" in str(first)
        for other in others:
            assert str(other) == f"{store_path}: another process of this run cannot use it; its message says why"
        (store_path / name).write_bytes(whole)


def test_what_is_not_a_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file", tmp_path / "nothing"):
        with pytest.raises(InputError, match="expected a token store made by 'bertsmith prepare'"):
            TokenStore.open(path)


def test_store_of_another_version(store_path: Path) -> None:
    manifest = json.loads((store_path / "manifest.json").read_text())
    (store_path / "manifest.json").write_text(json.dumps({**manifest, "version": 99}))
    with pytest.raises(InputError, match="version 99, expected 1"):
        TokenStore.open(store_path, check=False)


def test_another_vocabulary_is_refused(store_path: Path, tmp_path: Path) -> None:
    store = TokenStore.open(store_path)
    store.require_tokenizer(store.tokenizer)
    (tmp_path / "other").mkdir()
    other = Tokenizer.load(write_vocabulary(tmp_path / "other", extra=["ab"]))
    with pytest.raises(InputError, match="made with another vocabulary"):
        store.require_tokenizer(other)
    other.save(store_path / "tokenizer")
    with pytest.raises(InputError, match="not the vocabulary that this store was made with"):
        TokenStore.open(store_path, check=False)
