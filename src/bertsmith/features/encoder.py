"""The one way from texts to vectors: tokenising, packing, the encoder, pooling; for files, scikit-learn and Python."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F

from bertsmith import files
from bertsmith.batch import Batch, by_token_budget, pack
from bertsmith.errors import InputError
from bertsmith.features.layers import token_vectors
from bertsmith.features.pooling import pool
from bertsmith.features.recipe import PoolingChoice, Recipe, make_recipe
from bertsmith.machine import cpu_quota
from bertsmith.model.bert import Bert
from bertsmith.model.inference import fix_weights
from bertsmith.model.weights import load_tokenizer, model_directory, read_info
from bertsmith.text.tokenizer import Tokenizer, fit
from bertsmith.training.device import PrecisionChoice, autocast, pick_device, pick_precision, set_up_thread

Text: TypeAlias = str | tuple[str, str]
"""A text, or a pair of texts."""

# Measured on a CPU (docs/log.md); for a GPU a guess.
_CPU_TOKENS, _GPU_TOKENS = 2048, 32768

# Bounds of what is worked on at a time, so that memory is flat. They depend on the texts alone: a run that goes on
# after a stop sees the same batches, and so gives the same bytes.
_WINDOW_TEXTS, _GPU_WINDOW_TEXTS = 512, 16384
_WINDOW_CHARACTERS = 1 << 23
_WINDOW_BYTES = 1 << 27

# So few texts are encoded in the caller's thread: starting others would take longer.
_AT_ONCE = 8


@dataclass(frozen=True)
class Vectors:
    """What a stretch of texts became, in their order.

    Attributes:
        vectors: (n, W) float32, one a text; of tokens (T, W), all texts' end to end.
        lengths: (n,) int64, tokens of each text with [CLS] and [SEP].
        token_ids: (T,) int32, the tokens that were encoded.
        truncated: texts that were cut.
    """

    vectors: np.ndarray
    lengths: np.ndarray
    token_ids: np.ndarray
    truncated: int


@dataclass(frozen=True)
class Encoded:
    """Texts as the encoder gets them.

    Attributes:
        ids: of each text, (t,) int64 with [CLS] and [SEP].
        segments: the same shape, 0 and 1.
        truncated: texts that were cut.
    """

    ids: list[np.ndarray]
    segments: list[np.ndarray]
    truncated: int

    @property
    def lengths(self) -> list[int]:
        """Tokens of each text."""
        return [len(ids) for ids in self.ids]

    def batch(self, numbers: Sequence[int] | np.ndarray) -> Batch:
        """Return some texts as a batch."""
        return pack([self.ids[n] for n in numbers], [self.segments[n] for n in numbers])


@dataclass(frozen=True)
class _UnderWay:
    """Texts whose batches, each the numbers of some, are being encoded."""

    encoded: Encoded
    batches: list[tuple[list[int], Future[np.ndarray]]]


def usable_precision(model: str | Path, precision: PrecisionChoice, device: str) -> Literal["float32", "bfloat16"]:
    """Return the arithmetic that a model's products are made in on a device; ``auto`` measures for a moment.

    Raises:
        InputError: there is no such model or device.
    """
    width = read_info(model_directory(Path(model))).config.hidden_size
    return _arithmetic(precision, pick_device(device), width)


def _arithmetic(precision: PrecisionChoice, place: torch.device, hidden_size: int) -> Literal["float32", "bfloat16"]:
    return "bfloat16" if pick_precision(precision, place, hidden_size) == torch.bfloat16 else "float32"


class Encoder:
    """Gives a text the same vector (within 1e-5) whatever else it is asked with.

    Calls from several threads are safe: nothing changes after construction.

    Attributes:
        bert: in evaluation mode, on ``device``, its weights fixed for inference.
        tokenizer: the model's own.
        recipe: what a vector is made of.
        device: where it runs.
        threads: CPU threads, each of which encodes batches of its own.
        width: W, the length of a vector.
        directory: where the model is from.
    """

    def __init__(
        self, bert: Bert, tokenizer: Tokenizer, recipe: Recipe, device: torch.device, threads: int, directory: Path
    ) -> None:
        self.bert, self.recipe, self.device, self.directory = bert.to(device).eval(), recipe, device, directory
        self.tokenizer = tokenizer.lowercased() if recipe.lowercase else tokenizer
        self.threads = threads
        self.width = recipe.layers.width(bert.config.hidden_size)
        dtype = getattr(torch, recipe.precision)
        self._autocast = torch.float32 if fix_weights(self.bert, dtype) else dtype

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        layers: str | None = None,
        pooling: PoolingChoice = "auto",
        normalize: bool | None = None,
        max_length: int | None = None,
        tokens: bool = False,
        device: str = "auto",
        threads: int = 0,
        precision: PrecisionChoice = "float32",
    ) -> Encoder:
        """Load the encoder of a run, a fine-tuned model or a published BERT.

        Args:
            model: a directory, or ``hub:owner/name``.
            layers: here and below as in :func:`bertsmith.features.recipe.make_recipe`.
            pooling: the same.
            normalize: the same.
            max_length: the same.
            tokens: the same.
            device: as in :func:`bertsmith.training.device.pick_device`.
            threads: CPU threads; 0 takes what the machine's quota allows.
            precision: of the layers' products; ``auto`` measures, and takes bfloat16 where it is clearly faster.

        Raises:
            InputError: there is no such model, or a setting does not fit it.
        """
        directory = model_directory(Path(model))
        config = read_info(directory).config
        place = pick_device(device)
        recipe = make_recipe(
            directory,
            config,
            layers=layers,
            pooling=pooling,
            normalize=normalize,
            max_length=max_length,
            tokens=tokens,
            precision=_arithmetic(precision, place, config.hidden_size),
        )
        tokenizer = load_tokenizer(directory, config)
        bert = Bert.load(directory)
        return cls(bert, tokenizer, recipe, place, threads or cpu_quota(), directory)

    @cached_property
    def checksum(self) -> str:
        """The SHA-256 of the model: its weights, numbers and tokenizer. It and the recipe determine vectors.

        Of the files as they are when it is first asked for: who keeps vectors by it asks right after loading, since the
        directory may get another model while this one is in memory.
        """
        weights = [files.sha256(path) for path in sorted(self.directory.glob("*.safetensors"))]
        parts = [*weights, self.bert.config.model_dump_json(), self.tokenizer.hash]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def encode(self, texts: Sequence[Text]) -> np.ndarray:
        """Return (n, W) float32, the vectors of n texts or pairs; an empty text is [CLS] [SEP].

        Raises:
            InputError: something is not a text.
        """
        if isinstance(texts, str):
            raise InputError("expected a list of texts, got one string; put it in a list")
        out = np.empty((len(texts), self.width), dtype=np.float32)
        if len(texts) <= _AT_ONCE:
            encoded = self.encoded(texts)
            for numbers in by_token_budget(encoded.lengths, self._budget):
                out[numbers] = self._run(encoded, numbers, False, self.recipe.normalize)
            return out
        done = 0
        for part in self.stream(texts):
            out[done : done + len(part.lengths)] = part.vectors
            done += len(part.lengths)
        return out

    def stream(
        self, texts: Iterable[Text], *, tokens: bool = False, first: int = 0, step: int = 1
    ) -> Iterator[Vectors]:
        """Encode texts or pairs as they come, in order; memory holds three stretches of some hundred at a time.

        On a CPU each thread encodes batches by itself, so that results do not depend on their number.

        Args:
            texts: any number of them.
            tokens: give the vectors of all tokens instead of one a text.
            first: the first stretch to encode; those before it are passed over.
            step: how many stretches on the next one is, so that several processes can share them.

        Raises:
            InputError: something is not a text; the message names its number, counted from 1.
        """
        windows = itertools.islice(self._windows(texts, tokens), first, None, step)
        with _workers(self.threads if self.device.type == "cpu" else 1) as workers:
            ahead = self._ahead(workers, windows)
            under_way: deque[_UnderWay] = deque()
            while ahead is not None or under_way:
                # Two windows at a time, and the next one tokenised: no thread waits for the last batch of a window.
                while ahead is not None and len(under_way) < 2:
                    encoded = ahead.result()
                    ahead = self._ahead(workers, windows)
                    under_way.append(self._start(workers, encoded, tokens=tokens, normalize=self.recipe.normalize))
                yield self._finish(under_way.popleft(), tokens=tokens)

    def token_vectors(self, ids: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return for each sequence of ids, (t,) int64 with [CLS] and [SEP], its tokens' (t, W), not normalised."""
        encoded = Encoded(list(ids), [np.zeros(len(own), dtype=np.int64) for own in ids], 0)
        with _workers(self.threads if self.device.type == "cpu" else 1) as workers:
            found = self._finish(self._start(workers, encoded, tokens=True, normalize=False), tokens=True)
        return np.split(found.vectors, np.cumsum(found.lengths)[:-1])

    def encoded(self, texts: Sequence[Text]) -> Encoded:
        """Return texts or pairs as the encoder gets them, for :meth:`vectors`.

        Raises:
            InputError: something is not a text; the message names its number, counted from 1.
        """
        return self._tokenise([_parts(text, number) for number, text in enumerate(texts, start=1)])

    def vectors(self, batch: Batch) -> np.ndarray:
        """Return (N, W) float32, the vectors of a batch of texts; the caller's thread computes them."""
        return self._vectors(batch, False, self.recipe.normalize)

    def _windows(self, texts: Iterable[Text], tokens: bool) -> Iterator[list[tuple[str, ...]]]:
        """Yield so many texts as are sorted by length and held in memory together."""
        most = _WINDOW_TEXTS if self.device.type == "cpu" else _GPU_WINDOW_TEXTS
        rows = self.recipe.max_length if tokens else 1
        most = max(1, min(most, _WINDOW_BYTES // (4 * self.width * rows)))
        window: list[tuple[str, ...]] = []
        characters = 0
        for parts in map(_parts, texts, itertools.count(1)):
            window.append(parts)
            characters += sum(map(len, parts))
            if len(window) == most or characters >= _WINDOW_CHARACTERS:
                yield window
                characters, window = 0, []
        if window:
            yield window

    def _ahead(self, workers: ThreadPoolExecutor, windows: Iterator[list[tuple[str, ...]]]) -> Future[Encoded] | None:
        window = next(windows, None)
        return None if window is None else workers.submit(self._tokenise, window)

    def _tokenise(self, texts: list[tuple[str, ...]]) -> Encoded:
        """Return texts with [CLS] and [SEP], cut as ``Tokenizer.encode`` does."""
        found = iter(self.tokenizer.sentence_ids([part for parts in texts for part in parts]))
        cls, sep = ([number] for number in (self.tokenizer.cls_id, self.tokenizer.sep_id))
        ids, segments, truncated = [], [], 0
        for parts in texts:
            own = [next(found) for _ in parts]
            lengths = [len(part) for part in own]
            kept = fit(lengths, self.recipe.max_length - 1 - len(parts))
            truncated += kept != lengths
            pieces = [array for part, keep in zip(own, kept, strict=True) for array in (part[:keep], sep)]
            ids.append(np.concatenate([cls, *pieces]).astype(np.int64))
            segment = np.zeros(len(ids[-1]), dtype=np.int64)
            segment[kept[0] + 2 :] = 1
            segments.append(segment)
        return Encoded(ids, segments, truncated)

    def _start(self, workers: ThreadPoolExecutor, encoded: Encoded, *, tokens: bool, normalize: bool) -> _UnderWay:
        batches = by_token_budget(encoded.lengths, self._budget)
        return _UnderWay(
            encoded,
            [(numbers, workers.submit(self._run, encoded, numbers, tokens, normalize)) for numbers in batches],
        )

    def _finish(self, under_way: _UnderWay, *, tokens: bool) -> Vectors:
        """Wait for the batches and put their vectors into the order of the texts."""
        encoded = under_way.encoded
        lengths = np.array(encoded.lengths, dtype=np.int64)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        out = np.empty((starts[-1] if tokens else len(lengths), self.width), dtype=np.float32)
        for numbers, result in under_way.batches:
            vectors = result.result()
            if not tokens:
                out[numbers] = vectors
                continue
            places = np.cumsum(lengths[numbers])[:-1]
            for number, part in zip(numbers, np.split(vectors, places), strict=True):
                out[starts[number] : starts[number + 1]] = part
        return Vectors(out, lengths, np.concatenate(encoded.ids).astype(np.int32), encoded.truncated)

    @property
    def _budget(self) -> int:
        return _CPU_TOKENS if self.device.type == "cpu" else _GPU_TOKENS

    def _run(self, encoded: Encoded, numbers: Sequence[int], tokens: bool, normalize: bool) -> np.ndarray:
        return self._vectors(encoded.batch(numbers), tokens, normalize)

    @torch.inference_mode()
    def _vectors(self, batch: Batch, tokens: bool, normalize: bool) -> np.ndarray:
        """Return the vectors of a batch's texts, one each or those of all their tokens."""
        batch = batch.to(self.device)
        pooling = None if tokens else self.recipe.pooling
        with autocast(self._autocast, self.device):
            vectors = token_vectors(self.bert, batch, self.recipe.layers, firsts_only=pooling == "cls")
        if pooling is not None:
            vectors = pool(vectors, batch.sequence_starts, pooling)
        if normalize:
            vectors = F.normalize(vectors, dim=1)
        array: np.ndarray = vectors.cpu().numpy()
        return array


def _parts(text: object, number: int) -> tuple[str, ...]:
    parts = text if isinstance(text, tuple) else (text,)
    if len(parts) not in (1, 2) or not all(isinstance(part, str) for part in parts):
        kinds = ", ".join(type(part).__name__ for part in parts)
        raise InputError(f"text {number} is of type {kinds}; expected a string, or a tuple of two for a pair")
    return parts


@contextlib.contextmanager
def _workers(count: int) -> Iterator[ThreadPoolExecutor]:
    """Yield ``count`` threads in which torch computes with one thread each; elsewhere it keeps its number.

    Batches side by side keep cores busier than one batch spread over them, whose threads wait for each other in
    every operation, above all when something else runs on the machine.
    """
    before = torch.get_num_threads()
    started = threading.Barrier(count + 1)

    def start() -> None:
        set_up_thread(1)
        started.wait()

    workers = ThreadPoolExecutor(count, initializer=start)
    try:
        for _ in range(count):
            workers.submit(int)
        started.wait()
        torch.set_num_threads(before)
        yield workers
    finally:
        workers.shutdown(wait=True, cancel_futures=True)
