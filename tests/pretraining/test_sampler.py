from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bertsmith.batch import Batch
from bertsmith.errors import InputError
from bertsmith.pretraining.masking import Masking
from bertsmith.pretraining.sampler import Sampler
from tests.pretraining.fake_store import FakeStore, random_store

FIELDS = ("token_ids", "segment_ids", "position_ids", "masked_positions", "masked_labels", "labels")


def make(store: FakeStore | None = None, **changes: Any) -> Sampler:
    settings = {"max_length": 41, "batch_size": 13, "seed": 5, "window_tokens": 2500} | changes
    return Sampler(random_store(67) if store is None else store, **settings)


def digest(batch: Batch) -> str:
    arrays = [getattr(batch, name).numpy().tobytes() for name in (*FIELDS, "sequence_starts")]
    return hashlib.sha256(b"".join(arrays)).hexdigest()


def test_the_batch_of_a_step() -> None:
    sampler = make()
    batch = sampler.batch(3)
    instances = sampler.instances(3)
    assert batch.num_sequences == len(instances) == 13
    assert batch.max_length <= 41
    original = batch.token_ids.clone()
    original[batch.masked_positions] = batch.masked_labels
    assert original.tolist() == np.concatenate([i.token_ids for i in instances]).tolist()
    assert batch.segment_ids.tolist() == np.concatenate([i.segment_ids for i in instances]).tolist()
    assert batch.labels is not None
    assert batch.labels.tolist() == [int(i.document_a != i.document_b) for i in instances]


def test_a_step_depends_on_nothing_but_its_number() -> None:
    steps = [0, 17, 3, 90, 4, 1_000_003, 18, 0]
    first = {step: digest(make().batch(step)) for step in set(steps)}
    assert len(set(first.values())) == len(first)
    sampler = make()
    for order in (steps, steps[::-1]):
        assert [digest(sampler.batch(step)) for step in order] == [first[step] for step in order]
    copy = pickle.loads(pickle.dumps(sampler))
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda step: digest(copy.batch(step)), steps)) == [first[step] for step in steps]


def test_another_process_with_another_hash_seed_makes_the_same_batch() -> None:
    code = "from tests.pretraining.test_sampler import *; torch.set_num_threads(1); print(digest(make().batch(33)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONHASHSEED": "77"},
    )
    assert done.stdout.strip() == digest(make().batch(33))


@pytest.mark.parametrize("unit", ["token", "word"])
@pytest.mark.parametrize("parts", [2, 5, 13])
def test_parts_together_are_the_whole_batch(parts: int, unit: str) -> None:
    sampler = make(masking=Masking(unit))
    for step in (0, 21):
        whole = sampler.batch(step)
        pieces = [sampler.batch(step, part, parts) for part in range(parts)]
        assert {p.num_sequences for p in pieces} <= {13 // parts, -(-13 // parts)}
        before = np.cumsum([0] + [p.num_tokens for p in pieces])
        for name in FIELDS:
            values = [getattr(p, name) for p in pieces]
            if name == "masked_positions":
                values = [v + int(b) for v, b in zip(values, before, strict=False)]
            assert torch.cat(values).tolist() == getattr(whole, name).tolist(), name
        for piece in pieces:
            lengths = piece.sequence_starts[1:] - piece.sequence_starts[:-1]
            assert piece.max_length == int(lengths.max())
            assert int(piece.sequence_starts[-1]) == piece.num_tokens


def test_more_parts_than_sequences() -> None:
    with pytest.raises(InputError, match="13 sequences cannot be split into 14 parts"):
        make().batch(0, 0, 14)


def test_seed_and_settings_change_the_batch() -> None:
    changes: list[dict[str, Any]] = [{}, {"seed": 6}, {"masking": Masking("word")}, {"short_probability": 0.9}]
    assert len({digest(make(**c).batch(2)) for c in changes}) == len(changes)


def test_an_epoch_covers_the_text_once_and_the_next_one_is_different() -> None:
    store = random_store(300, seed=1)
    sampler = make(store, short_probability=0.0, window_tokens=5000)
    assert sampler.figures.windows > 4
    first_ids: list[set[int]] = []
    for epoch in (0, 1):
        seen = np.zeros(store.tokenizer.vocab_size)
        first = epoch * sampler.steps_per_epoch
        for step in range(first, first + sampler.steps_per_epoch):
            for instance in sampler.instances(step):
                own = instance.segment_ids == 0 if not instance.is_next else np.ones(len(instance.token_ids), bool)
                ids = instance.token_ids[own]
                seen[ids[ids >= 7]] += 1
        assert (seen[7:] > 0).mean() > 0.8, "what is missing was cut or left out at a window's end"
        assert (seen[7:] > 1).mean() < 0.02
        first_ids.append({int(i.token_ids[1]) for s in range(first, first + 3) for i in sampler.instances(s)})
    assert len(first_ids[0] & first_ids[1]) < 10


def test_what_is_left_out_in_one_epoch_comes_in_another() -> None:
    store = random_store(300, seed=1)
    sampler = make(store, window_tokens=5000)
    seen = np.zeros(store.tokenizer.vocab_size, dtype=bool)
    for step in range(6 * sampler.steps_per_epoch):
        for instance in sampler.instances(step):
            seen[instance.token_ids] = True
    assert seen[7:].mean() > 0.999


def test_masks_change_with_every_epoch() -> None:
    # So little text that the same instances come again and again.
    sampler = make(FakeStore([[9, 9], [9, 9]]), batch_size=1, max_length=50)
    masks = set()
    for step in range(40):
        batch = sampler.batch(step)
        assert batch.masked_positions is not None
        masks.add((tuple(batch.masked_labels.tolist()), tuple(batch.masked_positions.tolist())))  # type: ignore[union-attr]
    assert len(masks) > 30


def test_a_far_step_costs_what_a_near_one_costs() -> None:
    store = random_store(300, seed=1)
    calls = []
    for step in (10, 1_000_000, 1_000_000_000_000):
        sampler = make(store)
        store.calls = 0
        assert len(sampler.instances(step)) == 13
        calls.append(store.calls)
    window = calls[0] or calls[1]
    assert max(calls) < 2.5 * window
    assert max(calls) < store.num_documents, "one window is planned, not the epoch"


def test_windows_with_too_few_instances_are_filled_up() -> None:
    store = FakeStore([[3, 4], [5], [2, 2, 2]])
    sampler = make(store, batch_size=13)
    assert sampler.steps_per_epoch == 1
    for step in (0, 1, 999):
        instances = sampler.instances(step)
        assert len(instances) == 13
        assert len({i.document_a for i in instances}) > 1
    assert digest(sampler.batch(4)) == digest(make(store, batch_size=13).batch(4))


@pytest.mark.parametrize("window_tokens", [1, 7, 300])
def test_tiny_windows(window_tokens: int) -> None:
    store = random_store(9)
    sampler = make(store, window_tokens=window_tokens, batch_size=3)
    for step in range(0, 2 * sampler.steps_per_epoch, 3):
        assert len(sampler.instances(step)) == 3


def test_only_the_given_documents_are_used() -> None:
    documents = np.array([3, 8, 40, 41, 66])
    sampler = make(documents=documents)
    used = {d for s in range(20) for i in sampler.instances(s) for d in (i.document_a, i.document_b)}
    assert used == set(documents.tolist())


def test_empty_documents_are_left_out() -> None:
    sampler = make(FakeStore([[], [3, 4, 5], [], [6, 2], []]))
    used = {d for s in range(20) for i in sampler.instances(s) for d in (i.document_a, i.document_b)}
    assert used == {1, 3}


def test_one_document_is_refused() -> None:
    with pytest.raises(InputError, match=r"store: has 1 document\(s\).*at least 2.*--documents blank-line"):
        make(FakeStore([[3, 4, 5], []]))
    with pytest.raises(InputError, match="max_length 4 is too short"):
        make(max_length=4)


def test_figures() -> None:
    sampler = make(random_store(200, seed=3))
    steps = range(sampler.steps_per_epoch)
    lengths = [len(i.token_ids) for s in steps for i in sampler.instances(s)]
    random = [not i.is_next for s in steps for i in sampler.instances(s)]
    assert sampler.figures.mean_length == pytest.approx(np.mean(lengths), rel=0.05)
    assert sampler.figures.fill == sampler.figures.mean_length / 41
    assert sampler.figures.random_share == pytest.approx(np.mean(random), abs=0.05)
    assert sampler.tokens_per_step == pytest.approx(13 * np.mean(lengths), rel=0.05)
    assert sampler.steps_per_epoch == sampler.figures.windows * sampler.figures.steps_per_window
