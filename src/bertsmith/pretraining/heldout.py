"""Held-out documents, and the fixed instances that every evaluation of a run uses."""

from __future__ import annotations

import numpy as np

from bertsmith.batch import Batch, by_token_budget
from bertsmith.errors import InputError
from bertsmith.pretraining.masking import Masking, masked_batch, token_facts
from bertsmith.pretraining.pairs import build_instance, plan_passages, room_for_pair, sequence_lengths
from bertsmith.pretraining.passages import cut_passages
from bertsmith.pretraining.streams import EVALUATION, EVALUATION_MASKS, HELD_OUT, stream
from bertsmith.text.store import TokenStore

MIN_DOCUMENTS = 4

# Two held-out documents let evaluation pairs be of held-out text alone; this share of the text may be spent on it.
_SPENT_ON_A_SECOND = 0.1

# Passes over little held-out text: each masks other tokens and makes other pairs.
_MOST_PASSES = 8


def held_out_documents(store: TokenStore, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split the documents so that about ``share`` of the tokens are held out.

    Documents are taken in random order, those that are too large for what is still wanted are passed over. At
    least one is held out (the smallest, if all are too large), two where they are a tenth of the text or less,
    and at least two stay for training.

    Returns:
        Training documents and held-out documents, each (D,) int64 in rising order.

    Raises:
        InputError: there are fewer than four documents.
    """
    tokens = store.document_tokens
    usable = np.flatnonzero(tokens > 0)
    if len(usable) < MIN_DOCUMENTS:
        raise InputError(
            f"has {len(usable)} document(s) with text; pre-training needs at least {MIN_DOCUMENTS}: some to hold out, "
            "and several to draw random next sentences from. If a file holds several, try prepare --documents "
            "blank-line or line",
            path=store.path,
        )
    order = stream(seed, HELD_OUT).permutation(usable)
    total = int(tokens.sum())
    room = share * total
    chosen: list[int] = []
    for document in order.tolist():
        if tokens[document] <= room and len(chosen) < len(usable) - 2:
            chosen.append(document)
            room -= tokens[document]
        if room < share * total / 50:
            break
    by_size = order[np.argsort(tokens[order], kind="stable")][:2].tolist()
    if not chosen:
        chosen = by_size[:1]
    if len(chosen) == 1:
        second = next(d for d in by_size if d not in chosen)
        if tokens[chosen].sum() + tokens[second] <= max(share, _SPENT_ON_A_SECOND) * total:
            chosen.append(second)
    held_out = np.sort(np.array(chosen, dtype=np.int64))
    return np.setdiff1d(np.arange(store.num_documents), held_out, assume_unique=True), held_out


def of_few_shards(store: TokenStore, documents: np.ndarray, tokens: int, rng: np.random.Generator) -> np.ndarray:
    """Return those of ``documents`` that stand in a few random shards, which hold ``tokens`` of them if all do.

    So that what needs a part of the text only does not have to read every shard.
    """
    shards = store.shards_of(documents)
    held = np.bincount(shards, weights=store.document_tokens[documents], minlength=store.num_shards)
    order = rng.permutation(np.flatnonzero(held))
    enough = int(np.searchsorted(np.cumsum(held[order]), tokens)) + 1
    return documents[np.isin(shards, order[:enough])]


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
    """Return fixed instances of held-out documents with fixed masks, for every evaluation of a run.

    A random B comes from held-out text too, unless there is only one such document. Only as much text is planned
    as is needed; where there is too little for ``instances``, it is passed over again, up to 8 times.

    Args:
        store: the token store.
        held_out: (D,) int64, documents.
        max_length: longest sequence.
        instances: how many; fewer, if the text is very little.
        seed: of all choices.
        short_probability: as in training.
        masking: how tokens are chosen.
        max_tokens: of a batch; instances and masks do not depend on it.
    """
    rng = stream(seed, EVALUATION)
    room = room_for_pair(max_length)
    passages = cut_passages(store, held_out)
    others = held_out if len(held_out) > 1 else np.flatnonzero(store.document_tokens > 0)
    # More text than the instances need, so that they are a sample and not the first ones.
    enough = 4 * instances * max_length
    plans: list[np.ndarray] = []
    while sum(map(len, plans)) < instances and len(plans) < _MOST_PASSES:
        order = passages.shuffled(rng)
        before = np.cumsum(passages.tokens[order], dtype=np.int64) - passages.tokens[order]
        rows = passages.rows(order[before < enough])
        plan = plan_passages(store, rows, others, room=room, short_probability=short_probability, rng=rng)
        plans.append(rng.permutation(plan))
    plan = np.concatenate(plans)[:instances]
    plan = plan[np.argsort(-sequence_lengths(plan), kind="stable")]
    facts = token_facts(store.tokenizer)
    masks = stream(seed, EVALUATION_MASKS)
    return [
        masked_batch([build_instance(store, row) for row in plan[group]], masking, facts, masks)
        for group in by_token_budget(sequence_lengths(plan).tolist(), max_tokens)
    ]
