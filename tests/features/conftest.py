from __future__ import annotations

from pathlib import Path

import pytest

from tests.features.small import save


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("features") / "model")
