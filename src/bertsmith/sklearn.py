"""BERT vectors as a step of a scikit-learn pipeline."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from bertsmith.errors import InputError
from bertsmith.features.cache import encode_cached
from bertsmith.features.encoder import Encoder, Text
from bertsmith.features.recipe import PoolingChoice
from bertsmith.training.device import PrecisionChoice


class BertFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A transformer from texts, or pairs of texts, to the vectors of a frozen encoder.

    Nothing is learned; ``fit`` loads the model and checks the settings. A pickle or a clone holds the settings and
    no weights, and loads the model again from ``model``.

    Args:
        model: a run, a fine-tuned model, a BERT or sentence-transformers directory, or ``hub:owner/name``.
        layers, pooling, normalize, max_length: as the options of ``bertsmith embed``.
        device: cpu, cuda, cuda:1 or mps; ``auto`` takes a GPU where there is one.
        threads: CPU threads; 0 takes what the machine's quota allows.
        precision: of the products; ``auto`` measures which is faster here.
        cache: a directory that keeps vectors from one call and process to the next.

    Attributes:
        n_features_out_: W, known after ``fit``.
    """

    def __init__(
        self,
        model: str | Path,
        layers: str | None = None,
        pooling: PoolingChoice = "auto",
        normalize: bool | None = None,
        max_length: int | None = None,
        device: str = "auto",
        threads: int = 0,
        precision: PrecisionChoice = "float32",
        cache: str | Path | None = None,
    ) -> None:
        self.model = model
        self.layers = layers
        self.pooling = pooling
        self.normalize = normalize
        self.max_length = max_length
        self.device = device
        self.threads = threads
        self.precision = precision
        self.cache = cache

    def fit(self, X: Iterable[Any], y: Any = None) -> BertFeatures:
        """Load the model; ``X`` is only looked at in ``transform``.

        Raises:
            InputError: there is no such model, or a setting does not fit it.
        """
        self._encoder = self._load()
        self.n_features_out_ = self._encoder.width
        return self

    def transform(self, X: Iterable[Any]) -> np.ndarray:
        """Return (n, W) float32.

        Args:
            X: n texts, or pairs as tuples of two; a column of a table, or a table of one column (texts) or two (pairs).
                An empty text is [CLS] [SEP].

        Raises:
            InputError: something is not a text; its number is named.
        """
        check_is_fitted(self, "n_features_out_")
        texts = _texts(X)
        if not hasattr(self, "_encoder"):
            self._encoder = self._load()
        if self.cache is None:
            return self._encoder.encode(texts)
        return encode_cached(self._encoder, texts, Path(self.cache))

    @property
    def _n_features_out(self) -> int:
        return self.n_features_out_

    def _load(self) -> Encoder:
        encoder = Encoder.load(
            self.model,
            layers=self.layers,
            pooling=self.pooling,
            normalize=self.normalize,
            max_length=self.max_length,
            device=self.device,
            threads=self.threads,
            precision=self.precision,
        )
        _ = encoder.checksum  # of the files that were loaded, not of what stands there when the cache is first used
        return encoder

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        state.pop("_encoder", None)
        return state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags


def _texts(X: Iterable[Any]) -> list[Text]:
    if isinstance(X, str):
        raise InputError("expected many texts, got one string; put it in a list")
    shape = getattr(X, "shape", None)
    if shape is not None and len(shape) == 2:
        if shape[1] not in (1, 2):
            raise InputError(f"a table of {shape[1]} columns; expected one column (texts) or two (pairs)")
        rows = np.asarray(X, dtype=object).tolist()
        return [row[0] if len(row) == 1 else tuple(row) for row in rows]
    return list(X)
