"""From finished vectors on disk to a file of parquet, npy or safetensors; memory holds a piece at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from bertsmith import files
from bertsmith.errors import InputError
from bertsmith.features.spool import LENGTHS, TOKEN_IDS, VECTORS

FORMATS = {".parquet": "parquet", ".pq": "parquet", ".npy": "npy", ".safetensors": "safetensors"}
_GROUP_BYTES = 1 << 24
_LENGTHS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Finished:
    """Vectors in a work directory.

    Attributes:
        directory: where their files are.
        texts: N.
        tokens: T, if the vectors are those of tokens; otherwise None.
        width: W.
        about: model, recipe and settings, for the output's metadata.
    """

    directory: Path
    texts: int
    tokens: int | None
    width: int
    about: dict[str, Any]

    @property
    def rows(self) -> int:
        """Vectors in all."""
        return self.texts if self.tokens is None else self.tokens

    def lengths(self, first: int, count: int) -> np.ndarray:
        """Return the tokens of up to ``count`` texts from ``first`` on, int64."""
        return np.fromfile(self.directory / LENGTHS, dtype="<i8", count=count, offset=8 * first)

    def starts(self) -> Iterator[np.ndarray]:
        """Yield (N + 1,) int64 in pieces, where each text's tokens begin."""
        begin = np.zeros(1, dtype="<i8")
        yield begin
        for first in range(0, self.texts, _LENGTHS_AT_ONCE):
            piece = begin + np.cumsum(self.lengths(first, _LENGTHS_AT_ONCE))
            yield piece
            begin = piece[-1:]


def format_of(path: Path, chosen: str) -> str:
    """Return parquet, npy or safetensors, by the name if ``chosen`` is ``auto``.

    Raises:
        InputError: the name does not tell.
    """
    found = FORMATS.get(path.suffix.lower()) if chosen == "auto" else chosen
    if found is None:
        raise InputError(
            f"the name does not say what to write; expected an ending of {', '.join(FORMATS)}, or --format", path=path
        )
    return found


def companions(path: Path, kind: str, *, tokens: bool) -> list[Path]:
    """Return the files that stand beside an output: npy has no room for anything but numbers."""
    if kind != "npy":
        return []
    names = [".json", *([".starts.npy", ".token_ids.npy"] if tokens else [])]
    return [path.with_name(path.name + name) for name in names]


def write_output(finished: Finished, path: Path, kind: str) -> None:
    """Write the file, under a temporary name until it is whole."""
    {"parquet": _write_parquet, "npy": _write_npy, "safetensors": _write_safetensors}[kind](finished, path)


def how_to_read(path: Path, kind: str) -> str:
    """Return the line of Python that reads an output."""
    return {
        "parquet": f'pyarrow.parquet.read_table("{path}")',
        "npy": f'numpy.load("{path}", mmap_mode="r")',
        "safetensors": f'safetensors.numpy.load_file("{path}")',
    }[kind]


def _write_npy(finished: Finished, path: Path) -> None:
    if finished.tokens is not None:
        _, starts, token_ids = companions(path, "npy", tokens=True)
        with files.new_file(starts) as temporary, temporary.open("wb") as file:
            _npy_header(file, (finished.texts + 1,), "<i8")
            _write_starts(finished, file)
        _npy(finished.directory / TOKEN_IDS, (finished.tokens,), "<i4", token_ids)
    files.write_json(companions(path, "npy", tokens=False)[0], finished.about)
    _npy(finished.directory / VECTORS, (finished.rows, finished.width), "<f4", path)


def _npy(raw: Path, shape: tuple[int, ...], dtype: str, path: Path) -> None:
    with files.new_file(path) as temporary, temporary.open("wb") as file, raw.open("rb") as source:
        _npy_header(file, shape, dtype)
        shutil.copyfileobj(source, file, 1 << 20)


def _npy_header(file: IO[bytes], shape: tuple[int, ...], dtype: str) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})


def _write_starts(finished: Finished, file: IO[bytes]) -> None:
    for piece in finished.starts():
        file.write(piece.data)


def _write_safetensors(finished: Finished, path: Path) -> None:
    parts: list[tuple[str, str, list[int], int]] = [
        ("vectors", "F32", [finished.rows, finished.width], 4 * finished.rows * finished.width)
    ]
    if finished.tokens is not None:
        parts.append(("starts", "I64", [finished.texts + 1], 8 * (finished.texts + 1)))
        parts.append(("token_ids", "I32", [finished.tokens], 4 * finished.tokens))
    # Numbers of eight bytes first: readers expect them at multiples of eight.
    parts.sort(key=lambda part: part[1] != "I64")
    header: dict[str, Any] = {"__metadata__": {"bertsmith": json.dumps(finished.about)}}
    end = 0
    for name, kind, shape, size in parts:
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with files.new_file(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, *_ in parts:
            if name == "starts":
                _write_starts(finished, file)
                continue
            raw = finished.directory / {"vectors": VECTORS, "token_ids": TOKEN_IDS}[name]
            with raw.open("rb") as source:
                shutil.copyfileobj(source, file, 1 << 20)


def _write_parquet(finished: Finished, path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    vector = pa.list_(pa.float32(), finished.width)
    columns = (
        [("vector", vector)]
        if finished.tokens is None
        else [("token_ids", pa.list_(pa.int32())), ("vectors", pa.list_(vector))]
    )
    schema = pa.schema(columns, metadata={"bertsmith": json.dumps(finished.about)})
    groups = _texts(finished) if finished.tokens is None else _tokens(finished)
    # Floating-point numbers hardly get smaller, and only slower, by compression.
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    with (
        files.new_file(path) as temporary,
        parquet.ParquetWriter(temporary, schema, **options) as writer,
    ):
        for arrays in groups:
            writer.write_table(pa.table(arrays, schema=schema))


def _texts(finished: Finished) -> Iterator[list[Any]]:
    """Yield the columns of each row group."""
    import pyarrow as pa

    rows = max(1, _GROUP_BYTES // (4 * finished.width))
    for first in range(0, finished.texts, rows):
        count = min(rows, finished.texts - first)
        yield [pa.FixedSizeListArray.from_arrays(pa.array(_vectors(finished, first, count)), finished.width)]


def _tokens(finished: Finished) -> Iterator[list[Any]]:
    import pyarrow as pa

    rows = max(1, _GROUP_BYTES // (4 * finished.width))
    first = begin = 0
    while first < finished.texts:
        # Every text has tokens, so that no group has more texts than rows.
        ends = np.cumsum(finished.lengths(first, rows))
        texts = max(1, int(np.searchsorted(ends, rows, side="right")))
        count = int(ends[texts - 1])
        ids = np.fromfile(finished.directory / TOKEN_IDS, dtype="<i4", count=count, offset=4 * begin)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(_vectors(finished, begin, count)), finished.width)
        offsets = pa.array(np.concatenate([[0], ends[:texts]]).astype(np.int32))
        yield [pa.ListArray.from_arrays(offsets, pa.array(ids)), pa.ListArray.from_arrays(offsets, vectors)]
        first, begin = first + texts, begin + count


def _vectors(finished: Finished, first: int, count: int) -> np.ndarray:
    """Return the numbers of ``count`` vectors, end to end."""
    width = finished.width
    path = finished.directory / VECTORS
    return np.fromfile(path, dtype="<f4", count=count * width, offset=4 * first * width)
