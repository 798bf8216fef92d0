"""An object store of this machine that speaks S3, for tests of files behind URLs."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Any

import pytest

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def s3() -> Iterator[Any]:
    """Return s3fs's file system of a server that runs here, which other processes find by the environment."""
    server_module = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    values = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        os.environ.pop("AWS_PROFILE", None)
        yield s3fs.S3FileSystem()
    server.stop()


@pytest.fixture
def bucket(s3: Any) -> str:
    """Return the name of a new bucket."""
    name = f"bucket{next(_NUMBERS)}"
    s3.mkdir(name)
    return name
