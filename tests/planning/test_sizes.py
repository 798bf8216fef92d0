"""Which size is worth its time: what repeated text counts for, and where the sizes take turns."""

from __future__ import annotations

import itertools

import pytest

from bertsmith.config import SIZES, ModelConfig
from bertsmith.planning.memory import layer_weights
from bertsmith.planning.sizes import TOKENS_PER_WEIGHT, is_worth_it, weights_of_layers, worth


def test_new_text_counts_whole_and_each_pass_less_than_the_one_before() -> None:
    assert worth(700, 1_000) == 700
    assert worth(1_000, 1_000) == 1_000
    passes = [worth(1_000 * n, 1_000) - worth(1_000 * (n - 1), 1_000) for n in range(1, 40)]
    assert all(later < earlier for earlier, later in itertools.pairwise(passes))
    assert passes[1] > 950  # the second pass is nearly as good as new text
    assert passes[20] < 350


def test_no_number_of_passes_makes_up_for_more_text() -> None:
    assert worth(1e12, 1_000) == pytest.approx(15_000)


@pytest.mark.parametrize("size", SIZES)
def test_weights_are_those_of_the_layers(size: str) -> None:
    layers, width, heads = SIZES[size]
    config = ModelConfig(
        vocab_size=99,
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=4 * width,
    )
    assert weights_of_layers(size) == layers * layer_weights(config)


def test_a_larger_size_wants_more_tokens() -> None:
    enough = {size: each * weights_of_layers(size) for size, each in TOKENS_PER_WEIGHT.items()}
    assert list(enough.values()) == sorted(enough.values())
    for size, tokens in list(enough.items())[1:]:
        assert is_worth_it(size, tokens * 1.01, text_tokens=1e12)
        assert not is_worth_it(size, tokens * 0.99, text_tokens=1e12)


def test_what_was_measured_is_followed() -> None:
    """Tokens a second on two cores, and the size that did better in docs/recipe.md."""
    rates = {"tiny": 48_000, "mini": 13_200, "small": 5_000}
    text = 4.74e6  # a pass over 19 MB
    found = {
        minutes: [size for size, rate in rates.items() if is_worth_it(size, 60 * minutes * rate, text)][-1]
        for minutes in (5, 20, 60, 120)
    }
    assert found == {5: "tiny", 20: "mini", 60: "mini", 120: "mini"}


def test_a_short_text_keeps_a_model_small() -> None:
    text = weights_of_layers("small") / 2
    assert not is_worth_it("small", 1e12, text)  # 15 passes are 7.5 tokens a weight, however long it goes on
    assert is_worth_it("mini", 1e12, text)
