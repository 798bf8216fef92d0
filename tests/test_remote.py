from __future__ import annotations

import gzip
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertsmith.config import CorpusSettings
from bertsmith.errors import InputError
from bertsmith.file_cache import FileCache
from bertsmith.locations import Url
from bertsmith.remote import RemoteFile, find_remote, hash_of, open_filesystem, read_remote
from bertsmith.text.readers import ReadReport, find_files, read_documents


@pytest.fixture
def memory() -> Any:
    fsspec = pytest.importorskip("fsspec")
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]
    return filesystem


@pytest.fixture
def cache(tmp_path: Path) -> FileCache:
    return FileCache(tmp_path / "cache", 10**6)


def names(url: str, cache: FileCache) -> list[str]:
    return [str(file) for file in find_remote(Url(url), cache)[0]]


def test_files_folders_and_patterns(memory: Any, cache: FileCache) -> None:
    for name in ("b.txt", "a.txt", "deep/c.txt", ".hidden", "deep/.git/d.txt", "deep/e.csv"):
        memory.pipe(f"/texts/{name}", b"x")
    everything = ["a.txt", "b.txt", "deep/c.txt", "deep/e.csv"]
    assert names("memory://texts", cache) == [f"memory:///texts/{name}" for name in everything]
    assert names("memory://texts/", cache) == names("memory://texts", cache)
    assert names("memory://texts/*.txt", cache) == ["memory:///texts/a.txt", "memory:///texts/b.txt"]
    assert names("memory://texts/**/*.txt", cache)[-1] == "memory:///texts/deep/c.txt"
    assert find_remote(Url("memory://texts/a.txt"), cache)[1]
    for url in ("memory://nothing", "memory://texts/*.pdf"):
        with pytest.raises(InputError, match=f"{url[:12]}.*: no such file or folder"):
            names(url, cache)


def test_a_corpus_of_urls_and_paths(memory: Any, tmp_path: Path) -> None:
    (tmp_path / "here.txt").write_text("here\n")
    memory.pipe("/texts/a.txt.gz", gzip.compress("가나다\n".encode()))
    memory.pipe("/texts/b.pdf", b"x")
    memory.pipe("/texts/c.txt", "한국어\n".encode("cp949"))
    settings = CorpusSettings(documents="line", cache=tmp_path / "cache", encoding="auto")
    report = ReadReport()
    found = find_files([tmp_path / "here.txt", "memory://texts", "memory://texts/c.txt"], settings, report)
    assert [Path(str(file)).name for file in found] == ["here.txt", "a.txt.gz", "c.txt"]
    assert report.skipped_files == {".pdf": 1}
    documents = [d for file in found for d in read_documents(file, settings, report)]
    assert [(d.text, d.source) for d in documents] == [
        ("here", str(tmp_path / "here.txt")),
        ("가나다", "memory:///texts/a.txt.gz"),
        ("한국어", "memory:///texts/c.txt"),
    ]
    assert report.encodings["memory:///texts/c.txt"] == "cp949"


def test_errors_name_the_url(memory: Any, tmp_path: Path) -> None:
    memory.pipe("/texts/a.jsonl", b'{"text": "a"}\n{"other": "b"}\n')
    settings = CorpusSettings(cache=tmp_path / "cache")
    with pytest.raises(InputError, match=r"^memory:///texts/a.jsonl:2: has no field 'text'"):
        list(read_documents(find_files(["memory://texts/a.jsonl"], settings)[0], settings, ReadReport()))


def test_parquet(memory: Any, tmp_path: Path) -> None:
    with memory.open("/t.parquet", "wb") as file:
        pq.write_table(pa.table({"text": ["하나", "two"]}), file)
    settings = CorpusSettings(cache=tmp_path / "cache")
    found = find_files(["memory://t.parquet"], settings)
    assert [d.text for d in read_documents(found[0], settings, ReadReport())] == ["하나", "two"]


def test_a_changed_file_is_fetched_anew(s3: Any, bucket: str, cache: FileCache) -> None:
    url = f"s3://{bucket}/a.txt"
    for content in (b"one", b"two", b"three"):
        s3.pipe(f"{bucket}/a.txt", content)
        (file,), _ = find_remote(Url(url), cache)
        assert file.size == len(content)
        for _ in range(2):
            with file.open() as opened:
                assert opened.read() == content
        assert str(file) == url
    assert len(list(cache.directory.glob("[!.]*"))) == 3


def test_a_file_that_is_not_what_was_promised(memory: Any, cache: FileCache) -> None:
    memory.pipe("/a", b"content")
    file = RemoteFile(Url("memory://a"), 7, "key", cache, sha256="0" * 64)
    with pytest.raises(InputError, match="memory://a: does not match its checksum"):
        file.open()
    with pytest.raises(InputError, match="memory://gone: not found"):
        RemoteFile(Url("memory://gone"), 7, "other", cache).open()
    assert not list(cache.directory.glob("[!.]*"))


def test_a_failing_network_is_tried_again(memory: Any, cache: FileCache, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe("/a", b"content")
    (file,), _ = find_remote(Url("memory://a"), cache)
    left, real = [2], type(memory).open

    def failing(self: Any, *arguments: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise TimeoutError("no answer")
        return real(self, *arguments, **named)

    monkeypatch.setattr(type(memory), "open", failing)
    monkeypatch.setattr("bertsmith.remote.time.sleep", lambda seconds: None)
    assert hash_of(file) == "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"
    left[0] = 9
    with pytest.raises(InputError, match=r"memory:///?a: cannot be read: TimeoutError: no answer"):
        RemoteFile(file.url, 7, "other", cache).open()


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"abc://x: Protocol not known: abc; expected a path, or a URL such as s3://"):
        open_filesystem(Url("abc://x"))
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(InputError, match="gs://x: its package is not installed: pip install gcsfs"):
        open_filesystem(Url("gs://x"))
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(InputError, match=r"pip install 'bertsmith\[remote\]'"):
        open_filesystem(Url("s3://x"))


def test_a_small_file(memory: Any) -> None:
    memory.pipe("/a", b"content")
    assert read_remote(Url("memory://a"), what="it") == b"content"
    with pytest.raises(InputError, match="memory://b: not found; expected it here"):
        read_remote(Url("memory://b"), what="it")
