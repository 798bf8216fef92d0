"""Reading SQuAD's JSON and tables of questions, and splitting them by article."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from bertsmith.errors import InputError
from bertsmith.tasks import qa
from bertsmith.tasks.qa_files import GoldAnswer, read_inputs, read_questions
from bertsmith.tasks.task import select_rows, split_rows

HARBOUR = "The harbour of Lund was built in 1871. Its lighthouse is older; it was built in 1820."
MARKET = "전주 시장은 1473년에 처음 열렸다. 지금은 매주 화요일에 열린다."


def asked(name: str, question: str, *answers: tuple[str, int], **more: Any) -> dict[str, Any]:
    found = [{"text": text, "answer_start": start} for text, start in answers]
    return {"id": name, "question": question, "answers": found} | more


def squad(*articles: tuple[str, str, list[dict[str, Any]]]) -> dict[str, Any]:
    data = [{"title": title, "paragraphs": [{"context": context, "qas": qas}]} for title, context, qas in articles]
    return {"version": "1.1", "data": data}


def written(path: Path, value: Any, **options: Any) -> Path:
    path.write_text(json.dumps(value, ensure_ascii=False), **{"encoding": "utf-8"} | options)
    return path


TWO = squad(
    ("Lund", HARBOUR, [asked("h1", "When was the harbour built?", ("1871", 33), ("in 1871", 30))]),
    ("전주", MARKET, [asked("m1", "언제 열리나?", ("매주 화요일", 26)), asked("m2", "처음은?", ("1473년", 7))]),
)


def test_reads_squad_of_version_1(tmp_path: Path) -> None:
    rows = read_questions(written(tmp_path / "a.json", TWO))
    assert rows.ids == ["h1", "m1", "m2"]
    assert rows.questions[0] == "When was the harbour built?"
    assert rows.contexts == [HARBOUR, MARKET, MARKET]
    assert rows.contexts[1] is rows.contexts[2]
    assert [(gold.text, gold.start) for gold in rows.answers[0]] == [("1871", 33), ("in 1871", 30)]
    assert rows.groups == ["Lund", "전주", "전주"]
    assert rows.lines == [1, 2, 3]
    assert rows.impossible == [False, False, False]
    assert (rows.warnings, rows.left_out, len(rows)) == ((), 0, 3)
    assert read_questions(tmp_path / "a.json", limit=2).ids == ["h1", "m1"]


def test_reads_squad_of_version_2(tmp_path: Path) -> None:
    qas = [
        asked("a", "Who built it?", is_impossible=True, plausible_answers=[{"text": "Lund", "answer_start": 15}]),
        asked("b", "What is older?", ("lighthouse", 43), is_impossible=False),
    ]
    rows = read_questions(written(tmp_path / "a.json", squad(("Lund", HARBOUR, qas))))
    assert rows.impossible == [True, False]
    assert rows.answers[0] == ()


@pytest.mark.parametrize(
    ("encoding", "form"), [("utf-8-sig", "\r\n"), ("cp949", "\n"), ("utf-16", "\n")], ids=["BOM", "cp949", "UTF-16"]
)
def test_encodings_of_json(tmp_path: Path, encoding: str, form: str) -> None:
    path = tmp_path / "a.json"
    text = json.dumps(TWO, ensure_ascii=False, indent=1).replace("\n", form)
    path.write_bytes(text.encode(encoding))
    assert read_questions(path).contexts[1] == MARKET
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert read_questions(tmp_path / "b.json.gz").contexts[1] == MARKET


def test_answers_that_are_not_at_their_offset(tmp_path: Path) -> None:
    qas = [
        asked("once", "?", ("lighthouse", 0)),
        asked("twice", "?", ("built", 3)),
        asked("never", "?", ("castle", 5)),
        asked("beyond", "?", ("castle", 9999), ("1820", -5)),
        asked("right", "?", ("built", 24)),
    ]
    rows = read_questions(written(tmp_path / "a.json", squad(("Lund", HARBOUR, qas))))
    assert rows.ids == ["once", "beyond", "right"]
    assert [golds[-1].start for golds in rows.answers] == [HARBOUR.index("lighthouse"), HARBOUR.index("1820"), 24]
    assert rows.answers[1][0] == GoldAnswer("castle", None)
    assert rows.left_out == 2
    moved, left_out = rows.warnings
    assert moved.startswith("2 of 6 answers in a.json were not at their offset")
    assert left_out.startswith("2 of 5 questions in a.json are left out")
    assert "twice ('built'), never ('castle')" in left_out
    with pytest.raises(InputError, match=r"1 of 1 questions in b\.json are left out.*: never \('castle'\)$"):
        read_questions(written(tmp_path / "b.json", squad(("Lund", HARBOUR, [qas[2]]))))


def test_a_warning_lists_five_questions(tmp_path: Path) -> None:
    qas = [asked(f"q{n}", "?", ("castle", 0)) for n in range(7)] + [asked("good", "?", ("1820", 80))]
    rows = read_questions(written(tmp_path / "a.json", squad(("Lund", HARBOUR, qas))))
    assert "7 of 8" in rows.warnings[0]
    assert rows.warnings[0].endswith("q4 ('castle'), ...")


def test_half_a_surrogate_pair_is_one_character(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    value = squad(("emoji", "a \ud83d b", [asked("a", "\ude00?", ("b", 4))]))
    path.write_text(json.dumps(value), encoding="ascii")
    rows = read_questions(path)
    assert (rows.contexts[0], rows.questions[0]) == ("a \ufffd b", "\ufffd?")
    assert rows.answers[0][0].start == 4


def test_a_gold_span_has_no_spaces_around_it(tmp_path: Path) -> None:
    qas = [asked("a", "?", (" 1871", 32)), asked("b", "?", ("older; ", 57))]
    rows = read_questions(written(tmp_path / "a.json", squad(("Lund", HARBOUR, qas))))
    assert [rows.contexts[n][slice(*rows.answers[n][0].span)] for n in range(2)] == ["1871", "older;"]
    assert rows.answers[0][0].text == " 1871"


def changed(*path: Any, **fields: Any) -> dict[str, Any]:
    """TWO with fields of one object changed; a value of ... takes the field away."""
    value = json.loads(json.dumps(TWO))
    target = value
    for step in path:
        target = target[step]
    target.update(fields)
    for name in [name for name, field in fields.items() if field is ...]:
        del target[name]
    return value


QA = ("data", 1, "paragraphs", 0, "qas", 1)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1], r"the file is an array; expected an object with 'data'"),
        ({"date": []}, r"the file has no 'data'; expected an array there\. Did you mean 'date'\? Fields: date"),
        ({"data": []}, r"holds no questions"),
        ({"data": {}}, r"data is an object; expected an array"),
        ({"data": [3]}, r"data\[0\] is a whole number; expected an object with 'paragraphs'"),
        (changed(*QA[:2], paragraphs=...), r"data\[1\] has no 'paragraphs'"),
        (changed(*QA[:4], context=" \n"), r"data\[1\]\.paragraphs\[0\]\.context is empty; expected a text"),
        (changed(*QA[:4], qas=None), r"data\[1\]\.paragraphs\[0\]\.qas is null; expected an array"),
        (changed(*QA, question=""), r"data\[1\]\.paragraphs\[0\]\.qas\[1\]\.question is empty"),
        (changed(*QA, question=5), r"qas\[1\]\.question is a whole number; expected text"),
        (changed(*QA, id=...), r"qas\[1\] has no 'id'; expected text there"),
        (changed(*QA, answers=...), r"qas\[1\] has no 'answers'"),
        (changed(*QA, answers=[]), r"qas\[1\]\.answers is empty; expected an answer, or is_impossible: true"),
        (changed(*QA, answers=["a"]), r"qas\[1\]\.answers\[0\] is text; expected an object with 'text'"),
        (changed(*QA, is_impossible=1), r"qas\[1\]\.is_impossible is a whole number; expected true or false"),
        (changed(*QA, is_impossible=True), r"qas\[1\] has answers, but is_impossible is true"),
        (changed(*QA, "answers", 0, answer_start=1.0), r"answers\[0\]\.answer_start is a number with a point"),
        (
            changed(*QA, "answers", 0, answer_start=True),
            r"answers\[0\]\.answer_start is true or false; expected a whole",
        ),
        (changed(*QA, "answers", 0, text=""), r"answers\[0\]\.text is empty"),
    ],
)
def test_json_that_cannot_be_used(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=r"a\.json: .*" + message):
        read_questions(written(tmp_path / "a.json", value))


def test_damaged_json(tmp_path: Path) -> None:
    whole = json.dumps(TWO, ensure_ascii=False, indent=1)
    path = tmp_path / "a.json"

    def refusal(content: bytes) -> str:
        path.write_bytes(content)
        with pytest.raises(InputError) as error:
            read_questions(path)
        return str(error.value)

    lines = whole.splitlines(keepends=True)
    assert ":5: is not JSON" in refusal("".join(lines[:5]).rstrip().encode())
    assert "cut off" in refusal("".join(lines[:5]).rstrip().encode())
    assert "Unterminated string" in refusal(whole[: whole.index("harbour") + 3].encode())
    inside = whole.encode().index("전주".encode()) + 1
    assert "ends inside a character; the file seems to be cut off" in refusal(whole.encode()[:inside])
    assert "is empty" in refusal(b"\n")
    assert "one object a line is jsonl" in refusal(b'{"a": 1}\n{"a": 2}\n')
    assert "cannot be read as JSON" in refusal(b'{"data": ' + b"9" * 5000 + b"}")
    assert "cannot be read as JSON" in refusal(b'{"data": ' + b"[" * 200_000)
    assert "is not JSON" in refusal(whole.replace('"id"', "id", 1).encode())
    assert "cut off" not in refusal(whole.replace('"id"', "id", 1).encode())
    path.unlink()
    with pytest.raises(InputError, match="cannot be read"):
        read_questions(path)


def test_every_cut_of_a_file_is_refused_or_read(tmp_path: Path) -> None:
    content = json.dumps(TWO, ensure_ascii=False).encode()
    path = tmp_path / "a.json"
    for size in range(0, len(content), 7):
        path.write_bytes(content[:size])
        with pytest.raises(InputError, match=r"a\.json"):
            read_questions(path)


TABLE = [
    {"question": "언제 열리나?", "context": MARKET, "answer": "매주 화요일", "start": "26", "key": "k1"},
    {"question": 'Who, "exactly"?', "context": HARBOUR, "answer": "", "start": "", "key": "k2"},
    {"question": "What is older?", "context": HARBOUR, "answer": "lighthouse", "start": "43.0", "key": "k3"},
]


def table(path: Path, rows: list[dict[str, str]] = TABLE, encoding: str = "utf-8") -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding=encoding)
    elif path.suffix == ".parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", encoding=encoding, newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="," if path.suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_reads_tables(tmp_path: Path, ending: str) -> None:
    rows = read_questions(table(tmp_path / f"a.{ending}"), {"start": "start", "id": "key"})
    assert rows.ids == ["k1", "k2", "k3"]
    assert rows.questions[1] == 'Who, "exactly"?'
    assert [[(gold.text, gold.start) for gold in golds] for golds in rows.answers] == [
        [("매주 화요일", 26)],
        [],
        [("lighthouse", 43)],
    ]
    assert rows.groups == [MARKET, HARBOUR, HARBOUR]
    assert rows.contexts[1] is rows.contexts[2]
    first = 1 if ending in ("jsonl", "parquet") else 2
    assert rows.lines == [first, first + 1, first + 2]
    assert rows.warnings == ()
    inputs = list(read_inputs(tmp_path / f"a.{ending}"))
    assert inputs[2] == (first + 2, ("What is older?", HARBOUR))


def test_tables_in_the_encodings_of_korean_offices(tmp_path: Path) -> None:
    for encoding in ("utf-8-sig", "cp949"):
        rows = read_questions(table(tmp_path / "a.csv", encoding=encoding), {"start": "start"})
        assert rows.contexts[0] == MARKET
        assert rows.ids[0] == "2"


def test_without_offsets_answers_are_looked_for(tmp_path: Path) -> None:
    rows = [{"q": "?", "c": HARBOUR, "a": answer} for answer in ("1820", "built", "")]
    found = read_questions(table(tmp_path / "a.csv", rows), {"question": "q", "context": "c", "answer": "a"})
    assert [[gold.start for gold in golds] for golds in found.answers] == [[HARBOUR.index("1820")], []]
    assert len(found.warnings) == 1
    assert "1 of 3 questions in a.csv are left out" in found.warnings[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": " "}, r"a\.csv:3: column 'question' is empty; expected a text"),
        ({"context": ""}, r"a\.csv:3: column 'context' is empty"),
        ({"answer": "x", "start": "4.5"}, r"a\.csv:3: column 'start' is '4\.5'; expected the offset"),
        ({"answer": "x", "start": "nan"}, r"a\.csv:3: column 'start' is 'nan'"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, change: dict[str, str], message: str) -> None:
    rows = [TABLE[0], TABLE[1] | change, TABLE[2]]
    with pytest.raises(InputError, match=message):
        read_questions(table(tmp_path / "a.csv", rows), {"start": "start"})


def test_columns_and_names_that_are_wrong(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv")
    with pytest.raises(InputError, match=r"no column 'begin'.* Columns: question, context, answer, start, key"):
        read_questions(path, {"start": "begin"})
    with pytest.raises(InputError, match=r"a\.xlsx: the name does not say .* expected \.json"):
        read_questions(tmp_path / "a.xlsx")


def test_inputs_need_no_answers(tmp_path: Path) -> None:
    value = {"data": [{"paragraphs": [{"context": MARKET, "qas": [{"question": "언제?"}, {"question": "어디?"}]}]}]}
    path = written(tmp_path / "a.json", value)
    assert list(read_inputs(path)) == [(1, ("언제?", MARKET)), (2, ("어디?", MARKET))]
    with pytest.raises(InputError, match=r"qas\[0\] has no 'answers'"):
        read_questions(path)


def test_a_split_keeps_articles_whole(tmp_path: Path) -> None:
    articles = [
        (f"article {n}", f"{HARBOUR} {n}", [asked(f"{n}-{k}", "?", ("1820", 80)) for k in range(n % 4 + 1)])
        for n in range(23)
    ]
    rows = read_questions(written(tmp_path / "a.json", squad(*articles)))
    train, dev = split_rows(qa.TASK, rows, 0.3, seed=5)
    assert not set(train.groups) & set(dev.groups)
    assert sorted(train.ids + dev.ids) == sorted(rows.ids)
    assert 0.3 * len(rows) <= len(dev) < 0.3 * len(rows) + 4
    assert split_rows(qa.TASK, rows, 0.3, seed=5)[1] == dev
    assert split_rows(qa.TASK, rows, 0.3, seed=6)[1].ids != dev.ids
    backwards = select_rows(rows, range(len(rows))[::-1])
    assert sorted(split_rows(qa.TASK, backwards, 0.3, seed=5)[1].ids) == sorted(dev.ids)
    for share in (0.001, 0.999):
        assert all(map(len, split_rows(qa.TASK, rows, share, seed=5)))


def test_a_split_that_cannot_be_made(tmp_path: Path) -> None:
    rows = read_questions(written(tmp_path / "a.json", TWO))
    with pytest.raises(InputError, match="one article"):
        split_rows(qa.TASK, select_rows(rows, [1, 2]), 0.5, seed=0)
    for share in (0, 1, -0.5):
        with pytest.raises(InputError, match="between 0 and 1"):
            split_rows(qa.TASK, rows, share, seed=0)
