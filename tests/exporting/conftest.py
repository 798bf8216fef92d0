from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bertsmith.console import Log
from bertsmith.export_config import ExportSettings
from bertsmith.exporting import checking
from bertsmith.exporting.export import export
from tests.exporting.small import save

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="session", autouse=True)
def few_texts() -> Iterator[None]:
    """Compare on a few texts: tests have their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checking, "TEXTS", 40)
        yield


@pytest.fixture(scope="session")
def tuned(tmp_path_factory: pytest.TempPathFactory, few_texts: None) -> Path:
    """A classifier, with its graph in a folder beside it."""
    directory = save(tmp_path_factory.mktemp("exporting") / "tuned", "classify")
    export(ExportSettings(model=directory, output=directory / "onnx", threads=1), Log(quiet=True))
    return directory
