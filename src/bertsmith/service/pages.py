"""Static files of the package, over HTTP: the page and the documentation. Nothing of them comes from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

from starlette.responses import Response

_KINDS = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
    "json": "application/json",
    "png": "image/png",
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class Files:
    """Files of a folder, read once: no name in a request can lead elsewhere.

    Attributes:
        contents: by path below the folder.
    """

    contents: dict[str, bytes]

    @classmethod
    def of(cls, package: str, folder: str) -> Files:
        """Read a folder of a package; none if it is not there."""
        return cls(dict(_files_below(resources.files(package).joinpath(folder), "")))

    def response(self, name: str) -> Response | None:
        """Return a file with headers that keep foreign code and hosts out; None if there is none of this name."""
        if name not in self.contents:
            return None
        kind = _KINDS.get(name.rpartition(".")[2], "application/octet-stream")
        return Response(self.contents[name], media_type=kind, headers=_HEADERS)


def _files_below(folder: Traversable, prefix: str) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    for entry in folder.iterdir() if folder.is_dir() else ():
        if entry.is_dir():
            found += _files_below(entry, f"{prefix}{entry.name}/")
        elif entry.name.rpartition(".")[2] in _KINDS:
            found.append((prefix + entry.name, entry.read_bytes()))
    return found
