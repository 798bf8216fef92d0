"""Where something is: a path of this machine, or a URL (s3://, gs://, hf:// and what else fsspec knows)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(::[A-Za-z][A-Za-z0-9+.-]*)*://")
_HERE = re.compile(r"(?:file|local)://")


@dataclass(frozen=True)
class Url:
    """A file or folder that fsspec opens; never changed by what a path would make of it (``//`` stays)."""

    text: str

    def __str__(self) -> str:
        return self.text

    def __truediv__(self, name: str) -> Url:
        return Url(f"{self.text.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        """The last part."""
        return PurePosixPath(self.text).name


Location = Path | Url


def as_location(value: Any) -> Any:
    """Return text as a location; ``file://`` is a path of this machine. Anything else comes back as it is."""
    if isinstance(value, str):
        return Url(value) if _SCHEME.match(value) and not _HERE.match(value) else Path(_HERE.sub("", value))
    return value
