from __future__ import annotations

from pathlib import Path

import pytest

from tests.service.small import save_all

pytest.importorskip("fastapi")


@pytest.fixture(scope="session")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_all(tmp_path_factory.mktemp("service"))
