"""Texts of a file as ``predict`` reads them: a table's columns, a text a line, or standard input."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bertsmith import files
from bertsmith.errors import InputError
from bertsmith.feature_config import EmbedSettings
from bertsmith.features.encoder import Text
from bertsmith.text.columns import joined, named, split_names
from bertsmith.text.decoding import uncompressed_name
from bertsmith.text.tables import FORMATS, open_records, read_lines


def read_inputs(settings: EmbedSettings) -> Iterator[Text]:
    """Yield each row's text or pair, as a new stream with each call; the n-th is the n-th line or row.

    Raises:
        InputError: the file cannot be read, a column is missing, a text is empty, or pairs are wanted and there are no
            columns; the line is named.
    """
    path = settings.input
    parts = [settings.text] if settings.text_b is None else [settings.text, settings.text_b]
    if _is_stdin(path) or uncompressed_name(path).suffix.lower() not in FORMATS:
        where = "standard input" if _is_stdin(path) else str(path)
        if len(parts) > 1:
            raise InputError(f"is plain text; expected a table with the columns {', '.join(parts)}", path=where)
        lines = read_lines(sys.stdin.buffer if _is_stdin(path) else path, encoding=settings.encoding)
        for line, text in enumerate(lines, start=1):
            if not text.strip():
                raise InputError("the text is empty; expected at least one character", path=where, line=line)
            yield text
        return
    yield from _cells(settings, parts)


def _cells(settings: EmbedSettings, parts: list[str]) -> Iterator[Text]:
    path, reading = settings.input, {"encoding": settings.encoding, "quoting": settings.quoting}
    there: list[str] = []
    if any("," in part for part in parts):
        # A column may have commas in its own name.
        head = open_records(path, **reading)
        there = head.columns if head.columns is not None else list(next(head.rows, (0, {}))[1])
    names = [split_names(part, there) for part in parts]
    only = list(dict.fromkeys(name for own in names for name in own))
    for line, cells in open_records(path, only=only, **reading).rows:
        texts = [joined([cells.get(name, "") for name in own]) for own in names]
        for own, text in zip(names, texts, strict=True):
            if not text.strip():
                raise InputError(f"{named(own)} empty; expected a text", path=path, line=line)
        yield texts[0] if len(texts) == 1 else (texts[0], texts[1])


def count_inputs(settings: EmbedSettings) -> int | None:
    """Return how many texts there are, after a look at each of them; None for standard input.

    Raises:
        InputError: as :func:`read_inputs`, or there is none.
    """
    if _is_stdin(settings.input):
        return None
    count = sum(1 for _ in read_inputs(settings))
    if not count:
        raise InputError("holds no text; expected at least one", path=settings.input)
    return count


def input_identity(path: Path) -> dict[str, Any]:
    """Return what tells an input from another one: size and SHA-256; of standard input nothing can be told ahead."""
    if _is_stdin(path):
        return {"stdin": True}
    return {"bytes": path.stat().st_size, "sha256": files.sha256(path)}


class TextDigest:
    """The SHA-256 of texts so far, to see that a stream starts again with those that were done."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, text: Text) -> None:
        """Take one text or pair in."""
        for part in (text,) if isinstance(text, str) else text:
            data = part.encode("utf-8", "surrogatepass")
            self._hash.update(len(data).to_bytes(8, "little") + data)

    def value(self) -> str:
        """Return the digest in hexadecimal digits."""
        return self._hash.hexdigest()


def _is_stdin(path: Path) -> bool:
    return str(path) == "-"
