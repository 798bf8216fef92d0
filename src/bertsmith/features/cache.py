"""Vectors that were made before, on disk: one SQLite file, which several processes may use at once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bertsmith.errors import InputError
from bertsmith.features.encoder import Encoder, Text

_FILE = "vectors.sqlite3"
_TEXTS = 2048
_KEYS = 500
_WAIT_SECONDS = 60.0


def encode_cached(encoder: Encoder, texts: Sequence[Text], directory: Path) -> np.ndarray:
    """Return what :meth:`Encoder.encode` does; vectors that are in the cache are not made again.

    Entries are found by model, recipe and text, so vectors of another model are never taken. They are written in
    transactions of some thousand: a process that is killed leaves no half of one.

    Args:
        encoder: makes what is not there.
        texts: n of them; repeated ones are made once.
        directory: made if it is not there.

    Raises:
        InputError: something is not a text, or the cache cannot be opened or is damaged.
    """
    out = np.empty((len(texts), encoder.width), dtype=np.float32)
    if not len(texts):
        return out
    about = encoder.checksum + json.dumps(encoder.recipe.to_json()) + encoder.device.type
    with _open(directory) as connection:
        for first in range(0, len(texts), _TEXTS):
            part = texts[first : first + _TEXTS]
            keys = [_key(about, text) for text in part]
            known = _look_up(connection, keys, encoder.width)
            new = {key: text for key, text in zip(keys, part, strict=True) if key not in known}
            if new:
                made = encoder.encode(list(new.values()))
                known |= dict(zip(new, made, strict=True))
                with connection:
                    connection.executemany(
                        "INSERT OR IGNORE INTO vectors VALUES (?, ?)",
                        [(key, vector.astype("<f4").tobytes()) for key, vector in zip(new, made, strict=True)],
                    )
            out[first : first + len(part)] = [known[key] for key in keys]
    return out


@contextlib.contextmanager
def _open(directory: Path) -> Iterator[sqlite3.Connection]:
    path = directory / _FILE
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path, timeout=_WAIT_SECONDS)) as connection:
            with connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY NOT NULL, vector BLOB NOT NULL)"
                )
            yield connection
    except sqlite3.Error as error:
        raise InputError(
            f"cannot be used as a cache of vectors: {error}; another directory will do", path=path
        ) from None
    except (FileExistsError, NotADirectoryError):
        raise InputError("is a file or in one; expected a directory for the cache", path=directory) from None


def _key(about: str, text: Text) -> bytes:
    # JSON tells a pair from a text, and its escapes take any string.
    return hashlib.sha256(f"{about}\n{json.dumps(text)}".encode()).digest()


def _look_up(connection: sqlite3.Connection, keys: Sequence[bytes], width: int) -> dict[bytes, np.ndarray]:
    wanted = list(dict.fromkeys(keys))
    found = {}
    for first in range(0, len(wanted), _KEYS):
        some = wanted[first : first + _KEYS]
        marks = ",".join("?" * len(some))
        for key, vector in connection.execute(f"SELECT key, vector FROM vectors WHERE key IN ({marks})", some):
            if len(vector) == 4 * width:
                found[key] = np.frombuffer(vector, dtype="<f4")
    return found
