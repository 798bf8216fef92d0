"""The Korean README says what the English one says: the same sections, commands, tables and figures."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BOTH = ("README.md", "README.ko.md")
# 6x384 has two figures, .8292 and 1,161 are one each.
_FIGURE = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?|\.\d+")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text: str) -> list[list[str]]:
    """Return the lines of each code block, without comments."""
    found = re.findall(r"^```\w*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [[re.sub(r"\s+#\s.*", "", line) for line in block.splitlines()] for block in found]


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def rows(text: str) -> Iterator[list[str]]:
    for line in prose(text).splitlines():
        if line.startswith("|"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def names(text: str) -> list[str]:
    return sorted(re.findall(r"`[^`]*`", text))


def figures(text: str) -> Counter[str]:
    return Counter(_FIGURE.findall(re.sub(r"`[^`]*`", "", text)))


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [read(name) for name in BOTH]


def test_the_same_sections(texts: list[str]) -> None:
    english, korean = (re.findall(r"^#+ ", prose(text), re.MULTILINE) for text in texts)
    assert len(english) > 5
    assert english == korean


def test_the_same_commands_and_transcripts(texts: list[str]) -> None:
    english, korean = map(blocks, texts)
    assert len(english) > 5
    assert english == korean


def test_the_same_tables(texts: list[str]) -> None:
    english, korean = (list(rows(text)) for text in texts)
    assert len(english) > 30
    assert len(english) == len(korean)
    for ours, theirs in zip(english, korean, strict=True):
        assert [figures(cell) for cell in ours] == [figures(cell) for cell in theirs], (ours, theirs)
        assert [names(cell) for cell in ours] == [names(cell) for cell in theirs]


def test_the_same_figures_and_names_in_the_prose(texts: list[str]) -> None:
    sections = [re.split(r"^#+ .*$", prose(text), flags=re.MULTILINE) for text in texts]
    for ours, theirs in zip(*sections, strict=True):
        plain = [re.sub(r"^\|.*$", "", text, flags=re.MULTILINE) for text in (ours, theirs)]
        assert set(names(plain[0])) == set(names(plain[1]))
        # Small ones are words in one of the languages.
        english, korean = ({figure for figure in figures(text) if len(figure) > 1} for text in plain)
        assert english == korean


def test_links_lead_somewhere(texts: list[str]) -> None:
    for text in texts:
        for link in re.findall(r"\]\(([^)#]+)\)", text):
            assert link.startswith("https://") or (ROOT / link).exists(), link
    assert "(README.md)" in texts[1]
