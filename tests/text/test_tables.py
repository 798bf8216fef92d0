from __future__ import annotations

import datetime
import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from bertsmith.errors import InputError
from bertsmith.text.tables import Table, column, open_records, read_lines, read_table, tsv_is_quoted


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def cells(table: Table) -> list[list[str]]:
    return [[row[name] for name in table.columns] for row in table.rows]


def test_csv_cells_are_text_as_written(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "\ufefftext,label\r\nNA,1.50\r\nnull,007\r\n\r\n,True\r\n")
    table = read_table(path)
    assert table.columns == ["text", "label"]
    assert cells(table) == [["NA", "1.50"], ["null", "007"], ["", "True"]]
    assert table.lines == [2, 3, 5]
    assert table.encoding == "utf-8"
    assert column(table, "label") == ["1.50", "007", "True"]


def test_quotes_in_csv_enclose_cells_and_lines_stay_physical(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text,label\n"a, ""b""\r\nc",x\n5" disk,y\n')
    table = read_table(path)
    assert cells(table) == [['a, "b"\nc', "x"], ['5" disk', "y"]]
    assert table.lines == [2, 4]


def test_cells_keep_odd_characters(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,label\na\u2028b\x00\ufeff,x\n")
    assert cells(read_table(path)) == [["a\u2028b\x00\ufeff", "x"]]


def test_encodings(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "text\tlabel\r\n좋은 영화입니다\t1\r\n", "cp949")
    table = read_table(path)
    assert (table.encoding, cells(table)) == ("cp949", [["좋은 영화입니다", "1"]])
    path = write(tmp_path / "b.tsv", "text\tlabel\nCafé noir\t1\n", "latin-1")
    with pytest.raises(InputError, match=r"offset 14 .*--encoding"):
        read_table(path)
    assert read_table(path, encoding="latin-1").rows[0]["text"] == "Café noir"


def test_compressed_tables(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"text,label\na,b\n"))
    assert cells(read_table(path)) == [["a", "b"]]
    parquet.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    packed = tmp_path / "b.parquet.gz"
    packed.write_bytes(gzip.compress((tmp_path / "a.parquet").read_bytes()))
    assert cells(read_table(packed)) == [["a"]]


# Quotes in tsv.


def test_stray_quotes_in_tsv_are_characters(tmp_path: Path) -> None:
    text = 'text\tlabel\n"Mom, I am here."\t1\n"Go" he said\t0\nhe said "go\t1\n"open\t0\n'
    table = read_table(write(tmp_path / "a.tsv", text))
    assert column(table, "text") == ['"Mom, I am here."', '"Go" he said', 'he said "go', '"open']


def test_tsv_quoted_by_a_program_is_unquoted(tmp_path: Path) -> None:
    needed = 'text\tlabel\n"He said ""go"""\t1\nplain "word" here\t0\n"two\nlines"\t1\n'
    assert column(read_table(write(tmp_path / "a.tsv", needed)), "text") == [
        'He said "go"',
        'plain "word" here',
        "two\nlines",
    ]
    everything = '"text"\t"label"\n"a"\t"1"\n"b"\t"0"\n'
    assert cells(read_table(write(tmp_path / "b.tsv", everything))) == [["a", "1"], ["b", "0"]]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["a\tb", "c\td"], False),
        (["a\tb", '"c"\td'], False),
        (["a\tb", '"c ""d"""\te'], True),
        (["a\tb", '"c ""d"""\te', '"f"\tg'], False),
        (["a\tb", '"c\td', 'e"\tf'], False),
        (["a\tb", '"c ""d"""\te', '"open\tg'], False),
        ([], False),
    ],
)
def test_whether_a_tsv_is_quoted(lines: list[str], expected: bool) -> None:
    assert tsv_is_quoted(lines) is expected


def test_quoting_none(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text,label\n"open,1\nclosed",0\n')
    assert column(read_table(path, quoting="none"), "text") == ['"open', 'closed"']


# Errors.


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("text,label\na,1\nb\n", 3, r"row has 1 cells, expected 2 .*\(text, label\)"),
        ("text,label\na,1,2\n", 2, "row has 3 cells, expected 2"),
        ('text,label\na,1\nb,"open\nc,2\nd,3\n', 3, "never closed.*--quoting none"),
        ('text,label\n"a\nb","c\nd,2\n', 3, "never closed"),
        ('text,label\n"a" b,1\n', 2, "closes before the end of its cell"),
        ('text,label\n"a\nb,1\nc,"d"\n', 2, "closes before the end of its cell"),
        ("text,,label\na,b,c\n", 1, "column 2 of the header has no name.*index=False"),
        ("text,text\na,b\n", 1, "'text' more than once"),
    ],
)
def test_csv_errors_name_the_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read_table(write(tmp_path / "a.csv", text))
    assert error.value.line == line


@pytest.mark.parametrize(("text", "message"), [("", "is empty"), ("text,label\n", "a header .* but no rows")])
def test_tables_without_rows(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_table(write(tmp_path / "a.csv", text))


def test_a_missing_column_lists_columns_and_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "sentence,label\na,b\n")
    expected = r"no column 'sentense'. Did you mean 'sentence'\? Columns: sentence, label"
    with pytest.raises(InputError, match=expected):
        column(read_table(path), "sentense")
    with pytest.raises(InputError, match=expected):
        read_table(path, only=["sentense"])


def test_an_ending_that_says_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.data", "text\na\n")
    with pytest.raises(InputError, match="kind of table"):
        read_table(path)
    assert cells(read_table(path, format="csv")) == [["a"]]


def test_long_cells_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", f'text,label\n"{"word " * 50_000}",1\n')
    assert len(read_table(path).rows[0]["text"]) == 250_000


# jsonl.


def test_jsonl_values_become_text_as_written(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "a", "n": 1.50}\n\n{"n": null, "flag": true}\n{"text": "\\ud83d!"}\n')
    table = read_table(path)
    assert table.columns == ["text", "n", "flag"]
    assert cells(table) == [["a", "1.50", ""], ["", "", "true"], ["\ufffd!", "", ""]]
    assert table.lines == [1, 3, 4]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a"', "is not JSON"),
        ('["a"]', "holds a JSON list"),
        ('{"text": ["a"]}', "'text' holds a JSON list, expected text"),
        ('{"text": {"a": 1}}', "'text' holds a JSON dict"),
        ("[" * 100_000, "nested too deeply|is not JSON"),
    ],
)
def test_jsonl_errors_name_the_line(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        read_table(write(tmp_path / "a.jsonl", f'{{"text": "fine"}}\n{line}\n'))
    assert error.value.line == 2


def test_wanted_fields_only(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "a", "spans": [1, 2]}\n{"txt": "b"}\n')
    with pytest.raises(InputError, match=r"no field 'text'. Did you mean 'txt'\? Fields: txt") as error:
        read_table(path, only=["text"])
    assert error.value.line == 2


# Parquet.


def test_parquet_values_become_text(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    columns = {
        "text": pa.array(["a", None, "c"]).dictionary_encode(),
        "label": [1, 2, None],
        "flag": [True, False, None],
        "day": [datetime.date(2020, 1, 2), None, None],
        "vector": [[1], [2], [3]],
    }
    parquet.write_table(pa.table(columns), path)
    table = read_table(path, only=["text", "label", "flag", "day"])
    assert cells(table) == [["a", "1", "true", "2020-01-02"], ["", "2", "false", ""], ["c", "", "", ""]]
    assert table.lines == [1, 2, 3]
    with pytest.raises(InputError, match="column 'vector' holds list"):
        read_table(path)
    with pytest.raises(InputError, match="Did you mean 'text'"):
        read_table(path, only=["tekst"])


def test_damaged_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": ["a"] * 100}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        read_table(path)
    write(path, "just text")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        read_table(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "none.parquet")


# Lines.


def test_lines_are_texts_and_blank_ones_count(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "\ufeffone\r\n\ntwo\u2028x\nlast")
    expected = ["one", "", "two\u2028x", "last"]
    assert list(read_lines(path)) == expected
    assert list(read_lines(io.BytesIO(path.read_bytes()))) == expected


def test_lines_of_a_stream_come_as_they_arrive() -> None:
    class Slow(io.RawIOBase):
        parts = [b"on", b"e\ntwo\n", b"three", b""]  # noqa: RUF012
        served = 0

        def read1(self, size: int = -1) -> bytes:
            self.served += 1
            return self.parts[self.served - 1]

    stream = Slow()
    lines = read_lines(stream)  # type: ignore[arg-type]
    assert next(lines) == "one"
    assert stream.served == 2
    assert list(lines) == ["two", "three"]


def test_a_stream_that_is_not_utf8() -> None:
    with pytest.raises(InputError, match=r"standard input:2: byte 0xe9 at offset 7 .*--encoding"):
        list(read_lines(io.BytesIO(b"one\nCaf\xe9 \n")))
    assert list(read_lines(io.BytesIO("한국".encode("cp949")), encoding="cp949")) == ["한국"]


# What was written comes back.

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\x00\ufeff"), max_size=12)


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5))
def test_csv_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("t") / "a.csv"
    lines = ["text,label"] + [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in rows]
    path.write_bytes("\n".join(lines).encode())
    records = open_records(path, encoding="utf-8")
    assert [tuple(row.values()) for _, row in records.rows] == rows


@given(st.lists(TEXT, min_size=1, max_size=5))
def test_jsonl_round_trip(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("t") / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8")
    assert column(read_table(path, encoding="utf-8"), "text") == texts
