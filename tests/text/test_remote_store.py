"""A store behind a URL: the same ids as on this machine, each shard fetched when it is needed, into little room."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from bertsmith import files
from bertsmith.config import PrepareSettings, PretrainSettings
from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.file_cache import FileCache
from bertsmith.locations import Url
from bertsmith.pretraining.heldout import of_few_shards
from bertsmith.pretraining.sampler import Sampler
from bertsmith.remote import RemoteFile
from bertsmith.text.prepare import prepare
from bertsmith.text.remote_store import open_remote_store, open_store
from bertsmith.text.store import TokenStore
from bertsmith.training.pretrain import pretrain
from tests.conftest import made_up_text, tiny_run

QUIET = Log(quiet=True)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, vocabulary: Path) -> TokenStore:
    folder = tmp_path_factory.mktemp("store")
    (folder / "corpus.txt").write_text(made_up_text(260, seed=4), encoding="utf-8")
    settings = PrepareSettings(
        corpus=[folder / "corpus.txt"], vocab=vocabulary, output=folder / "store", shard_tokens=1000, workers=1
    )
    return prepare(settings, QUIET)


@pytest.fixture
def url(s3: Any, bucket: str, here: TokenStore) -> Url:
    s3.put(f"{here.path}/", f"{bucket}/store", recursive=True)
    return Url(f"s3://{bucket}/store")


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of shards as they are fetched."""
    seen: list[str] = []
    real = RemoteFile._fetch

    def fetch(self: RemoteFile, file: IO[bytes]) -> None:
        seen.append(self.name)
        real(self, file)

    monkeypatch.setattr(RemoteFile, "_fetch", fetch)
    return seen


def largest(store: TokenStore) -> int:
    return max(shard["bytes"] for shard in store.manifest["shards"])


def elsewhere(settings: PretrainSettings, url: Url, cache: Path, room: int) -> PretrainSettings:
    return settings.model_copy(update={"store": url, "cache": cache, "cache_gb": room / 1e9})


def test_the_same_store(url: Url, here: TokenStore, tmp_path: Path, fetched: list[str]) -> None:
    cache = FileCache(tmp_path / "cache", 10**8)
    store = open_store(url, cache, QUIET)
    names = [shard["file"] for shard in here.manifest["shards"]]
    assert len(names) > 3
    assert fetched == names
    assert store.manifest == here.manifest
    assert (store.document_tokens == here.document_tokens).all()
    for document in range(here.num_documents):
        assert store.document(document).tolist() == here.document(document).tolist()
        assert store.origin(document) == here.origin(document)
    assert fetched == names
    assert pickle.loads(pickle.dumps(store)).sentence(5, 0).tolist() == here.sentence(5, 0).tolist()
    # Another run finds everything in the cache.
    open_store(url, cache, QUIET).document(0)
    assert fetched == names


def test_little_room_is_enough(url: Url, here: TokenStore, tmp_path: Path, fetched: list[str]) -> None:
    room = 3 * largest(here)
    cache = FileCache(tmp_path / "cache", room)
    store = open_remote_store(url, cache)
    for document in np.random.default_rng(0).permutation(here.num_documents).tolist():
        assert store.document(document).tolist() == here.document(document).tolist()
        assert sum(path.stat().st_size for path in cache.directory.iterdir()) <= room
    assert len(fetched) > 2 * len(here.manifest["shards"])
    before = len(fetched)
    for document in range(here.num_documents):
        store.document(document)
    assert len(fetched) - before <= len(here.manifest["shards"])


def test_damage_is_found_and_named(url: Url, here: TokenStore, s3: Any, tmp_path: Path, fetched: list[str]) -> None:
    cache = FileCache(tmp_path / "cache", 10**8)
    open_remote_store(url, cache)
    # In the cache: fetched again.
    first = here.manifest["shards"][0]
    for key in (first["sha256"], f"{first['sha256']}.index"):
        copy = cache.directory / key
        data = bytearray(copy.read_bytes())
        data[len(data) // 2] ^= 1
        copy.write_bytes(data)
    store = open_remote_store(url, cache)
    assert store.document(0).tolist() == here.document(0).tolist()
    assert (store.document_tokens == here.document_tokens).all()
    assert fetched.count(first["file"]) == 2
    # Where it is kept.
    for name in (here.manifest["shards"][1]["file"], "token_counts.npy", "manifest.json"):
        path = f"{str(url).removeprefix('s3://')}/{name}"
        whole = s3.cat_file(path)
        s3.pipe(path, whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(InputError, match=f"{name}: does not match its checksum"):
            open_remote_store(url, FileCache(tmp_path / name, 10**8))
        s3.pipe(path, whole)
    # The sums of all are not taken for the damage of what they are of.
    path = f"{str(url).removeprefix('s3://')}/{files.CHECKSUMS}"
    whole = s3.cat_file(path)
    for name in (files.CHECKSUMS, here.manifest["shards"][1]["file"], "manifest.json"):
        at = whole.index(f'"{name}": "'.encode()) + len(name) + 9
        s3.pipe(path, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(InputError, match=rf"{files.CHECKSUMS}: does not match its own checksum: the token store"):
            open_remote_store(url, FileCache(tmp_path / "sums", 10**8))
    s3.pipe(path, whole)
    s3.rm(path := f"{str(url).removeprefix('s3://')}/{here.manifest['shards'][1]['file']}")
    with pytest.raises(InputError, match=f"{Path(path).name}: not found"):
        open_remote_store(url, FileCache(tmp_path / "other", 10**8))


def test_what_is_no_store(s3: Any, bucket: str, tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 10**8)
    with pytest.raises(InputError, match=r"checksums\.json: not found; expected the checksums of a token store"):
        open_remote_store(Url(f"s3://{bucket}/nothing"), cache)
    s3.pipe(f"{bucket}/x/{files.CHECKSUMS}", b"not JSON")
    with pytest.raises(InputError, match="is not readable as the checksums"):
        open_remote_store(Url(f"s3://{bucket}/x"), cache)
    s3.pipe(f"{bucket}/x/{files.CHECKSUMS}", json.dumps({}).encode())
    with pytest.raises(InputError, match=rf"s3://{bucket}/x: not found; expected a token store"):
        open_remote_store(Url(f"s3://{bucket}/x"), cache)


def test_pretraining_from_a_url_gives_the_same_weights(url: Url, here: TokenStore, tmp_path: Path) -> None:
    room = 4 * largest(here)
    runs = [
        pretrain(tiny_run(here, tmp_path / "here")),
        pretrain(elsewhere(tiny_run(here, tmp_path / "there"), url, tmp_path / "cache", room)),
    ]
    weights = [(run.model / "model.safetensors").read_bytes() for run in runs]
    assert weights[0] == weights[1]


def test_text_of_few_shards_at_a_time(url: Url, here: TokenStore, tmp_path: Path, fetched: list[str]) -> None:
    arguments: dict[str, Any] = {"max_length": 33, "batch_size": 7, "seed": 3, "window_tokens": 600}
    cache = FileCache(tmp_path / "cache", 4 * largest(here))
    store = open_remote_store(url, cache)
    number = store.num_shards
    sampler = Sampler(store, shuffle_shards=1, **arguments)
    fetched.clear()
    seen: list[int] = []
    for step in range(sampler.steps_per_epoch):
        documents = [d for i in sampler.instances(step) for d in (i.document_a, i.document_b)]
        shards = set(store.shards_of(np.array(documents)).tolist())
        assert len(shards) <= 2
        seen += [shard for shard in shards if shard not in seen]
    assert sorted(seen) == list(range(number))
    assert seen != sorted(seen)
    # About once an epoch each.
    assert len(fetched) <= number + 2
    # A step is a function of its number, whichever store it comes from.
    local = Sampler(here, shuffle_shards=1, **arguments)
    step = sampler.steps_per_epoch + 1
    assert local.batch(step).token_ids.tolist() == sampler.batch(step).token_ids.tolist()
    assert local.batch(1).token_ids.tolist() != Sampler(here, **arguments).batch(1).token_ids.tolist()


def test_documents_of_few_shards(here: TokenStore) -> None:
    documents = np.arange(0, here.num_documents, 2)
    rng = np.random.default_rng(0)
    few = of_few_shards(here, documents, 300, rng)
    assert set(few) <= set(documents)
    assert len(set(here.shards_of(few))) == 1
    assert here.document_tokens[few].sum() >= 300
    assert of_few_shards(here, documents, 10**9, rng).tolist() == documents.tolist()


def test_a_cache_that_is_too_small_for_the_store_is_told(
    url: Url, here: TokenStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    room = 3 * largest(here)
    settings = elsewhere(tiny_run(here, tmp_path / "a", quiet=False, steps=2), url, tmp_path / "cache", room)
    pretrain(settings)
    assert "so shards are fetched again and again: raise --cache-gb" in capsys.readouterr().err
    pretrain(settings.model_copy(update={"output": tmp_path / "b", "shuffle_shards": 1}))
    assert "again and again" not in capsys.readouterr().err


def test_the_command_line_takes_urls(s3: Any, bucket: str, vocabulary: Path, tmp_path: Path) -> None:
    s3.pipe(f"{bucket}/texts/a.txt", made_up_text(20).encode())
    command = [sys.executable, "-m", "bertsmith", "prepare", f"s3://{bucket}/texts", "--vocab", str(vocabulary)]
    command += ["-o", str(tmp_path / "store"), "--cache", str(tmp_path / "cache"), "--workers", "2"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    store = TokenStore.open(tmp_path / "store")
    assert store.origin(0)[0] == f"s3://{bucket}/texts/a.txt"
    assert f"s3://{bucket}/texts" in (tmp_path / "store" / "config.yaml").read_text()
