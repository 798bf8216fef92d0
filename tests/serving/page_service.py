"""The service in a thread of this process, for the page's tests."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.browser import until


@contextlib.contextmanager
def served_models(directories: Sequence[Path]) -> Iterator[str]:
    """Serve models while the block runs; yields the address."""
    uvicorn = pytest.importorskip("uvicorn")
    pytest.importorskip("fastapi")
    pytest.importorskip("prometheus_client")
    from bertsmith.serve_config import ServeSettings
    from bertsmith.service.app import make_app
    from bertsmith.service.models import load_model, named_directories
    from bertsmith.service.service import Service

    settings = ServeSettings.parse({"models": list(map(str, directories)), "port": 0, "threads": 1, "quiet": True})
    models = {name: load_model(name, place) for name, place in named_directories(settings.models).items()}
    app = make_app(Service(models, settings))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            until(lambda: server.started)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(10)
