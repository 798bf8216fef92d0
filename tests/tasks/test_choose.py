"""Multiple choice: how the right ending is written, batches of several sequences a row, scores by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bertsmith.errors import InputError
from bertsmith.task_config import ChooseSettings
from bertsmith.tasks.choose import TASK
from bertsmith.tasks.task import Source
from bertsmith.text.store import TokenStore

SETTINGS = ChooseSettings.parse({"model": "m", "train": "a", "dev": "b", "output": "o", "endings": "a,b,c"})
COLUMNS = {"context": "context", "endings": "a,b,c", "label": "label"}
CONTENT = """context,a,b,c,label
the cat,sees,finds,likes,1
a dog,the river,집에 갔다,it,b
the man,x,y,z,z
나는,p,q,r,0
"""


def source(directory: Path, content: str = CONTENT) -> Source:
    (directory / "a.csv").write_text(content, encoding="utf-8")
    return Source(directory / "a.csv", COLUMNS)


def test_the_right_ending_by_number_column_or_text(tmp_path: Path) -> None:
    rows = TASK.read(source(tmp_path))
    assert rows.gold == [1, 1, 2, 0]
    assert rows.endings[1] == ("the river", "집에 갔다", "it")
    spaced = TASK.read(Source(rows.source, COLUMNS | {"endings": "a, b ,c"}))
    assert (spaced.gold, spaced.endings, spaced.names) == (rows.gold, rows.endings, ("a", "b", "c"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("context,a,b,c,label\nx,1,2,,0\n", r"a\.csv:2: column 'c' is empty"),
        ("context,a,b,c,label\nx,p,q,r,3\n", r"a\.csv:2: column 'label' is '3'; expected a number from 0 to 2"),
        ("context,a,b,c,label\nx,p,p,r,p\n", r"a\.csv:2: column 'label' is 'p'"),
        ("context,a,b,label\nx,p,q,0\n", "no column 'c'"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TASK.read(source(tmp_path, content))


def test_facts(tmp_path: Path) -> None:
    rows = TASK.read(source(tmp_path))
    assert TASK.facts(rows, rows, SETTINGS)["choices"] == 3
    same = TASK.read(source(tmp_path, "context,a,b,c,label\nx,p,q,r,0\ny,p,q,r,0\n"))
    with pytest.raises(InputError, match="in every row ending 0 is right"):
        TASK.facts(same, rows, SETTINGS)


def test_a_batch_holds_every_ending(tmp_path: Path, store: TokenStore) -> None:
    rows = TASK.read(source(tmp_path))
    facts = TASK.facts(rows, rows, SETTINGS)
    examples = TASK.encode(rows, facts, store.tokenizer)
    batch = examples.batch([2, 0])
    assert batch.num_sequences == 6
    assert batch.num_tokens == examples.lengths[2] + examples.lengths[0]
    assert batch.labels.tolist() == [2, 1]
    assert TASK.counts(batch) == {"loss": 2}
    scores = torch.tensor([[0.0], [0.0], [5.0], [0.0], [5.0], [0.0]])
    expected = -2 * np.log(np.exp(5) / (np.exp(5) + 2))
    assert float(TASK.sums(lambda b: scores, batch, facts)["loss"]) == pytest.approx(expected, rel=1e-5)
    assert [o.tolist() for o in TASK.outputs(scores, batch, facts)] == [[0, 0, 5], [0, 5, 0]]


def test_scores_and_predictions(tmp_path: Path, store: TokenStore) -> None:
    rows = TASK.read(source(tmp_path))
    facts = TASK.facts(rows, rows, SETTINGS)
    examples = TASK.encode(rows, facts, store.tokenizer)
    outputs = [np.array(v, dtype=np.float32) for v in ([0, 1, 0], [9, 0, 0], [0, 0, 1], [0, 0, 2])]
    scores = TASK.score(outputs, examples, rows, facts)
    assert scores.metrics == {"accuracy": 0.5}
    assert [(m.gold, m.predicted) for m in scores.mistakes] == [("집에 갔다", "the river"), ("p", "r")]
    prediction = TASK.predict(outputs, examples, rows, facts)[0].to_json()
    assert (prediction["choice"], prediction["ending"]) == (1, "finds")


def test_another_number_of_endings_than_tuned_with(tmp_path: Path, store: TokenStore) -> None:
    with pytest.raises(InputError, match=r"a\.csv: 3 endings; this model was tuned with 4"):
        TASK.encode(TASK.read(source(tmp_path)), {"choices": 4, "max_length": 32}, store.tokenizer)


def test_python_inputs(tmp_path: Path) -> None:
    given = list(TASK.inputs(source(tmp_path), {"choices": 3}))
    assert given[0] == (2, ("the cat", ("sees", "finds", "likes")))
    assert TASK.rows(given, {"choices": 3}).contexts == ["the cat", "a dog", "the man", "나는"]
    for wrong in ("text", ("c", "text"), ("c", ["p", "q"]), ("c", ["p", "q", " "])):
        with pytest.raises(InputError, match="input 7"):
            TASK.rows([(7, wrong)], {"choices": 3})
