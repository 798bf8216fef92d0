import pytest

from bertsmith.training.rates import tuning_rates


@pytest.mark.parametrize(("hidden_size", "usual"), [(12, 3e-4), (256, 3e-4), (257, 1e-4), (512, 1e-4), (768, 5e-5)])
def test_narrow_encoders_are_tuned_faster(hidden_size: int, usual: float) -> None:
    first, *others = tuning_rates(hidden_size)
    assert first == usual
    assert min(others) < usual < max(others)
