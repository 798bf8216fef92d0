"""The documentation in a real browser: it shows every route, asks no other host, and says nothing on the console."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.browser import keep_picture, set_dark, texts, until
from tests.service.small import service_of
from tests.service.test_serve import running


def test_every_route_is_shown(browser: Any, directories: dict[str, Path]) -> None:
    with running(service_of({"encoder": directories["encoder"]})) as (address, _, _):
        browser.get(f"{address}/docs")
        until(lambda: texts(browser, "details"), 60)
        assert {"/v1/models/{name}/predict", "/v1/embeddings", "/metrics"} <= set(texts(browser, ".path"))
        assert len(texts(browser, "summary")) == 12
        browser.execute_script("document.querySelectorAll('details').forEach(shown => (shown.open = true))")
        fields = texts(browser, "td:first-child")
        assert {"inputs", "model *", "top_k", "encoding_format", "predictions *"} <= set(fields)
        assert any("Default: 5." in text for text in texts(browser, "td"))
        examples = texts(browser, "pre")
        assert all(example.startswith(f"curl {address}/") for example in examples)
        assert any("/v1/embeddings" in example and '"model":"NAME"' in example for example in examples)
        asked = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
        assert asked
        assert all(name.startswith((address, "data:")) for name in asked)
        set_dark(browser, True)
        keep_picture(browser, "service-docs")
        assert browser.get_log("browser") == []
