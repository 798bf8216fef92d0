"""The page of a run and its data over HTTP, for this machine only; nothing can be changed through it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from bertsmith.configuration import read_yaml
from bertsmith.errors import InputError
from bertsmith.watching.log import METRICS, GrowingLog

_HOST = "127.0.0.1"
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:"


@contextmanager
def served(run: Path, port: int) -> Iterator[str]:
    """Serve the page of ``run`` from a thread while the block runs; yields its address.

    Args:
        run: a run's directory; it may not hold anything yet.
        port: 0 takes a free one.

    Raises:
        InputError: the port cannot be used.
    """
    log = GrowingLog(run / METRICS)
    try:
        server = ThreadingHTTPServer((_HOST, port), _handler(run, log))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"port {port} cannot be used: {reason}; choose another --port, or 0 for a free one") from None
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield f"http://{_HOST}:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        log.close()


def facts(run: Path) -> dict[str, Any]:
    """Return what the page says beside the curves: name, settings (if written yet), whether the run is finished."""
    try:
        settings = read_yaml(run / "config.yaml")
    except InputError:
        settings = {}
    return {
        "name": run.resolve().name,
        "settings": {name: str(value) for name, value in settings.items() if value is not None},
        "finished": (run / "model").exists(),
    }


def _handler(run: Path, log: GrowingLog) -> type[BaseHTTPRequestHandler]:
    page = resources.files("bertsmith.watching").joinpath("page.html").read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            # Another site's page could have its name point here; it would ask by that name.
            host = (self.headers.get("Host") or "").rpartition(":")[0] or self.headers.get("Host")
            if host not in (_HOST, "localhost"):
                return self._answer(HTTPStatus.FORBIDDEN, "text/plain", b"only for this machine\n")
            asked = urlsplit(self.path)
            if asked.path == "/":
                return self._answer(HTTPStatus.OK, "text/html; charset=utf-8", page)
            if asked.path == "/run":
                return self._json(facts(run))
            if asked.path == "/log":
                values = {name: found[-1] for name, found in parse_qs(asked.query).items()}
                offset = values.get("offset", "0")
                if not (offset.isascii() and offset.isdigit() and len(offset) < 19):
                    return self._answer(HTTPStatus.BAD_REQUEST, "text/plain", b"offset: expected a number of bytes\n")
                return self._json(asdict(log.read(values.get("generation", ""), int(offset))))
            return self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"not here; the page is /\n")

        def _json(self, value: Any) -> None:
            data = json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
            self._answer(HTTPStatus.OK, "application/json", data)

        def _answer(self, status: HTTPStatus, kind: str, data: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("Content-Security-Policy", _POLICY)
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002  (http.server's name)
            # A line a second would hide what the run says.
            pass

    return Handler
