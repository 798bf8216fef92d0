"""Rows of text from a Parquet file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bertsmith.errors import InputError, nearest
from bertsmith.remote import Source
from bertsmith.text.decoding import COMPRESSIONS, read_bytes

_BATCH_ROWS = 1024


def open_parquet(path: Source, only: Sequence[str] | None) -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    """Return the columns and a stream of (row number from 1, cells).

    Text is taken as it is, numbers and dates become their text, truth values ``true`` and ``false``, null "".

    Raises:
        InputError: not a Parquet file, a column of ``only`` is missing, or a column that is read holds lists,
            structures or bytes.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(_seekable(path))
        names = list(file.schema_arrow.names)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"cannot be read as Parquet: {_first_line(error)}", path=path) from None
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"the schema names the column {twice[0]!r} more than once", path=path)
    for name in only or ():
        if name not in names:
            raise InputError(f"has no column {name!r}.{nearest(name, names)} Columns: {', '.join(names)}", path=path)
    columns = [name for name in names if only is None or name in only]
    for name in columns:
        kind = file.schema_arrow.field(name).type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if pa.types.is_nested(kind) or any(
            check(kind) for check in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
        ):
            raise InputError(f"column {name!r} holds {kind}, expected text", path=path)
    return columns, _rows(file, columns, path)


def _seekable(path: Source) -> Any:
    # A Parquet file is read from its end, so a compressed one is unpacked to disk first.
    if path.suffix.lower() not in COMPRESSIONS:
        return str(path) if isinstance(path, Path) else path.open()
    unpacked = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the reader
    for chunk in read_bytes(path):
        unpacked.write(chunk)
    unpacked.seek(0)
    return unpacked


def _rows(file: Any, columns: list[str], path: Source) -> Iterator[tuple[int, dict[str, str]]]:
    import pyarrow as pa

    number = 0
    try:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
            cells = [[_cell(value) for value in batch.column(name).to_pylist()] for name in columns]
            for row in zip(*cells, strict=True):
                number += 1
                yield number, dict(zip(columns, row, strict=True))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot be read as Parquet after row {number:,}: {_first_line(error)}", path=path) from None


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
