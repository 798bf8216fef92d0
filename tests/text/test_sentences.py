from __future__ import annotations

import builtins
import time
from pathlib import Path

import pytest

from bertsmith.errors import InputError
from bertsmith.text import sentences
from bertsmith.text.sentences import choose_rule, split_sentences


def cases() -> list[tuple[str, list[str]]]:
    """Texts and their sentences.

    The file has one sentence a line and a blank line between texts. Where the text is not its sentences joined
    by spaces, or a sentence could be cut where it should not, the text stands first, above a line "=". A line
    that begins with "+" follows the one before without a space.
    """
    blocks = Path(__file__).with_name("tricky_sentences.txt").read_text(encoding="utf-8").strip().split("\n\n")
    found = []
    for block in blocks:
        whole, _, expected = block.rpartition("\n=\n")
        lines = expected.split("\n")
        text = whole or "".join(line[1:] if line.startswith("+") else f" {line}" for line in lines).strip()
        found.append((text, [line.removeprefix("+") for line in lines]))
    return found


@pytest.mark.parametrize(("text", "expected"), cases())
def test_tricky(text: str, expected: list[str]) -> None:
    assert split_sentences(text, "rules") == expected


@pytest.mark.parametrize("text", [text for text, _ in cases()])
def test_nothing_is_lost_and_splitting_again_changes_nothing(text: str) -> None:
    found = split_sentences(text, "rules")
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(s == s.strip() and s for s in found)


def test_line_ends_end_sentences_and_blank_ones_vanish() -> None:
    assert split_sentences("A title\n\n  It begins. It ends.  \n", "rules") == ["A title", "It begins.", "It ends."]
    assert split_sentences("One. Two.\n \nThree.", "line") == ["One. Two.", "Three."]
    assert split_sentences(" \n", "rules") == []


def test_work_is_linear_in_the_text() -> None:
    # Texts in which every candidate is refused must not be searched again from their beginning.
    for unit in ("Mr. ", "a... ", "(Mr. ", "『가. ", "1. 2. ", "그래서.. "):
        start = time.perf_counter()
        split_sentences(unit * 50_000, "rules")
        assert time.perf_counter() - start < 5, unit


def test_choice_keeps_lines_that_are_sentences() -> None:
    assert choose_rule(["그는 갔다.\n나는 남았다.\n비가 왔다."] * 3) == "line"
    assert choose_rule(["He left. I stayed. It rained.\nShe came. We sang."] * 3) == "rules"


def test_choice_for_documents_of_one_line_or_none_is_rules() -> None:
    assert choose_rule(["He left.", "I stayed."]) == "rules"
    assert choose_rule([]) == "rules"


def test_kiwi_splits_korean() -> None:
    pytest.importorskip("kiwipiepy")
    assert split_sentences("비가 왔다. 나는 집에 갔다.\n제목", "kiwi") == ["비가 왔다.", "나는 집에 갔다.", "제목"]


def test_kiwi_missing_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object, **more: object) -> object:
        if name == "kiwipiepy":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    sentences._kiwi.cache_clear()
    with pytest.raises(InputError, match=r"bertsmith\[ko\]"):
        split_sentences("비가 왔다.", "kiwi")
    sentences._kiwi.cache_clear()
