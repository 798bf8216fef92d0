"""What people's files have, through the tasks that read them: used as it was meant, or refused with the place named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from bertsmith.errors import InputError
from bertsmith.task_config import ClassifySettings, MultilabelSettings
from bertsmith.tasks import choose, classify, multilabel, qa, regress, tag
from bertsmith.tasks.task import Source

COLUMNS = {"text": "text", "label": "label"}
QA_COLUMNS = {"question": "question", "context": "context", "answer": "answer"}
SETTINGS = {"model": "m", "train": "a", "output": "o"}
NOT_NUMBERS = ["NA", "null", "nan", "None", "N/A", "NULL"]


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def test_rows_with_too_many_cells_name_their_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text,label\n"two\nlines",x\ngood, really,y\n')
    for task in (classify.TASK, multilabel.TASK, regress.TASK):
        with pytest.raises(InputError, match=r"a\.csv:4: row has 3 cells, expected 2 as in the header \(text, label\)"):
            task.read(Source(path, COLUMNS))


def test_quotes_that_are_characters(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text,label\n5" disk,x\n"open,x\nclosed",y\n"again,x\n')
    with pytest.raises(InputError, match=r"a\.csv:5: a quote opens .*--quoting none"):
        classify.TASK.read(Source(path, COLUMNS))
    rows = classify.TASK.read(Source(path, COLUMNS, quoting="none"))
    assert (rows.texts, rows.labels) == (['5" disk', '"open', 'closed"', '"again'], ["x", "x", "y", "x"])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "cp949", "utf-16"])
def test_marks_and_encodings_of_offices(tmp_path: Path, encoding: str) -> None:
    table = write(tmp_path / "a.csv", "text,label\r\n배송이 늦어요,나쁨\r\n좋은 영화입니다,좋음\r\n", encoding)
    assert classify.TASK.read(Source(table, COLUMNS)).labels == ["나쁨", "좋음"]
    lines = write(tmp_path / "a.jsonl", '{"text": "배송이 늦어요 정말로", "label": "나쁨"}\r\n', encoding)
    assert classify.TASK.read(Source(lines, COLUMNS)).texts == ["배송이 늦어요 정말로"]
    spans = write(tmp_path / "b.jsonl", '{"text": "서울에 갔습니다", "spans": [[0, 2, "지명"]]}\r\n', encoding)
    assert tag.TASK.read(Source(spans)).tags[0][:3] == ["B-지명", "I-지명", "O"]
    endings = write(tmp_path / "c.csv", "context,p,q,label\r\n그는,집에 갔다,밥을 먹었다,밥을 먹었다\r\n", encoding)
    columns = {"context": "context", "endings": "p,q", "label": "label"}
    assert choose.TASK.read(Source(endings, columns)).gold == [1]


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet", "csv.gz"])
def test_words_that_other_programs_take_for_nothing(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    if ending == "jsonl":
        write(path, "".join(json.dumps({"text": word, "label": word}) + "\n" for word in NOT_NUMBERS))
    elif ending == "parquet":
        parquet.write_table(pa.table({"text": NOT_NUMBERS, "label": NOT_NUMBERS}), path)
    else:
        between = "\t" if ending == "tsv" else ","
        content = "".join(f"{word}{between}{word}\n" for word in ["text", *NOT_NUMBERS]).replace("text\n", "label\n", 1)
        path.write_bytes(gzip.compress(content.encode()) if ending == "csv.gz" else content.encode())
    rows = classify.TASK.read(Source(path, COLUMNS))
    assert (rows.texts, rows.labels) == (NOT_NUMBERS, NOT_NUMBERS)
    facts = classify.TASK.facts(rows, rows, ClassifySettings.parse(SETTINGS))
    assert facts["labels"] == sorted(NOT_NUMBERS)
    with pytest.raises(InputError, match=r"column 'label' is 'NA'; expected a number"):
        regress.TASK.facts(rows, rows, None)


def test_an_answer_that_other_programs_take_for_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "question,context,answer\nwhich?,it says NA here,NA\nwhich?,it says so,\n")
    rows = qa.TASK.read(Source(path, QA_COLUMNS))
    assert [[(gold.text, gold.start) for gold in golds] for golds in rows.answers] == [[("NA", 8)], []]


def test_answers_of_tables_that_are_not_at_their_offset(tmp_path: Path) -> None:
    content = "question,context,answer,at\na?,one two three,three,2\nb?,one two one,one,3\nc?,one two,four,0\n"
    rows = qa.TASK.read(Source(write(tmp_path / "a.csv", content), QA_COLUMNS | {"start": "at"}))
    assert [golds[0].start for golds in rows.answers] == [8]
    assert "1 of 3 answers in a.csv were not at their offset" in rows.warnings[0]
    assert "2 of 3 questions in a.csv are left out" in rows.warnings[1]
    assert "('one')" in rows.warnings[1]
    assert "('four')" in rows.warnings[1]


@pytest.mark.parametrize("cut", range(2, 40, 3))
def test_json_lines_that_are_cut_off(tmp_path: Path, cut: int) -> None:
    line = json.dumps({"text": "배송이 늦어요", "label": "나쁨"}, ensure_ascii=False)
    path = tmp_path / "a.jsonl"
    path.write_bytes((line + "\n").encode() * 3 + line.encode()[:cut])
    with pytest.raises(InputError, match=r"a\.jsonl:4: (is not JSON: |byte 0xe. at offset)"):
        classify.TASK.read(Source(path, COLUMNS))


def test_numbers_given_as_labels_are_names(tmp_path: Path) -> None:
    table = write(tmp_path / "a.csv", "text,label\na,1\nb,01\nc,1.0\nd,10\ne,2\n")
    rows = classify.TASK.read(Source(table, COLUMNS))
    names = classify.TASK.facts(rows, rows, ClassifySettings.parse(SETTINGS))["labels"]
    assert sorted(names) == sorted(["1", "01", "1.0", "10", "2"])
    assert names[-2:] == ["2", "10"]
    lines = write(tmp_path / "a.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": 1.0}\n')
    assert classify.TASK.read(Source(lines, COLUMNS)).labels == ["1", "1.0"]
    several = write(tmp_path / "b.csv", "text,label\na,1|01\nb,2\n")
    rows = multilabel.TASK.read(Source(several, COLUMNS))
    assert multilabel.TASK.facts(rows, rows, MultilabelSettings.parse(SETTINGS))["labels"] == ["01", "1", "2"]


@pytest.mark.parametrize("space", [" ", "\u3000", "\u00a0", "\t "])
def test_a_text_of_one_space(tmp_path: Path, space: str) -> None:
    path = write(tmp_path / "a.csv", f"text,label\nfine,1\n{space},0\n")
    for task in (classify.TASK, multilabel.TASK, regress.TASK):
        with pytest.raises(InputError, match=r"a\.csv:3: column 'text' is empty; expected a text"):
            task.read(Source(path, COLUMNS))
        with pytest.raises(InputError, match="text 1 is an empty text"):
            task.rows([(1, space)], {"columns": COLUMNS})
    with pytest.raises(InputError, match="text 1 is an empty text"):
        tag.TASK.rows([(1, space)], {"unit": "character"})
    plain = write(tmp_path / "a.txt", f"fine\n{space}\n")
    with pytest.raises(InputError, match=r"a\.txt:2: the text is empty"):
        list(tag.TASK.inputs(Source(plain, COLUMNS), {"unit": "word"}))


def test_swapped_columns(tmp_path: Path) -> None:
    several = "".join(f"{('x', 'y|x')[n % 2]},a text of its own {n}\n" for n in range(24))
    rows = multilabel.TASK.read(Source(write(tmp_path / "a.csv", "text,label\n" + several), COLUMNS))
    with pytest.raises(InputError, match=r"24 of 24 rows have a label of their own .* columns swapped\?"):
        multilabel.TASK.facts(rows, rows, MultilabelSettings.parse(SETTINGS))
    numbers = write(tmp_path / "b.csv", "text,label\n1.5,good\n2,bad\n")
    with pytest.raises(InputError, match=r"b\.csv:2: column 'label' is 'good'; .* columns swapped\?"):
        regress.TASK.facts(regress.TASK.read(Source(numbers, COLUMNS)), None, None)


def test_overlapping_spans_and_their_line(tmp_path: Path) -> None:
    fine = {"text": "서울에 갔다", "spans": [{"start": 0, "end": 2, "label": "LC"}]}
    bad = fine | {"spans": [{"start": 0, "end": 3, "label": "LC"}, {"start": 2, "end": 4, "label": "X"}]}
    path = write(tmp_path / "a.jsonl", "\n".join(json.dumps(row, ensure_ascii=False) for row in (fine, bad)))
    with pytest.raises(InputError, match=r"a\.jsonl:2: the spans \(0, 3, LC\) and \(2, 4, X\) overlap"):
        tag.TASK.read(Source(path))
