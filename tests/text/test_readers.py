from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from bertsmith.config import CorpusSettings
from bertsmith.errors import InputError
from bertsmith.text import readers
from bertsmith.text.readers import ReadReport, find_files, read_documents, require_documents

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "raw"


def settings(**values: object) -> CorpusSettings:
    return CorpusSettings.parse(values)


def read(path: Path, **values: object) -> tuple[list[tuple[int, str]], ReadReport]:
    report = ReadReport()
    documents = list(read_documents(path, settings(**values), report))
    assert all(d.source == str(path) for d in documents)
    assert report.documents == len(documents)
    return [(d.line, d.text) for d in documents], report


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


# Which files.


def test_folders_are_walked_in_order_without_hidden_or_unknown_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.jsonl", "a/b/c.csv.gz", "a.txt", ".hidden.txt", ".git/x.txt", "readme.md", "a/x.png"):
        write(tmp_path / name, "text")
    report = ReadReport()
    found = find_files([tmp_path], settings(), report)
    assert [str(p.relative_to(tmp_path)) for p in found] == ["a/b/c.csv.gz", "a/z.jsonl", "a.txt", "b.txt"]
    assert report.skipped_files == {".md": 1, ".png": 1}
    assert report.warnings() == ["2 file(s) skipped for their name's ending: .md (1), .png (1)"]


def test_a_set_format_takes_unknown_endings_but_not_other_formats(tmp_path: Path) -> None:
    for name in ("a.log", "b.txt", "c.csv"):
        write(tmp_path / name, "text")
    assert [p.name for p in find_files([tmp_path], settings(format="txt"))] == ["a.log", "b.txt"]


def test_patterns_match_files_and_folders_and_nothing_comes_twice(tmp_path: Path) -> None:
    for name in ("x1/a.txt", "x2/b.txt", "x1.txt", "y.txt"):
        write(tmp_path / name, "text")
    found = find_files([tmp_path / "x*", tmp_path / "x1.txt", str(tmp_path / "**" / "b.txt")], settings())
    assert [str(p.relative_to(tmp_path)) for p in found] == ["x1/a.txt", "x1.txt", "x2/b.txt"]


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    write(tmp_path / "a" / "a.txt", "text")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert len(find_files([tmp_path], settings())) == 1


@pytest.mark.parametrize("name", ["none.txt", "*.csv", "only_unknown"])
def test_nothing_to_read_is_an_error(tmp_path: Path, name: str) -> None:
    write(tmp_path / "only_unknown" / "a.bin", "text")
    with pytest.raises(InputError, match=r"no such file|no file to read"):
        find_files([tmp_path / name], settings())


def test_an_empty_corpus_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "")
    write(tmp_path / "b.txt", "")
    with pytest.raises(InputError, match="corpus is empty"):
        find_files([tmp_path], settings())
    blank = write(tmp_path / "c.txt", " \n\n")
    assert len(find_files([tmp_path], settings())) == 3
    documents, report = read(blank)
    assert documents == []
    with pytest.raises(InputError, match="corpus is empty"):
        require_documents(report, [tmp_path])


# What a document is.


BLOCKS = "One a.\nOne b.\n\n\nTwo a.\nTwo b.\nTwo c.\n \nThree a.\nThree b.\n"


def test_blocks_of_several_lines_are_documents(tmp_path: Path) -> None:
    documents, report = read(write(tmp_path / "a.txt", BLOCKS))
    assert documents == [(1, "One a.\nOne b."), (5, "Two a.\nTwo b.\nTwo c."), (9, "Three a.\nThree b.")]
    assert list(report.document_rules.values()) == ["blank-line"]


def test_single_lines_between_blank_ones_are_paragraphs_of_one_document(tmp_path: Path) -> None:
    documents, report = read(write(tmp_path / "a.txt", "\nTitle\n\nFirst. Long.\n\nSecond.\n"))
    assert documents == [(2, "Title\nFirst. Long.\nSecond.")]
    assert list(report.document_rules.values()) == ["file"]


def test_the_rule_can_be_set(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", BLOCKS)
    assert len(read(path, documents="file")[0]) == 1
    assert read(path, documents="line")[0][2] == (5, "Two a.")
    assert len(read(write(path, "A.\n\nB.\n"), documents="blank-line")[0]) == 2


def test_line_ends_and_odd_characters_follow_one_rule(tmp_path: Path) -> None:
    text = "\ufeffOne\x00 a.\r\nOne\u2028b.\r\rTwo\x07 a.\nTwo\ufeff b.\n\f\nThree.\nFour."
    documents, report = read(write(tmp_path / "a.txt", text))
    assert documents == [(1, "One a.\nOne\nb."), (4, "Two a.\nTwo b."), (7, "Three.\nFour.")]
    assert (report.removed.control_characters, report.removed.line_breaks) == (3, 2)
    assert any("3 control" in warning for warning in report.warnings())


def test_long_lines_and_documents_are_cut_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MAX_LINE", 40)
    monkeypatch.setattr(readers, "MAX_DOCUMENT", 100)
    path = write(tmp_path / "a.txt", "word " * 60 + "\nend\n\nnext doc\nline\n")
    documents, report = read(path, documents="blank-line")
    assert " ".join(" ".join(text for _, text in documents).split()) == "word " * 60 + "end next doc line"
    assert all(len(text) <= 100 for _, text in documents)
    assert (report.cut_lines, report.cut_documents) == (7, 3)
    rows = write(tmp_path / "a.jsonl", json.dumps({"text": "word " * 60}) + "\n")
    documents, report = read(rows)
    assert (len(documents), report.cut_lines, report.cut_documents) == (4, 7, 3)


def test_a_huge_line_does_not_fill_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(60):
            file.write(b"words and " * 100_000)
    tracemalloc.start()
    characters = sum(len(d.text) for d in read_documents(path, settings(), ReadReport()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert characters > 59e6
    assert peak < 40e6


# Hard-wrapped lines.


PARAGRAPH = (
    "It was a long and rather well-known story that the old man told us on that evening, and none of us who sat "
    "there by the fire had ever heard it from anyone before. He began it slowly, as old men do, and he looked at "
    "no one while he spoke. Outside the rain had stopped."
)


def wrap(text: str, width: int) -> str:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def test_wrapped_lines_are_joined_to_paragraphs(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", f"CHAPTER I\n\n{wrap(PARAGRAPH, 64)}\n\n{wrap(PARAGRAPH, 64)}\n")
    documents, report = read(path)
    assert documents == [(1, f"CHAPTER I\n{PARAGRAPH}\n{PARAGRAPH}")]
    assert report.wrapped_files == [str(path)]
    assert report.choices()[-1].startswith("hard-wrapped lines joined")


def test_indented_lines_begin_paragraphs(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "".join(f"   {wrap(PARAGRAPH, 61)}\n" for _ in range(3)))
    assert read(path)[0] == [(1, "\n".join([PARAGRAPH] * 3))]


def test_a_hyphen_at_a_line_end_stays_and_a_soft_one_goes(tmp_path: Path) -> None:
    lines = wrap(PARAGRAPH, 64).split("\n")
    text = "\n".join([*lines[:-1], "and this was a thing that every child in the town called well-", "known to all"])
    text += " but nobody in the whole of that country was ever exam\u00ad\nined about it by the men of the law."
    (document,), _ = read(write(tmp_path / "a.txt", text))
    assert "called well-known to all" in document[1]
    assert "ever examined about" in document[1]


def test_sentences_one_a_line_are_never_joined(tmp_path: Path) -> None:
    korean = "비가 왔다.\n그래서 우리는 집에 남아서 오래된 영화를 두 편이나 보았다.\n재미있었다.\n" * 10
    poem = "The rain is on the roof\nAnd no one is at home\nThe cat sits by the door\n" * 10
    numbers = "".join(f"This is sentence number {i} of all of them, and it ends here.\n" for i in range(10, 40))
    for text in (korean, poem, numbers):
        documents, report = read(write(tmp_path / "a.txt", text))
        assert documents == [(1, text.strip())]
        assert not report.wrapped_files


@pytest.mark.skipif(
    not REAL.is_dir(),
    reason="tries the rules of the tests above on published novels and corpora, which are not part of the repository",
)
def test_real_files_get_the_right_rule() -> None:
    report = ReadReport()
    for path in find_files([REAL], settings(), report):
        next(read_documents(path, settings(), report))
    for path, rule in report.document_rules.items():
        assert rule == ("file" if "en_novels" in path else "blank-line"), path
    assert not report.wrapped_files


# Rows.


def test_rows_are_documents(tmp_path: Path) -> None:
    expected = [(2, "One.\nMore."), (4, "Two, again.")]
    csv = write(tmp_path / "a.csv", 'id,text\n1,"One.\r\nMore."\n2,"Two, again."\n3,\n')
    documents, report = read(csv)
    assert documents == expected
    assert report.empty_rows == 1
    rows = [{"text": "One.\u2028More.", "meta": {"a": [1]}}, {"text": None}, {"text": "Two\u0000, again."}]
    documents, report = read(write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows)))
    assert documents == [(1, "One.\nMore."), (3, "Two, again.")]
    assert (report.empty_rows, report.removed.control_characters) == (1, 1)
    table = pa.table({"body": ["One.\nMore.", None, "Two, again."], "vector": [[1.0], [2.0], None]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", field="body")[0] == [(1, "One.\nMore."), (3, "Two, again.")]


def test_a_missing_field_is_answered_with_those_there_are(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"texts": ["a"]}), tmp_path / "a.parquet")
    write(tmp_path / "a.csv", "id,texts\n1,a\n")
    write(tmp_path / "a.jsonl", '{"texts": "a"}\n')
    for name in ("a.parquet", "a.csv", "a.jsonl"):
        with pytest.raises(InputError, match=r"no (column|field) 'text'. Did you mean 'texts'"):
            read(tmp_path / name)


def test_a_json_file_must_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", '{"text": "One."}\n')
    with pytest.raises(InputError, match="--format jsonl"):
        read(path)
    assert read(path, format="jsonl")[0] == [(1, "One.")]


def test_reports_merge(tmp_path: Path) -> None:
    one = read(write(tmp_path / "a.txt", "One\x00."))[1]
    two = read(write(tmp_path / "b.csv", "text\nTwo\x01.\n"))[1]
    two.skipped_files = {".md": 2}
    one.merge(two)
    assert (one.documents, one.removed.control_characters, one.skipped_files) == (2, 2, {".md": 2})
    assert len(one.encodings) == 2
