from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest

from bertsmith.errors import InputError
from bertsmith.text import minhash
from bertsmith.text.corpus import CorpusDocument
from bertsmith.text.minhash import near_copies, require_datasketch, sketch

KOREAN = "어제 저녁에 친구와 함께 강가를 걸었다. 바람이 차가웠지만 하늘은 맑았고 별이 아주 많이 보였다. " * 3
ENGLISH = "The committee met on Tuesday to discuss the new library, which is to open in the spring. " * 3


def documents(texts: list[str]) -> list[CorpusDocument]:
    return [CorpusDocument(text, "line", 0, number + 1, number) for number, text in enumerate(texts)]


def similarity(a: str, b: str) -> float:
    first, second = sketch(documents([a, b])).signatures
    return float((first == second).mean())


def pieces(text: str) -> set[str]:
    plain = " ".join(text.lower().split())
    return {plain[at : at + 5] for at in range(len(plain) - 4)}


@pytest.mark.parametrize("text", [KOREAN, ENGLISH])
@pytest.mark.parametrize("cut", [0, 10, 60])
def test_signatures_agree_in_the_share_that_is_common(text: str, cut: int) -> None:
    other = text[:-cut] + "z 9 q 뷁 x"[: cut % 7 + 1] if cut else text
    ours, theirs = pieces(text), pieces(other)
    assert similarity(text, other) == pytest.approx(len(ours & theirs) / len(ours | theirs), abs=0.12)


def test_what_makes_no_difference() -> None:
    assert similarity("The  Cat\nsat here.", "the cat sat HERE.") == 1
    assert similarity("\u1112\u1161\u11ab국어를 배운다", "한국어를 배운다") == 1
    assert similarity("가나", "가나") == 1
    assert similarity("가나", "가다") < 0.2
    assert similarity(KOREAN, ENGLISH) < 0.05


def test_a_long_document_is_sketched_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sketch(documents([KOREAN, ENGLISH, "", "짧다"]))
    monkeypatch.setattr(minhash, "_PIECES_AT_ONCE", 7)
    parts = sketch(documents([KOREAN, ENGLISH, "", "짧다"]))
    assert (whole.signatures == parts.signatures).all()
    assert whole.characters.tolist() == [len(KOREAN), len(ENGLISH), 0, 2]


def test_near_copies_are_those_of_a_plain_comparison() -> None:
    """Of signatures that agree in 0.9 or more, or in much less than 0.8, the index misses none and makes up none."""
    rng = np.random.default_rng(3)
    originals = rng.integers(0, 2**32, (40, minhash.NUMBERS), dtype=np.uint32)
    rows = []
    for _ in range(170):
        row = originals[rng.integers(40)].copy()
        changed = rng.permutation(minhash.NUMBERS)[: rng.choice([0, 6, 70])]
        row[changed] = rng.integers(0, 2**32, len(changed))
        rows.append(row)
    signatures = np.array(rows)
    expected: list[tuple[int, int]] = []
    kept: list[int] = []
    for number, row in enumerate(signatures):
        original = next((other for other in kept if (row == signatures[other]).mean() >= 0.8), None)
        if original is None:
            kept.append(number)
        else:
            expected.append((number, original))
    advanced: list[int] = []
    found = near_copies(signatures, 0.8, advanced.append)
    missed = set(expected) ^ {(number, original) for number, original, _ in found}
    assert len(expected) > 60
    assert len(missed) <= 2
    assert all(share == (signatures[a] == signatures[b]).mean() >= 0.8 for a, b, share in found)
    assert sum(advanced) == 170
    assert not {number for number, _, _ in found} & {original for _, original, _ in found}


def test_nothing_is_near_to_nothing() -> None:
    rng = np.random.default_rng(0)
    assert near_copies(rng.integers(0, 2**32, (99, minhash.NUMBERS), dtype=np.uint32), 0.5) == []
    assert near_copies(np.zeros((0, minhash.NUMBERS), dtype=np.uint32), 0.8) == []


def test_only_some_of_the_documents() -> None:
    sketches = sketch(documents([KOREAN, ENGLISH, "짧다"]))
    kept = sketches.where(np.array([True, False, True]))
    assert kept.lines.tolist() == [1, 3]
    assert (kept.signatures == sketches.signatures[[0, 2]]).all()
    pairs = itertools.combinations(kept.signatures, 2)
    assert all((a == b).mean() < 0.1 for a, b in pairs)


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(InputError, match=r"pip install 'bertsmith\[dedup\]'"):
        require_datasketch()
