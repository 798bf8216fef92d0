"""Names of the hub: only with their prefix, and every failure is one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bertsmith.errors import InputError
from bertsmith.model.hub import download
from bertsmith.model.weights import model_directory

hub = pytest.importorskip("huggingface_hub")


def test_a_name_is_fetched_with_its_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fake(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repository, revision))
        assert not any("bin" in pattern for pattern in allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", fake)
    with pytest.raises(InputError, match=r"hub:who/what: publishes no safetensors.*--from-pickle"):
        model_directory(Path("hub:who/what"))
    (tmp_path / "model.safetensors").touch()
    assert model_directory(Path("hub:who/what")) == tmp_path
    assert model_directory(Path("hub:bert-base@v2")) == tmp_path
    assert asked[1:] == [("who/what", None), ("bert-base", "v2")]


def test_a_mistyped_path_never_goes_to_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object, **named: object) -> str:
        raise AssertionError("asked the hub")

    monkeypatch.setattr(hub, "snapshot_download", never)
    with pytest.raises(InputError, match=r"no such directory.*\(a model of the hub is named hub:who/what\)"):
        model_directory(Path("who/what"))
    with pytest.raises(InputError, match=r"expected a model or a run$"):
        model_directory(Path("/no/such/place"))


def test_failures_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object, **named: object) -> str:
        raise ConnectionError("\nno route\nsecond line")

    monkeypatch.setattr(hub, "snapshot_download", fails)
    with pytest.raises(InputError, match=r"hub:who/what: cannot be had from the hub: no route$"):
        download("hub:who/what")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install 'bertsmith\[hub\]'"):
        download("hub:who/what")
