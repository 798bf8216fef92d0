from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

import pytest

from bertsmith.errors import InputError
from bertsmith.file_cache import FileCache


def content(number: int) -> bytes:
    return bytes([number]) * 1000


def get(cache: FileCache, number: int, fetched: list[int] | None = None) -> bytes:
    def fetch(file: IO[bytes]) -> None:
        if fetched is not None:
            fetched.append(number)
        file.write(content(number))

    with cache.open(f"key{number}", 1000, fetch, f"s3://bucket/{number}") as file:
        return file.read()


def kept(cache: FileCache) -> list[str]:
    return sorted(path.name for path in cache.directory.iterdir() if path.name != ".lock")


def test_a_file_is_fetched_once_and_the_oldest_make_room(tmp_path: Path) -> None:
    cache, fetched = FileCache(tmp_path / "cache", 3500), list[int]()
    for number in (1, 2, 3, 1):
        assert get(cache, number, fetched) == content(number)
        os.utime(cache.directory / f"key{number}", (len(fetched) * 10, (len(fetched) + (number == 1) * 5) * 10))
    assert fetched == [1, 2, 3]
    assert get(cache, 4, fetched) == content(4)
    assert kept(cache) == ["key1", "key3", "key4"]
    assert sum(path.stat().st_size for path in cache.directory.iterdir()) <= 3500


def test_an_open_copy_stays_readable_when_it_makes_room(tmp_path: Path) -> None:
    cache = FileCache(tmp_path, 1500)
    with cache.open("key1", 1000, lambda file: file.write(content(1)) and None, "one") as held:
        get(cache, 2)
        assert not cache.holds("key1")
        assert held.read() == content(1)


@pytest.mark.parametrize("number", [999, 1001])
def test_another_size_than_was_told_is_refused(tmp_path: Path, number: int) -> None:
    cache = FileCache(tmp_path, 5000)
    with pytest.raises(InputError, match=rf"s3://b/x: gave {number:,} bytes, expected 1,000"):
        cache.open("key", 1000, lambda file: file.write(b"x" * number) and None, "s3://b/x")
    assert kept(cache) == []


def test_a_file_larger_than_the_cache(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"s3://b/x: holds 2e-06 GB, .* may hold 1.5e-06 GB: raise --cache-gb"):
        FileCache(tmp_path, 1500).open("key", 2000, lambda file: None, "s3://b/x")


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    def full(file: IO[bytes]) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(InputError, match="the disk is full"):
        FileCache(tmp_path, 5000).open("key", 1000, full, "s3://b/x")
    assert kept(FileCache(tmp_path, 5000)) == []


def test_what_a_killed_process_was_fetching_makes_room(tmp_path: Path) -> None:
    (tmp_path / "key9.part").write_bytes(b"x" * 3000)
    cache = FileCache(tmp_path, 3500)
    assert get(cache, 1) == content(1)
    assert kept(cache) == ["key1"]


def test_of_several_threads_one_fetches(tmp_path: Path) -> None:
    cache, fetched = FileCache(tmp_path, 5000), list[int]()

    def slow(file: IO[bytes]) -> None:
        fetched.append(1)
        time.sleep(0.2)
        file.write(content(1))

    def read() -> None:
        with cache.open("key1", 1000, slow, "one") as file:
            seen.append(file.read())

    seen: list[bytes] = []
    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [content(1)] * 4
    assert fetched == [1]


PROCESS = """
import random, sys
from pathlib import Path
from bertsmith.file_cache import FileCache
cache, random = FileCache(Path(sys.argv[1]), 3500), random.Random(int(sys.argv[2]))
for _ in range(150):
    number = random.randrange(9)
    content = bytes([number]) * 1000
    with cache.open(f"key{number}", 1000, lambda file: file.write(content) and None, number) as file:
        assert file.read() == content
    with cache._bookkeeping():  # nobody takes room and no file comes while they are looked at one by one
        used = sum(path.stat().st_size for path in cache.directory.iterdir())
    assert used <= 3500, used
"""


def test_several_processes_share_a_small_cache(tmp_path: Path) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", PROCESS, tmp_path, str(seed)]) for seed in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert len(kept(FileCache(tmp_path, 0))) <= 3
