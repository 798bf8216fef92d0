"""Ten thousand damaged files: each is read, encoded and scored, or refused with an InputError; never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bertsmith.errors import InputError
from bertsmith.task_config import QaSettings, TagSettings
from bertsmith.tasks import choose, classify, multilabel, qa, regress, tag
from bertsmith.tasks.task import Source, Task
from bertsmith.text.tokenizer import SPECIAL_TOKENS, Tokenizer

MUTATIONS = 1000
TOKENIZER = Tokenizer.from_tokens([*SPECIAL_TOKENS, "a", "##b", "한", "##국", "c", "."], lowercase=True)
COMMON = {"max_length": 20}

SQUAD = json.dumps(
    {
        "version": "v2.0",
        "data": [
            {
                "title": "한국",
                "paragraphs": [
                    {
                        "context": "a b 한국 c. " * 9,
                        "qas": [
                            {"id": "1", "question": "한국?", "answers": [{"text": "한국", "answer_start": 4}]},
                            {"id": "2", "question": "c?", "answers": [], "is_impossible": True},
                        ],
                    }
                ],
            }
        ],
    },
    ensure_ascii=False,
)
CONLLU = """# text = a 한국.
1\ta\ta\tDET\tDT\t_\t2\tdet\t_\t_
2\t한국\t한국\tPROPN\tNNP\t_\t0\troot\t_\tSpaceAfter=No
3\t.\t.\tPUNCT\t.\t_\t2\tpunct\t_\t_

"""
CASES: dict[str, tuple[Task, str, str, dict[str, object]]] = {
    "csv": (classify.TASK, "a.csv", 'text,label\n"a ""b"", 한국",x\nc.,y\n', {"labels": ["x", "y"]}),
    "tsv": (classify.TASK, "a.tsv", "text\tlabel\na b\tx\n한국 c.\ty\n", {"labels": ["x", "y"]}),
    "jsonl": (
        classify.TASK,
        "a.jsonl",
        '{"text": "a 한국", "label": "x"}\n{"text": "c", "label": 1}\n',
        {"labels": ["1", "x"]},
    ),
    "multilabel": (multilabel.TASK, "a.csv", "text,label\na,x|y\n한국,\n", {"labels": ["x", "y"], "separator": "|"}),
    "regress": (regress.TASK, "a.csv", "text,label\na,1.5\n한국,-2e3\n", {"mean": 0.0, "deviation": 1.0}),
    "choose": (choose.TASK, "a.csv", "context,p,q,label\na,b,c,0\n한국,a,b,q\n", {"choices": 2}),
    "squad": (qa.TASK, "a.json", SQUAD, {"stride": 4, "max_query_length": 5}),
    "conll": (tag.TASK, "a.conll", "a O\n한국 B-LOC\n. O\n\nc I-LOC\n", {}),
    "conllu": (tag.TASK, "a.conllu", CONLLU * 2, {}),
    "spans": (tag.TASK, "a.jsonl", '{"text": "a 한국 c", "spans": [{"start": 2, "end": 4, "label": "LOC"}]}\n' * 2, {}),
}
ODD = ("\ufeff", "\r\n", "\u2028", "\x00", '"', "\t", ",", "{", "]", "null", "1e999", "-1", "\ud55c", "\n\n")
COLUMNS = {
    "choose": {"context": "context", "endings": "p,q", "label": "label"},
    "squad": {"question": "question", "context": "context", "answer": "answer"},
    "conll": {},
    "conllu": {},
    "spans": {},
}


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Cut, repeat, exchange or damage bytes, or put in what people's files have."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        at, length = int(rng.integers(0, len(changed) + 1)), int(rng.integers(1, 9))
        kind = int(rng.integers(0, 6))
        if kind == 0:
            del changed[at : at + length]
        elif kind == 1:
            changed[at:at] = changed[at : at + length] * int(rng.integers(1, 4))
        elif kind == 2:
            changed[at:at] = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
        elif kind == 3 and changed:
            changed[at % len(changed)] ^= 1 << int(rng.integers(0, 8))
        elif kind == 4:
            odd = (
                "\ufeff",
                "\r\n",
                "\u2028",
                "\x00",
                '"',
                "\t",
                ",",
                "{",
                "]",
                "null",
                "1e999",
                "-1",
                "\ud55c",
                "\n\n",
            )
            changed[at:at] = odd[int(rng.integers(0, len(odd)))].encode()
        else:
            del changed[at:]
    return bytes(changed)


def facts_of(name: str, task: Task, facts: dict[str, object], rows: object) -> dict[str, object]:
    """Return what a model would remember of these rows, found by the task where that is part of reading."""
    values = {"model": "m", "train": "a", "output": "o", **COMMON}
    if task is tag.TASK:
        return task.facts(rows, rows, TagSettings.parse(values | {"overlap": 3}))
    if task is qa.TASK:
        return task.facts(rows, rows, QaSettings.parse(values | facts))
    return {**COMMON, **facts, "columns": COLUMNS.get(name, {})}


def use(name: str, path: Path) -> Callable[[], None]:
    """Return a function that takes a file all the way to scores, with made-up outputs in the model's place."""
    task, _, _, facts = CASES[name]
    source = Source(path, COLUMNS.get(name, {"text": "text", "label": "label"}))
    sizes = {"classify": len(facts.get("labels", ())), "multilabel": 2, "regress": 1, "choose": 2}

    def run() -> None:
        rows = task.read(source)
        found = facts_of(name, task, facts, rows)
        examples = task.encode(rows, found, TOKENIZER)
        rng = np.random.default_rng(0)
        if task.name in sizes:
            shapes = [(sizes[task.name],)] * len(examples.lengths)
        else:
            shapes = [(n, 2 if task is qa.TASK else len(found["labels"])) for n in examples.lengths]
        outputs = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
        task.score(outputs, examples, rows, found)
        task.predict(outputs, examples, rows, found)

    return run


@pytest.mark.parametrize("name", CASES)
def test_damaged_files_are_used_or_refused(name: str, tmp_path: Path) -> None:
    _, file, content, _ = CASES[name]
    path = tmp_path / file
    path.write_text(content, encoding="utf-8")
    use(name, path)()
    used = refused = 0
    for seed in range(MUTATIONS):
        path.write_bytes(mutate(content.encode(), np.random.default_rng([seed, len(content)])))
        try:
            use(name, path)()
            used += 1
        except InputError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"mutation {seed}: {path.read_bytes()!r}") from error
    assert used > 20
    assert refused > 20
