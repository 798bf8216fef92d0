"""Rows that are held out: what a model must learn stays with the training rows, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bertsmith.errors import InputError
from bertsmith.task_config import MultilabelSettings
from bertsmith.tasks import classify, multilabel, regress, tag
from bertsmith.tasks.tag_files import TaggedRows
from bertsmith.tasks.task import Task, split_rows
from bertsmith.tasks.texts import TextRows

SETTINGS = MultilabelSettings.parse({"model": "m", "train": "a", "output": "o", "separator": ";"})


def labelled(labels: list[str]) -> TextRows:
    return TextRows([f"text {n}" for n in range(len(labels))], labels, list(range(2, len(labels) + 2)), Path("a.csv"))


def tagged(tags: list[list[str]]) -> TaggedRows:
    rows = range(len(tags))
    units = [[(2 * n, 2 * n + 1) for n in range(len(own))] for own in tags]
    texts = [" ".join("x" * len(own)) + f" {n}" for n, own in enumerate(tags)]
    return TaggedRows(texts, units, tags, [[n] * len(tags[n]) for n in rows], list(rows), Path("a.conll"), "word", "-")


def held(task: Task, rows: Any, seed: int) -> list[str]:
    train, dev = split_rows(task, rows, 0.1, seed, SETTINGS)
    assert sorted(train.texts + dev.texts) == sorted(rows.texts)
    assert len(dev.texts) == 6
    return dev.texts


# For each task its rows with one of a kind at place n, and rows of the same texts where nothing is rare.
CASES = {
    "classify": (
        classify.TASK,
        lambda n: labelled(["rare" if k == n else "ab"[k % 2] for k in range(60)]),
        labelled(["a", "b"] * 30),
    ),
    "multilabel": (
        multilabel.TASK,
        lambda n: labelled(["a; rare" if k == n else ("", "a", "a;b")[k % 3] for k in range(60)]),
        labelled(["", "a", "a;b"] * 20),
    ),
    "entities": (
        tag.TASK,
        lambda n: tagged([["B-x", "I-x", "B-rare"] if k == n else ["O", "B-x", "O"] for k in range(60)]),
        tagged([["O", "B-x", "O"]] * 60),
    ),
    "plain tags": (
        tag.TASK,
        lambda n: tagged([["N", "V", "RARE"] if k == n else ["N", "V", "N"] for k in range(60)]),
        tagged([["N", "V", "N"]] * 60),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_only_row_of_a_label_is_trained_on(name: str) -> None:
    task, with_rare, common = CASES[name]
    usual = held(task, common, seed=1)
    for place, text in enumerate(common.texts):
        chosen = held(task, with_rare(place), seed=1)
        if text in usual:
            # The next one in the order of the seed takes its place.
            assert text not in chosen
            assert len(set(usual) - set(chosen)) == 1
        else:
            assert chosen == usual


def test_of_several_rows_of_a_label_one_is_trained_on() -> None:
    usual = set(held(classify.TASK, labelled(["a"] * 60), seed=1))
    rows = labelled(["a"] * 60)
    rows = TextRows(rows.texts, ["rare" if t in usual else "a" for t in rows.texts], rows.lines, rows.source)
    train, dev = split_rows(classify.TASK, rows, 0.1, 1)
    assert train.labels.count("rare") == 1
    assert dev.labels.count("rare") == 5


def test_numbers_need_not_repeat() -> None:
    rows = labelled([str(n) for n in range(60)])
    assert held(regress.TASK, rows, seed=1) == held(classify.TASK, labelled(["a"] * 60), seed=1)


def test_labels_that_are_all_different_cannot_be_split() -> None:
    with pytest.raises(InputError, match=r"a\.csv: no rows can be held out: .*; give --dev"):
        split_rows(classify.TASK, labelled(list("abcdefgh")), 0.1, 1)
