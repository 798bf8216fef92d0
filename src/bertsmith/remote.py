"""Files behind URLs, by fsspec: what is there, and reading it through a cache of this machine."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path, PurePath, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from bertsmith import files
from bertsmith.errors import InputError
from bertsmith.file_cache import FileCache
from bertsmith.locations import Url

if TYPE_CHECKING:
    # Worker processes have no use for it.
    from bertsmith.config import RemoteSettings

_CHUNK = 1 << 22
_TRIES = 3


@dataclass(frozen=True)
class RemoteFile:
    """A file behind a URL; its content is fetched when it is first opened.

    Attributes:
        url: where it is.
        size: in bytes.
        key: tells this content from another one at the same URL, as far as the other side tells.
        cache: where its copy is kept.
        sha256: of the content, if somebody has said it.
    """

    url: Url
    size: int
    key: str
    cache: FileCache
    sha256: str | None = None

    def __str__(self) -> str:
        return str(self.url)

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.url.name

    @property
    def suffix(self) -> str:
        """The name's ending."""
        return PurePosixPath(self.name).suffix

    def open(self) -> BufferedReader:
        """Return the copy opened for reading.

        Raises:
            InputError: the file cannot be fetched, or is not what ``size`` and ``sha256`` say.
        """
        return self.cache.open(self.key, self.size, self._fetch, self.url)

    def _fetch(self, file: IO[bytes]) -> None:
        for attempt in range(1, _TRIES + 1):
            file.seek(0)
            digest = hashlib.sha256()
            try:
                filesystem, path = open_filesystem(self.url)
                with filesystem.open(path, "rb", cache_type="readahead", block_size=_CHUNK) as source:
                    while chunk := source.read(_CHUNK):
                        digest.update(chunk)
                        file.write(chunk)
            except (FileNotFoundError, PermissionError) as error:
                raise _unreachable(self.url, error) from None
            except InputError:
                raise
            except Exception as error:  # what a network can raise has no common type
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise  # this machine's disk, which is the cache's to tell about
                if attempt == _TRIES:
                    raise _unreachable(self.url, error) from None
                time.sleep(attempt)
            else:
                break
        if self.sha256 not in (None, digest.hexdigest()):
            raise InputError("does not match its checksum: it was cut short or changed where it is kept", path=self)


Source = Path | RemoteFile
"""A file to read."""


def cache_of(settings: RemoteSettings) -> FileCache:
    """Return the cache that the settings ask for."""
    above = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return FileCache(settings.cache or above / "bertsmith" / "files", int(settings.cache_gb * 1e9))


def open_source(source: Source) -> BufferedReader:
    """Open a file for reading; a remote one as a copy."""
    return source.open("rb") if isinstance(source, Path) else source.open()


def size_of(source: Source) -> int:
    """Return a file's size in bytes."""
    return source.stat().st_size if isinstance(source, Path) else source.size


def hash_of(source: Source) -> str:
    """Return a file's SHA-256 in hexadecimal digits.

    Raises:
        InputError: it cannot be read.
    """
    try:
        if isinstance(source, Path):
            return files.sha256(source)
        with source.open() as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path=source) from None


def name_of(source: Source) -> PurePath:
    """Return what a file's name tells from: the path, or the last part of the URL."""
    return source if isinstance(source, Path) else PurePosixPath(source.name)


def open_filesystem(url: Url) -> tuple[Any, str]:
    """Return fsspec's file system for a URL, and the path in it.

    Raises:
        InputError: a package is missing (the message names it), or nobody knows such URLs.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise InputError("URLs need fsspec: pip install 'bertsmith[remote]'", path=url) from None
    try:
        filesystem, path = url_to_fs(str(url))
    except ImportError as error:
        raise InputError(f"{_missing_package(url)} ({error})", path=url) from None
    except ValueError as error:
        raise InputError(
            f"{str(error).rstrip('.')}; expected a path, or a URL such as s3://bucket/folder, gs://... or hf://...",
            path=url,
        ) from None
    except Exception as error:  # a file system may look at its server already
        raise _unreachable(url, error) from None
    return filesystem, path


def find_remote(url: Url, cache: FileCache) -> tuple[list[RemoteFile], bool]:
    """Return the files that a URL names: one, those below a folder (sorted, no hidden ones), or those of a pattern.

    Returns:
        The files, and whether the URL named one file by itself.

    Raises:
        InputError: there is nothing, or it cannot be reached.
    """
    filesystem, path = open_filesystem(url)
    with _reaching(url):
        filesystem.invalidate_cache()
        if filesystem.isfile(path):
            return [_described(filesystem, filesystem.info(path), cache, url)], True
        matches = [path] if filesystem.isdir(path) else sorted(filesystem.glob(path))
        found: dict[str, Any] = {}
        for match in matches:
            below = filesystem.find(match, detail=True)
            found |= {name: info for name, info in below.items() if not _is_hidden(name, match)}
    if not matches:
        raise InputError("no such file or folder, and nothing matches it as a pattern", path=url)
    return [_described(filesystem, found[name], cache, url) for name in sorted(found)], False


def read_remote(url: Url, *, what: str) -> bytes:
    """Return a small file's content; ``what`` names it in the error ("the manifest of a token store").

    Raises:
        InputError: it is not there, or cannot be reached.
    """
    filesystem, path = open_filesystem(url)
    with _reaching(url):
        try:
            content: bytes = filesystem.cat_file(path)
        except FileNotFoundError:
            raise InputError(f"not found; expected {what} here", path=url) from None
    return content


def _described(filesystem: Any, info: dict[str, Any], cache: FileCache, asked: Url) -> RemoteFile:
    where = Url(filesystem.unstrip_protocol(info["name"])) if "::" not in str(asked) else asked
    if info.get("size") is None:
        raise InputError("does not say how large it is; copy it to this machine first", path=where)
    version = filesystem.ukey(info["name"])
    key = hashlib.sha256(f"{where} {info['size']} {version}".encode()).hexdigest()
    return RemoteFile(where, int(info["size"]), key, cache)


def _is_hidden(name: str, folder: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(name.removeprefix(folder)).parts)


@contextlib.contextmanager
def _reaching(url: Url) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # what a network can raise has no common type
        raise _unreachable(url, error) from None


def _unreachable(url: Url, error: Exception) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError(f"not found: {_first_line(error)}", path=url)
    return InputError(f"cannot be read: {type(error).__name__}: {_first_line(error)}", path=url)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:300]


def _missing_package(url: Url) -> str:
    from fsspec.registry import known_implementations

    protocol = str(url).partition("://")[0].rpartition("::")[2]
    module = known_implementations.get(protocol, {}).get("class", "").partition(".")[0]
    if module in ("", "fsspec"):
        return "its package is not installed"
    return f"its package is not installed: pip install {module.replace('_', '-')}"
