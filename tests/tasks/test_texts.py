"""Rows of texts and pairs: from tables, plain text and Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from bertsmith.errors import InputError
from bertsmith.tasks.task import Source
from bertsmith.tasks.texts import TextRows, read_texts, text_inputs, text_notes, text_rows

COLUMNS = {"text": "text", "label": "label"}
PAIRS = {"text": "a", "text_b": "b", "label": "label"}


def csv_file(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_reads_columns_and_a_limit(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", "id,text,label\n1,좋아요,1\n2,NA, 0 \n3,나빠요,0\n")
    rows = read_texts(Source(path, COLUMNS, limit=2))
    assert rows.texts == ["좋아요", "NA"]
    assert rows.labels == ["1", "0"]
    assert rows.lines == [2, 3]


def test_reads_pairs(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.tsv", "b\tlabel\ta\n둘\t1\t하나\n")
    assert read_texts(Source(path, PAIRS)).texts == [("하나", "둘")]
    assert list(text_inputs(Source(path, PAIRS), {})) == [(2, ("하나", "둘"))]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\ngood,1\n  ,0\n", r"a\.csv:3: column 'text' is empty"),
        ("text,label\ngood,1\nbad,\n", r"a\.csv:3: column 'label' is empty"),
        ("text,lable\ngood,1\n", r"no column 'label'\. Did you mean 'lable'\? Columns: text, lable"),
        ("text,label\n", "no rows"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_texts(Source(csv_file(tmp_path / "a.csv", content), COLUMNS))


def test_an_empty_second_text(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", "a,b,label\nx,y,1\nx,,0\n")
    with pytest.raises(InputError, match=r"a\.csv:3: column 'b' is empty"):
        read_texts(Source(path, PAIRS))
    with pytest.raises(InputError, match=r"a\.csv:3: the text is empty"):
        list(text_inputs(Source(path, PAIRS), {}))


def test_plain_text_holds_no_pairs(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.txt", "one\ntwo\n")
    assert list(text_inputs(Source(path, COLUMNS), {})) == [(1, "one"), (2, "two")]
    with pytest.raises(InputError, match="is plain text; expected a table with the columns a, b"):
        list(text_inputs(Source(path, PAIRS), {}))


def test_python_inputs_fit_what_the_model_was_tuned_on() -> None:
    assert text_rows([(1, ("x", "y"))], {"columns": PAIRS}).texts == [("x", "y")]
    with pytest.raises(InputError, match="text 2 is one text, but the model was tuned on pairs"):
        text_rows([(1, ("x", "y")), (2, "x")], {"columns": PAIRS})
    with pytest.raises(InputError, match="text 1 is a pair, but the model was tuned on single texts"):
        text_rows([(1, ("x", "y"))], {"columns": COLUMNS})


def test_several_columns_make_one_text(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", "title,body,b,label\n제목, 본문 ,x,1\n,only body,y,0\nonly title,  ,z,0\n")
    columns = {"text": "title, body", "label": "label"}
    rows = read_texts(Source(path, columns))
    assert rows.texts == ["제목 본문", "only body", "only title"]
    assert list(text_inputs(Source(path, columns), {})) == list(zip(rows.lines, rows.texts, strict=True))
    pairs = read_texts(Source(path, {"text": "b", "text_b": "title,body", "label": "label"}))
    assert pairs.texts == [("x", "제목 본문"), ("y", "only body"), ("z", "only title")]
    plain = csv_file(tmp_path / "a.txt", "one\n")
    assert list(text_inputs(Source(plain, columns), {})) == [(1, "one")]


def test_several_columns_that_cannot_be_used(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", "title,body,label\nx,y,1\n ,,0\n")
    with pytest.raises(InputError, match=r"a\.csv:3: the columns 'title', 'body' are all empty"):
        read_texts(Source(path, {"text": "title,body", "label": "label"}))
    with pytest.raises(InputError, match=r"no column 'bdy'\. Did you mean 'body'"):
        read_texts(Source(path, {"text": "title,bdy", "label": "label"}))


def test_a_column_with_commas_in_its_own_name(tmp_path: Path) -> None:
    columns = {"text": "title,body", "label": "label"}
    whole = csv_file(tmp_path / "a.csv", '"title,body",title,body,label\nwhole,x,y,1\n')
    assert read_texts(Source(whole, columns)).texts == ["whole"]
    lines = csv_file(tmp_path / "a.jsonl", '{"title,body": "whole", "title": "x", "body": "y", "label": 1}\n')
    assert list(text_inputs(Source(lines, columns), {})) == [(1, "whole")]
    parts = csv_file(tmp_path / "b.jsonl", '{"title": "x", "body": null, "label": 1}\n')
    assert read_texts(Source(parts, columns)).texts == ["x"]
    with pytest.raises(InputError, match=r"b\.jsonl:1: has no field 'bdy'\. Did you mean 'body'\? Fields: title"):
        read_texts(Source(parts, columns | {"text": "title,bdy"}))


def test_rows_in_python_are_joined_as_those_of_files() -> None:
    facts = {"columns": {"text": "title,body", "label": "label"}}
    rows = text_rows([(1, {"title": " x ", "body": "y", "id": 7}), (2, {"title": "", "body": " z"})], facts)
    assert rows.texts == ["x y", " z"]
    pair = text_rows([(1, {"a": "x", "b": "y"})], {"columns": PAIRS})
    assert pair.texts == [("x", "y")]
    assert text_rows([(1, {"title,body": "w"})], facts).texts == ["w"]
    with pytest.raises(InputError, match=r"row 3 has no column 'body'\. Did you mean 'bdy'\? Columns: title, bdy"):
        text_rows([(3, {"title": "x", "bdy": "y"})], facts)
    with pytest.raises(InputError, match="text 1 is of type int"):
        text_rows([(1, {"title": "x", "body": 5})], facts)
    with pytest.raises(InputError, match="text 1 is an empty text"):
        text_rows([(1, {"title": " ", "body": ""})], facts)


def test_columns_that_look_like_others() -> None:
    class Whole:
        truncated = 0
        windows_of = ()

    def notes(texts: list[str], labels: list[str], names: int = 2) -> list[str]:
        rows = TextRows(list(texts), labels, list(range(len(texts))), Path("a.csv"), "label")
        return text_notes(rows, Whole(), {"labels": ["x"] * names, "columns": COLUMNS, "max_length": 9})

    numbers = [str(n) for n in range(60)]
    words = [f"text {n}" for n in range(60)]
    assert notes(words, ["x", "y"] * 30) == []
    assert "60 of 60 texts are numbers such as '0': is 'text' the column with the text" in notes(numbers, ["x"] * 60)[0]
    assert "60 of 60 rows have a label of their own, such as '0'" in notes(words, numbers)[0]
    assert notes(words, numbers, names=1) == []
    assert notes(numbers[:19], ["x"] * 19) == []
