from __future__ import annotations

from pathlib import Path

import pytest

from bertsmith.console import Log
from bertsmith.export_config import ExportSettings
from tests.exporting.small import save

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="session")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier, with its graph in a folder beside it."""
    from bertsmith.exporting.export import export

    directory = save(tmp_path_factory.mktemp("exporting") / "tuned", "classify")
    export(ExportSettings(model=directory, output=directory / "onnx", threads=1), Log(quiet=True))
    return directory
