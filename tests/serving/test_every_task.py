"""Each task from rows to a model in use: tuned, evaluated, asked from files and in Python, loaded in transformers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import bertsmith
from bertsmith import task_config
from bertsmith.batch import pack
from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.serving.evaluating import evaluate
from bertsmith.serving.predictor import predict_file
from bertsmith.task_config import EvaluateSettings, FinetuneSettings, PredictSettings
from bertsmith.tasks.tag_files import read_tagged
from bertsmith.tasks.tag_schemes import to_spans
from bertsmith.training.finetune import finetune
from bertsmith.training.tuning import chosen_metric

QUIET = Log(quiet=True)
WORDS = [("cat", "river"), ("dog", "house"), ("나는", "밥을"), ("sister", "집에")]
PAIRS = [("the cat", "the river"), ("a dog", "a small house"), ("나는", "밥을 먹었다"), ("my sister", "집에 갔다")]


@dataclass(frozen=True)
class Case:
    """A task with rows of its own.

    Attributes:
        settings: the name of its settings model.
        file: the name of its rows.
        rows: their content.
        changes: settings that differ from the defaults.
        python: inputs as Python gives them, the same as in the file.
        theirs: transformers' class for the model.
    """

    settings: str
    file: str
    rows: str
    changes: dict[str, Any]
    python: list[Any]
    theirs: Any


def table(header: str, rows: list[tuple[object, ...]]) -> str:
    return "\n".join([header, *("\t".join(map(str, row)) for row in rows * 4)]) + "\n"


def squad() -> str:
    paragraphs = []
    for n, (who, what) in enumerate(PAIRS * 2):
        context = f"{who} sees {what} today {n}."
        answers = [] if n % 4 == 3 else [{"text": what, "answer_start": context.index(what)}]
        question = {"id": f"q{n}", "question": f"what sees {who}", "answers": answers, "is_impossible": not answers}
        paragraphs.append({"context": context, "qas": [question]})
    return json.dumps({"version": "v2.0", "data": [{"title": "made up", "paragraphs": paragraphs}]}, ensure_ascii=False)


SQUAD_INPUTS = [(f"what sees {who}", f"{who} sees {what} today {n}.") for n, (who, what) in enumerate(PAIRS * 2)]

CASES = {
    "pairs": Case(
        "ClassifySettings",
        "rows.tsv",
        table("text\tb\tlabel", [(a, b, ("yes", "no")[n % 2]) for n, (a, b) in enumerate(PAIRS)]),
        {"text_b": "b", "class_weights": "balanced"},
        PAIRS * 4,
        transformers.AutoModelForSequenceClassification,
    ),
    "multilabel": Case(
        "MultilabelSettings",
        "rows.tsv",
        table("text\tlabel", [(a, ("x", "x|y", "", "y")[n]) for n, (a, _) in enumerate(PAIRS)]),
        {},
        [a for a, _ in PAIRS] * 4,
        transformers.AutoModelForSequenceClassification,
    ),
    "regress": Case(
        "RegressSettings",
        "rows.tsv",
        table("text\tlabel", [(a, 10.5 * n) for n, (a, _) in enumerate(PAIRS)]),
        {},
        [a for a, _ in PAIRS] * 4,
        transformers.AutoModelForSequenceClassification,
    ),
    "choose": Case(
        "ChooseSettings",
        "rows.tsv",
        table("context\tp\tq\tlabel", [(a, b, b[::-1], n % 2) for n, (a, b) in enumerate(PAIRS)]),
        {"endings": "p,q"},
        [(a, (b, b[::-1])) for a, b in PAIRS * 4],
        transformers.AutoModelForMultipleChoice,
    ),
    "qa": Case(
        "QaSettings",
        "rows.json",
        squad(),
        {"stride": 5, "n_best": 3},
        SQUAD_INPUTS,
        transformers.AutoModelForQuestionAnswering,
    ),
}
for _name, _file, _rows, _unit in (
    ("entities", "rows.conll", "".join(f"{a}\tB-WHO\nsees\tO\n{b}\tB-WHAT\n\n" for a, b in WORDS * 4), "word"),
    ("tags", "rows.conll", "".join(f"{a} NOUN\nsees VERB\n{b} NOUN\n\n" for a, b in WORDS * 4), "word"),
):
    CASES[_name] = Case(
        "TagSettings",
        _file,
        _rows,
        {"overlap": 4, "metric": None},
        [f"{a} sees {b}" for a, b in WORDS * 4],
        transformers.AutoModelForTokenClassification,
    )


@pytest.mark.parametrize("name", CASES)
def test_from_rows_to_predictions(name: str, run: Path, tmp_path: Path) -> None:
    case = CASES[name]
    rows = tmp_path / case.file
    rows.write_text(case.rows, encoding="utf-8")
    settings: FinetuneSettings = getattr(task_config, case.settings).parse(
        {
            "model": run,
            "train": rows,
            "dev": rows,
            "output": tmp_path / "tuned",
            "max_length": 32,
            "epochs": 2,
            "batch_size": 5,
            "learning_rate": 1e-3,
            "threads": 1,
            "precision": "float32",
            **case.changes,
        }
    )
    result = finetune(settings, QUIET)
    assert chosen_metric(settings, result.scores.metrics) in result.scores.metrics
    assert "Curves" in (tmp_path / "tuned" / "report.html").read_text(encoding="utf-8")

    again = evaluate(EvaluateSettings(model=tmp_path / "tuned", input=rows), QUIET)
    for metric, value in result.scores.metrics.items():
        assert again.metrics[metric] == pytest.approx(value, abs=1e-6), metric

    output = tmp_path / "out.jsonl"
    predict_file(PredictSettings(model=tmp_path / "tuned", input=rows, output=output), QUIET)
    written = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    given = [prediction.to_json() for prediction in bertsmith.load(tmp_path / "tuned")(case.python)]
    assert len(written) == len(given) == len(case.python)
    for one, other in zip(written, given, strict=True):
        assert _rounded({**one, "id": ""}) == _rounded({**json.loads(json.dumps(other)), "id": ""})


def test_tags_are_written_in_columns_that_are_read_again(run: Path, tmp_path: Path) -> None:
    tuned = {}
    for name in ("entities", "tags"):
        case = CASES[name]
        rows = tmp_path / f"{name}.conll"
        rows.write_text(case.rows, encoding="utf-8")
        values = {"model": run, "train": rows, "dev": rows, "max_length": 32, "threads": 1, "learning_rate": 3e-3}
        changes = case.changes | {"epochs": 20, "output": tmp_path / name}
        finetune(task_config.TagSettings.parse(values | changes), QUIET)
        tuned[name] = tmp_path / name

    def write(name: str, **changes: str) -> Path:
        output = tmp_path / f"{name}.out.conll"
        settings = {"model": tuned[name], "input": tmp_path / f"{name}.conll", "output": output} | changes
        predict_file(PredictSettings.parse(settings | {"output_format": "conll"}), QUIET)
        return output

    predictions = bertsmith.load(tuned["entities"])(CASES["entities"].python)
    expected = [[(s.start, s.end, s.label) for s in p.spans] for p in predictions]
    assert sum(map(len, expected)) > 0
    for scheme in ("same", "IOB1", "BIOES", "BILOU", "BMES"):
        read = read_tagged(write("entities", scheme=scheme), format="conll")
        assert read.texts == CASES["entities"].python
        source: Any = "BIO" if scheme == "same" else scheme
        spans = [
            [(units[a][0], units[b - 1][1], kind) for a, b, kind in to_spans(tags, source)]
            for units, tags in zip(read.units, read.tags, strict=True)
        ]
        assert spans == expected
    assert "S-" in write("entities", scheme="BIOES").read_text("utf-8")

    assert write("tags").read_text("utf-8").startswith("cat NOUN\nsees VERB\nriver NOUN\n\n")
    with pytest.raises(InputError, match="--scheme BIOES: this model's tags are no entities"):
        write("tags", scheme="BIOES")
    settings = {"model": tuned["tags"], "input": tmp_path / "tags.conll", "scheme": "BIO"}
    with pytest.raises(InputError, match="--scheme is for --output-format conll"):
        predict_file(PredictSettings.parse(settings), QUIET)


@pytest.mark.parametrize("name", CASES)
def test_transformers_gives_the_same_logits(name: str, run: Path, tmp_path: Path) -> None:
    case = CASES[name]
    rows = tmp_path / case.file
    rows.write_text(case.rows, encoding="utf-8")
    values = {"model": run, "train": rows, "dev": rows, "output": tmp_path / "t", "max_length": 32, "epochs": 0.1}
    finetune(getattr(task_config, case.settings).parse(values | {"threads": 1} | case.changes), QUIET)
    predictor = bertsmith.load(tmp_path / "t")
    theirs, report = case.theirs.from_pretrained(tmp_path / "t" / "model", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    encoding = predictor.tokenizer.encode("the cat sees", "a dog")
    ids, segments = torch.tensor([encoding.ids]), torch.tensor([encoding.segment_ids])
    if name == "choose":
        ids, segments = ids[None], segments[None]
    with torch.no_grad():
        expected = theirs.eval()(input_ids=ids, token_type_ids=segments)
        ours = predictor.model(pack([encoding.ids], [encoding.segment_ids]))
    if name == "qa":
        logits = torch.stack([expected.start_logits[0], expected.end_logits[0]], dim=1)
    else:
        logits = expected.logits.reshape(ours.shape)
    torch.testing.assert_close(ours, logits, rtol=1e-4, atol=1e-5)


def _rounded(value: Any) -> Any:
    """Return JSON values with numbers rounded: rows of other batches differ in the last digits."""
    if isinstance(value, float):
        return pytest.approx(value, abs=1e-4)
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return {k: _rounded(v) for k, v in value.items()} if isinstance(value, dict) else value
