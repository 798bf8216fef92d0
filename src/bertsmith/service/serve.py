"""``bertsmith serve``: models behind HTTP until Ctrl-C or SIGTERM."""

from __future__ import annotations

import contextlib
import json
import math
import shlex
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.serve_config import ServeSettings
from bertsmith.training.device import set_up_process

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

    from bertsmith.service.models import ServedModel

_KEEP_ALIVE = 75
"""Seconds for which an idle connection stays open. Proxies keep theirs for 60 and would send into one being closed."""

_EXAMPLES: dict[str, Any] = {
    "qa": {"question": "Who came in?", "context": "The door opened. A man came in."},
    "choose": {"context": "The door opened.", "endings": ["A man came in.", "It is blue."]},
}


def serve(settings: ServeSettings, log: Log | None = None) -> None:
    """Serve models; running requests are finished at the end.

    Args:
        settings: what to serve, where, to whom, and how much at a time.
        log: what is said.

    Raises:
        InputError: a model, the address or a key cannot be used, or the packages are missing.
    """
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise InputError(f"serving needs {error.name}: pip install 'bertsmith[serve]'") from None
    from bertsmith.service.app import make_app
    from bertsmith.service.guard import read_keys
    from bertsmith.service.models import load_model, named_directories
    from bertsmith.service.observer import print_line
    from bertsmith.service.service import Service

    log = log or Log(settings.quiet)
    keys = read_keys(settings)
    directories = named_directories(settings.models)
    with bound(settings.host, settings.port) as listening:
        set_up_process(settings.threads)
        models = {}
        for name, directory in directories.items():
            models[name] = load_model(
                name, directory, settings.device, backend=settings.backend, long_texts=settings.long_texts, log=log
            )
            log.say(f"model {name}: {directory} ({', '.join(models[name].abilities)})")
        app = make_app(Service(models, settings), keys, None if settings.quiet else print_line)
        address = _address(settings.host, listening.getsockname()[1])
        server = uvicorn.Server(server_settings(app, settings))
        _say_what_to_do(log, address, next(iter(models.values())), _header(settings.api_key_file) if keys else "")
        with _quiet_signals():
            server.run(sockets=[listening])
    log.say("no longer serving")


def server_settings(app: FastAPI, settings: ServeSettings) -> uvicorn.Config:
    """Return how uvicorn is to run an application: without lines of its own, and patient at the end."""
    import uvicorn

    return uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="on",
        ws="none",
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=math.ceil(settings.max_shutdown),
    )


@contextlib.contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """Yield a socket of an address; taken before models are loaded, so that a taken port is said at once."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"host {host!r} cannot be used: {reason}") from None
    with socket.socket(family, kind, protocol) as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind(place)
        except OSError as error:
            reason = error.strerror or error
            raise InputError(
                f"port {port} cannot be used: {reason}; choose another --port, or 0 for a free one"
            ) from None
        yield found


def _address(host: str, port: int) -> str:
    shown = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


def _header(key_file: Path | None) -> str:
    """Return what curl is told about the key: it is in the environment or a file, and is not shown."""
    key = "$BERTSMITH_API_KEY" if key_file is None else f"$(head -n 1 {shlex.quote(str(key_file))})"
    return f' -H "Authorization: Bearer {key}"'


def _say_what_to_do(log: Log, address: str, model: ServedModel, header: str) -> None:
    log.say(f"serving: {address}/   (documentation: {address}/docs; Ctrl-C ends it)")
    if model.predictor:
        path = f"/v1/models/{model.name}/predict"
        task = model.predictor.task.name
        pair = ["A text.", "Another one."] if "text_b" in model.predictor.facts["columns"] else "A text. 텍스트."
        body = {"input": _EXAMPLES.get(task, pair)}
    else:
        path, body = "/v1/embeddings", {"model": model.name, "input": ["A text.", "텍스트."]}
    data = shlex.quote(json.dumps(body, ensure_ascii=False))
    asked = shlex.quote(address + path) + header
    log.say(f"next: curl {asked} -H 'Content-Type: application/json' -d {data}")


@contextlib.contextmanager
def _quiet_signals() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the block without an exception, after uvicorn has seen to them."""
    try:
        # uvicorn takes both signals while it runs, and sends them again at its end.
        before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    except ValueError:  # not in the main thread, where no signals arrive
        yield
        return
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)
