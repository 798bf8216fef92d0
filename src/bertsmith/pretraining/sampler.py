"""A step is a function: its instances and masks depend on the store, the settings, the seed and its number alone.

An epoch's passages are shuffled and cut into windows of about equal size. Each window yields the same number of
steps, so from a step's number follow its epoch, its window and its place there, without looking at any other.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from bertsmith.batch import Batch, by_token_budget, pack
from bertsmith.errors import InputError
from bertsmith.pretraining.masking import Masking, TokenFacts, mask_tokens, token_facts
from bertsmith.pretraining.pairs import PLAN_COLUMNS, Instance, build_instance, plan_passages
from bertsmith.text.store import TokenStore

PASSAGE_TOKENS = 8192
WINDOW_TOKENS = 2_000_000

# Purposes of random streams, so that none repeats another.
_ORDER, _PLAN, _MASKS, _HELD_OUT, _EVALUATION = range(5)


class Sampler:
    """Pre-training instances by step.

    Memory holds 24 bytes per passage of up to 8,192 tokens, and the plans of two windows.

    Args:
        store: the token store.
        max_length: longest sequence, special tokens included.
        batch_size: sequences in a step.
        seed: of all choices.
        documents: (D,) int64, the documents to train on; at least two.
        short_probability: share of instances aimed at a shorter length.
        masking: how tokens are chosen for prediction.
        window_tokens: size of a window; what is shuffled together.

    Attributes:
        steps_per_epoch: steps in which every window is used once.
        tokens_per_step: mean number of tokens of a step, measured on the first one.
        random_share: share of instances whose B is random, in the first window.
    """

    def __init__(
        self,
        store: TokenStore,
        *,
        max_length: int,
        batch_size: int,
        seed: int,
        documents: np.ndarray,
        short_probability: float = 0.1,
        masking: Masking = Masking(),  # noqa: B008  (frozen)
        window_tokens: int = WINDOW_TOKENS,
    ) -> None:
        if len(documents) < 2:
            raise InputError("next-sentence prediction needs at least two documents", path=store.path)
        self.store = store
        self.batch_size = batch_size
        self._room = max_length - 3
        self._seed = seed
        self._documents = documents
        self._short_probability = short_probability
        self._masking = masking
        self._facts = token_facts(store.tokenizer)
        self._passages, tokens = cut_passages(store, documents)
        self._tokens = tokens
        self._num_windows = max(1, round(tokens.sum() / window_tokens))
        self._plans: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._lock = threading.Lock()
        samples = [self._plan_once(0, window, 0) for window in range(min(3, self._num_windows))]
        usable = int(np.mean([len(plan) for plan in samples]) * (0.98 if self._num_windows > 1 else 1.0))
        self._steps_per_window = max(1, usable // batch_size)
        self.steps_per_epoch = self._steps_per_window * self._num_windows
        self.random_share = 1 - float(samples[0][:, 6].mean())
        self.tokens_per_step = float(np.mean([sum(len(i.token_ids) for i in self.instances(s)) for s in range(2)]))

    def instances(self, step: int) -> list[Instance]:
        """Return the unmasked instances of a step: the whole batch of all processes."""
        epoch, rest = divmod(step, self.steps_per_epoch)
        window, offset = divmod(rest, self._steps_per_window)
        plan = self._plan(epoch, window)
        rows = plan[offset * self.batch_size : (offset + 1) * self.batch_size].tolist()
        return [self._build(row) for row in rows]

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Batch:
        """Return a step's masked batch, or one of its parts.

        The masks are drawn for the whole batch and then split, so the parts together are the same batch for
        any number of them. ``labels`` are 0 where B is next and 1 where it is random.
        """
        rng = np.random.default_rng([self._seed, _MASKS, step])
        batch = masked_batch(self.instances(step), self._masking, self._facts, rng)
        return batch if parts == 1 else split(batch, part, parts)

    def _build(self, row: Sequence[int]) -> Instance:
        tokenizer = self.store.tokenizer
        return build_instance(self.store, row, room=self._room, cls_id=tokenizer.cls_id, sep_id=tokenizer.sep_id)

    def _plan(self, epoch: int, window: int) -> np.ndarray:
        """Return a window's instances, exactly as many as its steps need."""
        with self._lock:
            key = (epoch, window)
            if key not in self._plans:
                wanted = self._steps_per_window * self.batch_size
                plan = np.zeros((0, PLAN_COLUMNS), dtype=np.int64)
                draw = 0
                while len(plan) < wanted:
                    plan = np.concatenate([plan, self._plan_once(epoch, window, draw)])
                    draw += 1
                self._plans[key] = plan[:wanted]
                while len(self._plans) > 2:
                    self._plans.popitem(last=False)
            return self._plans[key]

    def _plan_once(self, epoch: int, window: int, draw: int) -> np.ndarray:
        order = np.random.default_rng([self._seed, _ORDER, epoch]).permutation(len(self._passages))
        before = np.cumsum(self._tokens[order]) - self._tokens[order]
        home = before * self._num_windows // max(1, int(self._tokens.sum()))
        rng = np.random.default_rng([self._seed, _PLAN, epoch, window, draw])
        plan = plan_passages(
            self.store,
            self._passages[order[home == window]],
            self._documents,
            room=self._room,
            short_probability=self._short_probability,
            rng=rng,
        )
        return rng.permutation(plan)


def cut_passages(store: TokenStore, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut long documents at sentence ends, so that units of shuffling are about even.

    Returns:
        (P, 3) int64: document, first sentence, end; and (P,) int64: tokens.
    """
    passages: list[tuple[int, int, int, int]] = []
    for document in documents.tolist():
        sentences = int(store.document_sentences[document])
        tokens = int(store.document_tokens[document])
        if tokens <= PASSAGE_TOKENS:
            passages.append((document, 0, sentences, tokens))
            continue
        ends = np.cumsum(store.sentence_lengths(document))
        borders = np.searchsorted(ends, np.arange(PASSAGE_TOKENS, tokens, PASSAGE_TOKENS), side="right")
        edges = np.unique(np.concatenate([[0], borders, [sentences]])).tolist()
        for first, end in itertools.pairwise(edges):
            passages.append((document, first, end, int(ends[end - 1] - (ends[first - 1] if first else 0))))
    table = np.array(passages, dtype=np.int64)
    return table[:, :3], table[:, 3]


def masked_batch(instances: Sequence[Instance], masking: Masking, facts: TokenFacts, rng: np.random.Generator) -> Batch:
    """Pack instances and mask them."""
    batch = pack(
        [i.token_ids for i in instances],
        [i.segment_ids for i in instances],
        labels=[0 if i.is_next else 1 for i in instances],
    )
    ids, positions, labels = mask_tokens(
        batch.token_ids.numpy(),
        batch.sequence_starts.numpy(),
        facts,
        masking,
        rng,
    )
    return replace(
        batch,
        token_ids=torch.from_numpy(ids),
        masked_positions=torch.from_numpy(positions),
        masked_labels=torch.from_numpy(labels),
    )


def split(batch: Batch, part: int, parts: int) -> Batch:
    """Return one of ``parts`` consecutive pieces of a batch, as even as can be; all must get a sequence."""
    assert batch.masked_positions is not None
    assert batch.masked_labels is not None
    assert batch.labels is not None
    first = part * batch.num_sequences // parts
    last = (part + 1) * batch.num_sequences // parts
    start, end = int(batch.sequence_starts[first]), int(batch.sequence_starts[last])
    starts = batch.sequence_starts[first : last + 1] - start
    inside = (batch.masked_positions >= start) & (batch.masked_positions < end)
    return Batch(
        token_ids=batch.token_ids[start:end],
        segment_ids=batch.segment_ids[start:end],
        position_ids=batch.position_ids[start:end],
        sequence_starts=starts,
        max_length=int((starts[1:] - starts[:-1]).max()),
        masked_positions=batch.masked_positions[inside] - start,
        masked_labels=batch.masked_labels[inside],
        labels=batch.labels[first:last],
    )


def held_out_documents(store: TokenStore, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split the documents: about ``share`` of the tokens are held out, at least one document.

    Returns:
        Training documents and held-out documents, each (D,) int64 in rising order.

    Raises:
        InputError: there are fewer than four documents.
    """
    if store.num_documents < 4:
        raise InputError(
            f"has {store.num_documents} document(s); pre-training needs at least 4: some to hold out, and several "
            "to draw random next sentences from. If a file holds several, try prepare --documents blank-line or line",
            path=store.path,
        )
    order = np.random.default_rng([seed, _HELD_OUT]).permutation(store.num_documents)
    before = np.cumsum(store.document_tokens[order]) - store.document_tokens[order]
    count = int(np.searchsorted(before, share * store.num_tokens))
    count = min(max(1, count), store.num_documents - 2)
    return np.sort(order[count:]), np.sort(order[:count])


def evaluation_batches(
    store: TokenStore,
    held_out: np.ndarray,
    *,
    max_length: int,
    instances: int,
    seed: int,
    short_probability: float = 0.1,
    masking: Masking = Masking(),  # noqa: B008  (frozen)
    max_tokens: int = 4096,
) -> list[Batch]:
    """Return fixed instances of held-out documents with fixed masks, for every evaluation of a run."""
    rng = np.random.default_rng([seed, _EVALUATION])
    passages, _ = cut_passages(store, held_out)
    # Random next sentences come from held-out text too, unless there is only one such document.
    others = held_out if len(held_out) > 1 else np.arange(store.num_documents)
    room = max_length - 3
    plan = plan_passages(store, passages, others, room=room, short_probability=short_probability, rng=rng)
    tokenizer = store.tokenizer
    chosen = [
        build_instance(store, row, room=room, cls_id=tokenizer.cls_id, sep_id=tokenizer.sep_id)
        for row in rng.permutation(plan)[:instances].tolist()
    ]
    facts = token_facts(tokenizer)
    groups = by_token_budget([len(i.token_ids) for i in chosen], max_tokens)
    return [masked_batch([chosen[n] for n in group], masking, facts, rng) for group in groups]
