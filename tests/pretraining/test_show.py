from __future__ import annotations

import numpy as np

from bertsmith.pretraining.pairs import Instance
from bertsmith.pretraining.sampler import Sampler
from bertsmith.pretraining.show import format_instance, format_instances
from tests.pretraining.fake_store import FakeTokenizer, random_store


def test_an_instance_as_text() -> None:
    instance = Instance(
        token_ids=np.array([2, 9, 10, 11, 3, 12, 13, 3]),
        segment_ids=np.array([0, 0, 0, 0, 0, 1, 1, 1]),
        is_next=False,
        document_a=4,
        document_b=7,
    )
    seen = np.array([2, 9, 4, 11, 3, 20, 13, 3])
    assert format_instance(instance, seen, np.array([2, 5, 6]), FakeTokenizer(30)).split("\n") == [
        "B is random, A from document 4, B from document 7; 8 tokens (A 3, B 2), 3 to predict, written seen<original>",
        "  A  [CLS] t9 [MASK]<##t10> t11 [SEP]",
        "  B  t20<t12> ##t13<##t13> [SEP]",
    ]


def test_first_instances_of_a_step() -> None:
    store = random_store(20)
    sampler = Sampler(store, max_length=31, batch_size=7, seed=0)
    text = format_instances(sampler, store.tokenizer, count=3)
    lines = text.split("\n")
    assert len(lines) == 9
    assert [line.split(":")[0] for line in lines[::3]] == ["instance 1", "instance 2", "instance 3"]
    for head, instance in zip(lines[::3], sampler.instances(0), strict=False):
        assert ("B is next" in head) == instance.is_next
        assert f"{len(instance.token_ids)} tokens" in head
    assert "[MASK]<" in text
