"""A step is a function: its instances and masks depend on the store, the settings, the seed and its number alone.

An epoch's passages are shuffled and cut into windows of about equal size. Each window yields the same number of
steps, so from a step's number follow its epoch, its window and its place there, without looking at any other.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np

from bertsmith.batch import Batch
from bertsmith.errors import InputError
from bertsmith.pretraining.masking import DRAWS_PER_TOKEN, Masking, masked_batch, token_facts
from bertsmith.pretraining.pairs import (
    IS_NEXT,
    Instance,
    build_instance,
    plan_passages,
    room_for_pair,
    sequence_lengths,
)
from bertsmith.pretraining.passages import cut_passages
from bertsmith.pretraining.streams import MASKS, ORDER, PLAN, stream
from bertsmith.text.store import TokenStore

WINDOW_TOKENS = 2_000_000

# A window's number of instances varies by chance; what is above its quota is left out, and a window below it has to
# be planned twice.
_QUOTA = 0.98


@dataclass(frozen=True)
class SamplerFigures:
    """What the instances are like, measured on the first windows.

    Attributes:
        random_share: share of instances whose B is random.
        mean_length: tokens of a sequence, special ones included.
        fill: ``mean_length`` as a share of the longest that is allowed.
        windows: in an epoch.
        steps_per_window: steps that each of them yields.
    """

    random_share: float
    mean_length: float
    fill: float
    windows: int
    steps_per_window: int


class Sampler:
    """Pre-training instances by step. Threads may share one; it can be pickled.

    Memory holds 20 to 32 bytes per passage (a document, or up to 8,192 tokens of a long one) and the plans of
    two windows (88 bytes an instance). The random order of an epoch is drawn once an epoch.

    Args:
        store: the token store.
        max_length: longest sequence, special tokens included; at least 5.
        batch_size: sequences in a step.
        seed: of all choices.
        documents: (D,) int64, the documents to train on; at least two that are not empty. All, if not given.
        short_probability: share of instances aimed at a shorter length.
        masking: how tokens are chosen for prediction.
        window_tokens: size of a window; what is shuffled together.
        shuffle_shards: passages are shuffled within so many of the store's shards at a time, and a random B comes from
            a shard of its window. Then a window reads at most twice as many shards. All, if not given.

    Attributes:
        steps_per_epoch: steps in which every window is used once.
        tokens_per_step: mean number of tokens of a step, special ones included.
        figures: what the instances are like.

    Raises:
        InputError: there are fewer than two documents, or ``max_length`` leaves no room for two segments.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        max_length: int,
        batch_size: int,
        seed: int,
        documents: np.ndarray | None = None,
        short_probability: float = 0.1,
        masking: Masking = Masking(),  # noqa: B008  (frozen)
        window_tokens: int = WINDOW_TOKENS,
        shuffle_shards: int | None = None,
    ) -> None:
        self.store = store
        self._shuffle_shards = shuffle_shards
        self.batch_size = batch_size
        self._room = room_for_pair(max_length)
        self._seed = seed
        self._short_probability = short_probability
        self._masking = masking
        self._facts = token_facts(store.tokenizer)
        documents = np.arange(store.num_documents) if documents is None else np.asarray(documents)
        self._documents = documents[store.document_tokens[documents] > 0]
        if len(self._documents) < 2:
            raise InputError(
                f"has {len(self._documents)} document(s) to train on; next-sentence prediction needs at least 2, to "
                "draw random next sentences from. If a file holds several, try prepare --documents blank-line or line",
                path=store.path,
            )
        self._passages = cut_passages(store, self._documents, at_most=window_tokens // 8)
        total = self._passages.num_tokens
        self._num_windows = min(max(1, round(total / window_tokens)), len(self._passages))
        self._order: tuple[int, np.ndarray, np.ndarray] | None = None
        self._plans: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

        drafts = [self._draft(0, window, 0) for window in range(min(3, self._num_windows))]
        usable = int(_QUOTA * np.mean([len(draft) for draft in drafts]))
        self._steps_per_window = max(1, usable // batch_size)
        self.steps_per_epoch = self._steps_per_window * self._num_windows
        seen = np.concatenate(drafts)
        length = float(sequence_lengths(seen).mean())
        self.figures = SamplerFigures(
            random_share=1 - float(seen[:, IS_NEXT].mean()),
            mean_length=length,
            fill=length / max_length,
            windows=self._num_windows,
            steps_per_window=self._steps_per_window,
        )
        self.tokens_per_step = batch_size * length
        self._plans[0, 0] = self._filled(0, 0, drafts[0])

    def instances(self, step: int) -> list[Instance]:
        """Return the unmasked instances of a step (from 0): the whole batch of all processes."""
        return [build_instance(self.store, row) for row in self._rows(step)]

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """Return a step's masked batch, or one of its parts; only its ids are gathered.

        The parts are consecutive pieces of the whole batch, with the masks of the whole. ``labels`` are 0 where B
        is next and 1 where it is random.

        Raises:
            InputError: there are more parts than sequences.
        """
        if parts > self.batch_size:
            raise InputError(f"a step of {self.batch_size} sequences cannot be split into {parts} parts")
        rows = self._rows(step)
        first, last = (p * self.batch_size // parts for p in (part, part + 1))
        rng = stream(self._seed, MASKS, step)
        advance = rng.bit_generator.advance  # type: ignore[attr-defined]
        advance(DRAWS_PER_TOKEN * int(sequence_lengths(rows[:first]).sum()))
        return masked_batch(
            [build_instance(self.store, row) for row in rows[first:last]], self._masking, self._facts, rng
        )

    def _rows(self, step: int) -> np.ndarray:
        epoch, rest = divmod(step, self.steps_per_epoch)
        window, offset = divmod(rest, self._steps_per_window)
        with self._lock:
            if (epoch, window) not in self._plans:
                self._plans[epoch, window] = self._filled(epoch, window, self._draft(epoch, window, 0))
            self._plans.move_to_end((epoch, window))
            while len(self._plans) > 2:
                self._plans.popitem(last=False)
            plan = self._plans[epoch, window]
        return plan[offset * self.batch_size : (offset + 1) * self.batch_size]

    def _filled(self, epoch: int, window: int, draft: np.ndarray) -> np.ndarray:
        """Return exactly as many instances as the window's steps need; a second draft has new pairs."""
        drafts = [draft]
        wanted = self._steps_per_window * self.batch_size
        while sum(map(len, drafts)) < wanted:
            drafts.append(self._draft(epoch, window, len(drafts)))
        return np.concatenate(drafts)[:wanted] if len(drafts) > 1 else draft[:wanted].copy()

    def _draft(self, epoch: int, window: int, number: int) -> np.ndarray:
        rng = stream(self._seed, PLAN, epoch, window, number)
        passages = self._passages.rows(self._window(epoch, window))
        plan = plan_passages(
            self.store,
            passages,
            self._others(passages[:, 0]),
            room=self._room,
            short_probability=self._short_probability,
            rng=rng,
        )
        return rng.permutation(plan)

    def _window(self, epoch: int, window: int) -> np.ndarray:
        """Return the numbers of a window's passages: a share of the epoch's tokens in the epoch's order."""
        if self._order is None or self._order[0] != epoch:
            order = self._shuffled(stream(self._seed, ORDER, epoch))
            self._order = (epoch, order, self._passages.borders(order, self._num_windows))
        _, order, borders = self._order
        return order[borders[window] : borders[window + 1]]

    def _shuffled(self, rng: np.random.Generator) -> np.ndarray:
        """Return all passages' numbers in an epoch's order."""
        order = self._passages.shuffled(rng)
        if self._shuffle_shards is None:
            return order
        groups = rng.permutation(self.store.num_shards) // self._shuffle_shards
        # Stable: within a group, passages stay shuffled.
        by_group = np.argsort(groups[self.store.shards_of(self._passages.documents[order])], kind="stable")
        shuffled: np.ndarray = order[by_group]
        return shuffled

    def _others(self, documents: np.ndarray) -> np.ndarray:
        """Return the documents that a random B of a window of these may come from."""
        if self._shuffle_shards is None:
            return self._documents
        near = np.isin(self.store.shards_of(self._documents), np.unique(self.store.shards_of(documents)))
        return self._documents[near] if near.sum() > 1 else self._documents

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())
