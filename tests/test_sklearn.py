"""BertFeatures does what scikit-learn expects of a transformer of texts."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks as checks

from bertsmith.errors import InputError
from bertsmith.features.encoder import Encoder
from bertsmith.sklearn import BertFeatures
from tests.features.small import LETTERS, save, some_texts


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("sklearn") / "model")


# check_estimator runs none of its checks but one on an estimator of texts, so they are named here.
@pytest.mark.parametrize(
    "check",
    [
        checks.check_do_not_raise_errors_in_init_or_set_params,
        checks.check_dont_overwrite_parameters,
        checks.check_estimator_cloneable,
        checks.check_estimator_repr,
        checks.check_estimator_tags_renamed,
        checks.check_estimators_fit_returns_self,
        checks.check_estimators_overwrite_params,
        checks.check_fit_check_is_fitted,
        checks.check_get_feature_names_out_error,
        checks.check_get_params_invariance,
        checks.check_mixin_order,
        checks.check_no_attributes_set_in_init,
        checks.check_parameters_default_constructible,
        checks.check_requires_y_none,
        checks.check_set_params,
        checks.check_transformers_unfitted,
        checks.check_valid_tag_types,
    ],
)
def test_the_checks_of_scikit_learn_that_need_no_numbers(model: Path, check: Callable[[str, object], None]) -> None:
    check("BertFeatures", BertFeatures(model, threads=1))


@pytest.mark.parametrize(
    "check",
    [
        checks.check_dict_unchanged,
        checks.check_estimators_pickle,
        checks.check_f_contiguous_array_estimator,
        checks.check_fit2d_1sample,
        checks.check_fit_idempotent,
        checks.check_fit_score_takes_y,
        checks.check_methods_sample_order_invariance,
        checks.check_methods_subset_invariance,
        checks.check_pipeline_consistency,
        checks.check_readonly_memmap_input,
        checks.check_transformer_data_not_an_array,
        checks.check_transformer_get_feature_names_out,
    ],
)
def test_the_checks_of_scikit_learn_on_numbers_read_as_texts(model: Path, check: Callable[[str, object], None]) -> None:
    reading = FunctionTransformer(letters_of, feature_names_out="one-to-one")
    check("BertFeatures", make_pipeline(reading, BertFeatures(model, threads=1)))


def letters_of(rows: np.ndarray) -> list[str]:
    return [" ".join(LETTERS[int(number) % len(LETTERS)] for number in row) for row in np.asarray(rows).round()]


def test_it_gives_the_encoders_vectors(model: Path) -> None:
    texts = [*some_texts(31), "", ("a b", "c")]
    features = BertFeatures(model, layers="-1,0", pooling="cls", normalize=True, threads=1)
    vectors = features.fit_transform(texts)
    expected = Encoder.load(model, layers="-1,0", pooling="cls", normalize=True).encode(texts)
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    names = features.get_feature_names_out()
    assert len(names) == vectors.shape[1] == features.n_features_out_
    assert names[0] == "bertfeatures0"


def test_columns_and_tables(model: Path) -> None:
    features = BertFeatures(model).fit([])
    expected = features.transform(["a b", "c"])
    np.testing.assert_array_equal(features.transform(np.array(["a b", "c"])), expected)
    np.testing.assert_array_equal(features.transform(np.array([["a b"], ["c"]], dtype=object)), expected)
    pairs = features.transform(np.array([["a", "b"], ["c", "d"]]))
    np.testing.assert_array_equal(pairs, features.transform([("a", "b"), ("c", "d")]))
    with pytest.raises(InputError, match="a table of 3 columns"):
        features.transform(np.array([["a", "b", "c"]]))
    with pytest.raises(InputError, match="text 2 is of type float"):
        features.transform(np.array(["a", np.nan], dtype=object))
    with pytest.raises(InputError, match="got one string"):
        features.transform("a")
    assert features.transform([]).shape == (0, 20)


def test_pickles_and_clones_hold_no_weights(model: Path) -> None:
    features = BertFeatures(str(model), threads=1).fit([])
    expected = features.transform(["a b"])
    data = pickle.dumps(features)
    assert len(data) < 2_000
    np.testing.assert_array_equal(pickle.loads(data).transform(["a b"]), expected)
    copy = clone(features)
    assert copy.get_params() == features.get_params()
    with pytest.raises(NotFittedError):
        copy.transform(["a"])


def test_a_search_over_layers_with_a_cache(tmp_path: Path, model: Path) -> None:
    texts = some_texts(60)
    labels = [text[0] in "abcdef" for text in texts]
    pipeline = make_pipeline(BertFeatures(model, threads=1, cache=tmp_path), LogisticRegression())
    search = GridSearchCV(
        pipeline, {"bertfeatures__layers": ["0", "last"], "bertfeatures__pooling": ["cls", "mean"]}, cv=2
    )
    search.fit(texts, labels)
    assert search.best_score_ > 0.5
    assert (tmp_path / "vectors.sqlite3").stat().st_size > 4 * 60 * 80


def test_a_model_that_changes_on_disk_does_not_mix_up_the_cache(tmp_path: Path) -> None:
    directory = save(tmp_path / "model")
    old = BertFeatures(directory, cache=tmp_path / "cache").fit([])
    save(directory, seed=6)
    new = BertFeatures(directory, cache=tmp_path / "cache").fit([])
    stored = old.transform(["a b"])
    assert np.abs(new.transform(["a b"]) - stored).max() > 0.1
    np.testing.assert_array_equal(new.transform(["a b"]), Encoder.load(directory).encode(["a b"]))


def test_settings_that_do_not_fit(model: Path) -> None:
    with pytest.raises(InputError, match="layer 9"):
        BertFeatures(model, layers="9").fit(["a"])
    with pytest.raises(InputError, match="no such directory"):
        BertFeatures("nowhere").fit(["a"])
