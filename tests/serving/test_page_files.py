"""The page's files: every sentence in both languages, no markup from text, nothing from other hosts."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.serving.page_models import page_files

SCRIPTS, STYLES, PAGE = page_files(".js"), page_files(".css"), page_files(".html")
WORDS: dict[str, dict[str, str]] = json.loads(page_files(".json")["words.json"])


def test_no_entry_is_missing_in_either_language() -> None:
    for key, sentences in WORDS.items():
        assert set(sentences) == {"en", "ko"}, key
        assert all(sentence.strip() for sentence in sentences.values()), key
        english, korean = (set(re.findall(r"\{\d\}", sentence)) for sentence in sentences.values())
        assert english == korean, key
        assert not re.search("[가-힣]", sentences["en"]), key


def test_what_the_page_says_is_in_the_dictionary_and_nothing_else_is() -> None:
    source = "\n".join(SCRIPTS.values())
    named = set(re.findall(r"""["']([a-z_]+(?:\.[a-z_]+)+|[a-z_]+)["']""", source))
    views = re.findall(r'id: "(\w+)",\n  suits', source) + re.findall(r'labelView\("(\w+)"', source)
    made = {f"{view}.{part}" for view in views for part in ("name", "title", "lead")}
    made |= {f"inside.{row}" for row in ("token", "segment", "position", "sum")}
    made |= {f"masking.{kind}" for kind in ("mask", "random", "kept")}
    assert len(views) == 10
    for key in re.findall(r"""\bt\(["']([^"']+)["']""", source):
        assert key in WORDS
    for key in re.findall(r"""\blabel: ["']([^"']+)["']""", source):
        assert key in WORDS
    assert made <= set(WORDS)
    assert set(WORDS) - made <= named


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_take_no_text_for_markup(name: str) -> None:
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "cssText"):
        assert word not in SCRIPTS[name]
    assert not re.search(r"""setAttribute\(["']style|\bon\w+: ["'`]""", SCRIPTS[name])
    assert SCRIPTS[name].count("\n") < 400


def test_nothing_comes_from_elsewhere() -> None:
    for name, text in (SCRIPTS | STYLES | PAGE).items():
        found = set(re.findall(r"""(?:https?:)?//[\w.-]+\.\w+[^"'\s]*""", text))
        assert found <= {"http://www.w3.org/2000/svg"}, name
        assert "@import" not in text
    assert not any("url(" in text for text in STYLES.values())
    (page,) = PAGE.values()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=", page)


def test_every_kind_of_file_is_packaged() -> None:
    project: dict[str, Any] = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["bertsmith"]
    assert {f"**/*{ending}" for ending in (".html", ".css", ".js", ".json", ".svg")} <= set(patterns)
