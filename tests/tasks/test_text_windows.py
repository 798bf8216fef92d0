"""Windows of long texts: every token is in one, they fit, and begin and end between words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertsmith.errors import InputError
from bertsmith.tasks.text_windows import encode_windows, merged
from bertsmith.text.tokenizer import Tokenizer

MOST = 300
WORDS = [f"w{n}" for n in range(MOST)]
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *(f"##{word}" for word in WORDS)]
TOKENIZER = Tokenizer.from_tokens(TOKENS, lowercase=True)
CLS, SEP = 2, 3


def some_ids(length: int, seed: int, share_of_starts: float = 0.5) -> np.ndarray:
    """Ids that never repeat: of the n-th word or of the n-th piece that goes on with one."""
    goes_on = np.random.default_rng(seed).random(length) >= share_of_starts
    return 5 + np.arange(length) + MOST * goes_on


def pieces(sequence: tuple[list[int], list[int]], parts: int) -> list[list[int]]:
    ids, segments = sequence
    assert len(ids) == len(segments)
    assert ids[0] == CLS
    assert ids.count(SEP) == parts
    found, left = [], ids[1:]
    for number in range(parts):
        end = left.index(SEP)
        found.append(left[:end])
        left = left[end + 1 :]
        assert segments.count(number) == end + 1 + (number == 0)
    assert not left
    return found


def covered(whole: np.ndarray, windows: list[list[int]]) -> bool:
    """Whether windows are pieces of the text and hold all of it together."""
    text = whole.tolist()
    places = [text.index(window[0]) for window in windows]
    are_pieces = all(text[s : s + len(window)] == window for s, window in zip(places, windows, strict=True))
    return are_pieces and places == sorted(places) and set(text) == {number for window in windows for number in window}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(3, 70), st.integers(0, 99), st.sampled_from([0.0, 0.3, 1.0]))
def test_one_text(length: int, max_length: int, seed: int, starts: float) -> None:
    ids = some_ids(length, seed, starts)
    windows = [pieces(sequence, 1)[0] for [sequence] in encode_windows([[ids]], max_length, TOKENIZER)]
    room = max_length - 2
    assert all(0 < len(window) <= room for window in windows)
    assert (len(windows) == 1) == (length <= room)
    assert len(windows) <= 1 + np.ceil(max(0, length - room) / (room - room // 4))
    assert covered(ids, windows)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(5, 70), st.integers(0, 99))
def test_pairs(first: int, second: int, max_length: int, seed: int) -> None:
    a, b = some_ids(first, seed), some_ids(second, seed + 1)
    sequences = [sequence for [sequence] in encode_windows([[a, b]], max_length, TOKENIZER)]
    assert all(len(ids) <= max_length for ids, _ in sequences)
    parts = [pieces(sequence, 2) for sequence in sequences]
    for number, whole in enumerate((a, b)):
        assert covered(whole, [part[number] for part in parts])
    shorter = int(first > second)
    if min(first, second) <= (max_length - 3) // 2:
        assert all(part[shorter] == (a, b)[shorter].tolist() for part in parts)


def test_words_stay_whole() -> None:
    ids = 5 + np.arange(120) + MOST * (np.arange(120) % 3 > 0)
    windows = [pieces(sequence, 1)[0] for [sequence] in encode_windows([[ids]], 42, TOKENIZER)]
    assert len(windows) == 4
    assert covered(ids, windows)
    assert all(window[0] < 5 + MOST and len(window) % 3 == 0 for window in windows)


def test_endings_go_through_as_many_windows_of_the_same_context() -> None:
    context, endings = some_ids(90, 1), [some_ids(n, n) for n in (3, 9, 40)]
    windows = encode_windows([[context, ending] for ending in endings], 33, TOKENIZER)
    assert {len(window) for window in windows} == {3}
    parts = [[pieces(sequence, 2) for sequence in window] for window in windows]
    assert all(len({tuple(first) for first, _ in window}) == 1 for window in parts)
    for number, ending in enumerate(endings):
        assert covered(ending, [window[number][1] for window in parts])


def test_no_room() -> None:
    with pytest.raises(InputError, match="max_length 4 leaves no room"):
        encode_windows([[some_ids(3, 0), some_ids(3, 1)]], 4, TOKENIZER)


def test_the_mean_of_windows() -> None:
    outputs = [np.array([1.0, 2.0]), np.array([3.0, 0.0]), np.array([5.0, 5.0])]
    assert [row.tolist() for row in merged(outputs, [2, 1])] == [[2.0, 1.0], [5.0, 5.0]]
    assert merged(outputs, [1, 1, 1]) is outputs
