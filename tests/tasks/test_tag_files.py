"""Readers of tagged sentences: columns, CoNLL-U, a character a line, JSON spans."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertsmith.errors import InputError
from bertsmith.tasks.tag_files import TaggedRows, read_tagged, rows_from_texts

NEWS = """-DOCSTART- -X- O

Mina\tNNP\tB-PER
lives\tVBZ\tO
\t
New York\tNNP\tB-LOC
.\t.\tO

"""

UNIVERSAL = """# sent_id = 1
# text = I  don't, really!
1\tI\tI\tPRON\tPRP\t_\t3\tnsubj\t_\tSpacesAfter=\\s\\s
2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\tSpaceAfter=No
2\tdo\tdo\tAUX\tVBP\t_\t0\troot\t_\t_
3\tn't\tnot\tPART\tRB\t_\t2\tadvmod\t_\t_
4\t,\t,\tPUNCT\t,\t_\t2\tpunct\t_\t_
4.1\tknow\tknow\tVERB\tVB\t_\t_\t_\t_\t_
5\treally\treally\tADV\tRB\t_\t2\tadvmod\t_\tSpaceAfter=No
6\t!\t!\tPUNCT\t.\t_\t2\tpunct\t_\t_
"""

SYLLABLES = "## id-1\t<미나:PS>가 웃다\n미\tB-PS\n나\tI-PS\n가\tO\n \tO\n웃\tO\n다\tO\n\n## id-2\n#\tO\n1\tB-QT\n"


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def words(rows: TaggedRows) -> list[list[str]]:
    return [[text[a:b] for a, b in units] for text, units in zip(rows.texts, rows.units, strict=True)]


def test_columns(tmp_path: Path) -> None:
    rows = read_tagged(write(tmp_path / "news.txt", NEWS))
    assert (rows.format, rows.unit, len(rows)) == ("conll", "word", 2)
    assert rows.texts == ["Mina lives", "New York ."]
    assert words(rows) == [["Mina", "lives"], ["New York", "."]]
    assert rows.tags == [["B-PER", "O"], ["B-LOC", "O"]]
    assert rows.unit_lines == [[3, 4], [6, 7]]
    assert rows.lines == [3, 6]
    assert rows.warnings == ()
    assert read_tagged(tmp_path / "news.txt", column="2").tags == [["NNP", "VBZ"], ["NNP", "."]]
    assert len(read_tagged(tmp_path / "news.txt", limit=1)) == 1


def test_columns_between_spaces_and_comments(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.bio",
        "# id one\nMina  _ B-PER\n#tag _ O \n   \n# domain = b\n# more of it\n# _ O\nruns _ O\n",
    )
    rows = read_tagged(path)
    assert words(rows) == [["Mina", "#tag"], ["#", "runs"]]
    assert rows.tags == [["B-PER", "O"], ["O", "O"]]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "cp949", "utf-16"])
def test_encodings_and_line_ends(tmp_path: Path, encoding: str) -> None:
    path = write(tmp_path / "a.tsv", "서울에\tB-LC\r\n간다\tO\r\n\r\n나는\tO\r\n", encoding)
    rows = read_tagged(path)
    assert rows.texts == ["서울에 간다", "나는"]
    assert rows.lines == [1, 4]
    assert read_tagged(path, encoding=encoding).tags == [["B-LC", "O"], ["O"]]


def test_compressed(tmp_path: Path) -> None:
    path = tmp_path / "a.conllu.gz"
    path.write_bytes(gzip.compress(UNIVERSAL.encode()))
    assert read_tagged(path).format == "conllu"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\tO\nb\n\nc\tO\n", r"a\.conll:2: 'b' has one column, expected 2"),
        ("a\tx\tO\nb\tx\tO\nc\tO\n", r"a\.conll:3: 'c' has 2 columns, expected 3"),
        ("a\tO\nb\t \nc\tO\n", r"a\.conll:2: 'b' has one column"),
        ("a\tO\n\tO\n", r"a\.conll:2: the word is missing"),
        ("a\t \tO\nb\t\tO\n", r"a\.conll:1: the tag is missing"),
        ("a\nb\n", "has one column; expected a word and its tag"),
        ("\n \n\t\n", r"holds no sentences \(read as conll\)"),
        ("", r"holds no sentences"),
    ],
)
def test_columns_that_cannot_be_used(tmp_path: Path, content: str, message: str) -> None:
    column = "2" if "\t \tO" in content else None
    with pytest.raises(InputError, match=message):
        read_tagged(write(tmp_path / "a.conll", content), column=column)


@pytest.mark.parametrize("column", ["1", "4", "ner", "²"])
def test_a_column_that_is_not_there(tmp_path: Path, column: str) -> None:
    with pytest.raises(InputError, match=f"no tag column '{column}'; expected a number from 2 to 3"):
        read_tagged(write(tmp_path / "a.conll", NEWS), column=column)


def test_universal_dependencies(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", UNIVERSAL)
    rows = read_tagged(path)
    assert (rows.format, rows.unit) == ("conllu", "word")
    assert rows.texts == ["I  don't, really!"]
    assert words(rows) == [["I", "do", "n't", ",", "really", "!"]]
    assert rows.tags == [["PRON", "AUX", "PART", "PUNCT", "ADV", "PUNCT"]]
    assert rows.unit_lines == [[3, 5, 6, 7, 9, 10]]
    assert rows.warnings == ()
    assert read_tagged(path, column="xpos").tags == [["PRP", "VBP", "RB", ",", "RB", "."]]


def test_texts_are_made_of_words_where_there_is_none(tmp_path: Path) -> None:
    bare = "".join(line + "\n" for line in UNIVERSAL.splitlines() if not line.startswith("#"))
    rows = read_tagged(write(tmp_path / "a.conllu", bare + "\n# only a comment\n"))
    assert rows.texts == ["I don't, really!"]
    assert words(rows) == [["I", "do", "n't", ",", "really", "!"]]
    assert rows.warnings == ()


def test_a_text_that_goes_on_after_its_words(tmp_path: Path) -> None:
    rows = read_tagged(write(tmp_path / "a.conllu", UNIVERSAL.replace("really!", "really!?")))
    assert rows.texts == ["I don't, really!"]
    assert len(rows.warnings) == 1


def test_parts_that_are_not_in_the_surface(tmp_path: Path) -> None:
    line = "{}\t{}\t_\t{}\t_\t_\t_\t_\t_\t{}\n"
    content = "# text = l'eau du lac.\n" + "".join(
        line.format(*cells)
        for cells in [
            ("1", "l'", "DET", "SpaceAfter=No"),
            ("2", "eau", "NOUN", "_"),
            ("3-4", "du", "_", "_"),
            ("3", "de", "ADP", "_"),
            ("4", "le", "DET", "_"),
            ("5", "lac", "NOUN", "Gloss=lake|SpaceAfter=No"),
            ("6", ".", "PUNCT", "_"),
        ]
    )
    rows = read_tagged(write(tmp_path / "a.conllu", content))
    assert rows.texts == ["l'eau de le lac."]
    assert words(rows) == [["l'", "eau", "de", "le", "lac", "."]]
    assert "1 of 1 sentences" in rows.warnings[0]
    assert "line 2 is the first" in rows.warnings[0]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\tADV\t", "\t_\t", r"a\.conllu:9: the tag in column UPOS is missing \(5 \| really"),
        ("\tADV\t", "\t", r"a\.conllu:9: has 9 columns, expected the 10"),
        ("5\treally", "five\treally", r"a\.conllu:9: 'five' is no number of a word"),
    ],
)
def test_universal_dependencies_that_cannot_be_used(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_tagged(write(tmp_path / "a.conllu", UNIVERSAL.replace(old, new)))


def test_an_unknown_column_of_universal_dependencies(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'upo' is no tag column of CoNLL-U\. Did you mean 'UPOS'"):
        read_tagged(write(tmp_path / "a.conllu", UNIVERSAL), column="upo")


def test_a_character_a_line(tmp_path: Path) -> None:
    rows = read_tagged(write(tmp_path / "a.tsv", SYLLABLES))
    assert (rows.format, rows.unit) == ("characters", "character")
    assert rows.texts == ["미나가 웃다", "#1"]
    assert rows.units[1] == [(0, 1), (1, 2)]
    assert rows.tags[0] == ["B-PS", "I-PS", "O", "O", "O", "O"]
    assert rows.lines == [2, 10]


def test_comments_or_spaces_tell_characters_from_short_words(tmp_path: Path) -> None:
    assert read_tagged(write(tmp_path / "a.tsv", "## one\na\tO\nb\tO\n")).texts == ["ab"]
    assert read_tagged(write(tmp_path / "b.tsv", "a\tO\n \tO\nb\tO\n")).texts == ["a b"]
    assert read_tagged(write(tmp_path / "c.tsv", "a\tO\nb\tO\n")).texts == ["a b"]


def test_the_separator_can_be_a_character_too(tmp_path: Path) -> None:
    rows = read_tagged(write(tmp_path / "a.txt", "a O\n  O\nb O\n"))
    assert (rows.format, rows.texts) == ("characters", ["a b"])
    rows = read_tagged(write(tmp_path / "b.txt", "a\tO\n\t\tO\n \tO\nb\tO\n"))
    assert (rows.format, rows.texts) == ("characters", ["a\t b"])


def test_characters_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.tsv:3: '나' has one column, expected 2"):
        read_tagged(write(tmp_path / "a.tsv", SYLLABLES.replace("나\tI-PS", "나")))


def test_what_is_found_out_about_short_words(tmp_path: Path) -> None:
    few = write(tmp_path / "few.tsv", "I\tPRON\n.\tPUNCT\n")
    assert read_tagged(few).format == "conll"
    assert read_tagged(few, format="characters").texts == ["I."]
    many = write(tmp_path / "many.tsv", "中 B-X\n国 I-X\n" * 13)
    assert read_tagged(many).format == "characters"
    with pytest.raises(InputError, match=r"'conl' is no format of tags\. Did you mean 'conll'"):
        read_tagged(few, format="conl")


def json_file(path: Path, *rows: object) -> Path:
    return write(path, "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows))


def test_json_spans(tmp_path: Path) -> None:
    path = json_file(
        tmp_path / "a.jsonl",
        {
            "text": "미나는 서울에",
            "spans": [{"start": 4, "end": 6, "label": "LC"}, {"start": 0, "end": 2, "label": "PS"}],
        },
        {"text": "ab", "entities": [[0, 1, "x-y"], [1, 2, "x-y"]], "id": 7},
        {"text": " ", "spans": []},
    )
    rows = read_tagged(path)
    assert (rows.format, rows.unit) == ("jsonl", "character")
    assert rows.tags == [["B-PS", "I-PS", "O", "O", "B-LC", "I-LC", "O"], ["B-x-y", "B-x-y"], ["O"]]
    assert rows.units[1] == [(0, 1), (1, 2)]
    assert rows.lines == [1, 3, 5]
    path.rename(tmp_path / "a.data")
    assert read_tagged(tmp_path / "a.data").format == "jsonl"


def test_json_with_half_a_surrogate_pair(tmp_path: Path) -> None:
    rows = read_tagged(write(tmp_path / "a.jsonl", '{"text": "a\\ud83d b", "spans": [[3, 4, "x"]]}'))
    assert rows.texts == ["a\ufffd b"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "abc", "spans": [[0, 2, "x"], [1, 3, "y"]]}, r"a\.jsonl:3: the spans \(0, 2, x\) and \(1, 3, y\)"),
        ({"text": "abc", "spans": [[0, 4, "x"]]}, r"span \(0, 4, x\) is empty or not within the text's 3"),
        ({"text": "abc", "spans": [[-1, 2, "x"]]}, r"span \(-1, 2, x\)"),
        ({"text": "abc", "spans": [[2, 2, "x"]]}, r"span \(2, 2, x\) is empty"),
        ({"text": "abc", "spans": [[0, True, "x"]]}, r"\[0, true, \"x\"\] is no span"),
        ({"text": "abc", "spans": [[0, 1.0, "x"]]}, "is no span"),
        ({"text": "abc", "spans": [[0, 1, " "]]}, "is no span"),
        ({"text": "abc", "spans": [{"start": 0, "end": 1}]}, "is no span"),
        ({"text": "abc", "spans": [None]}, "null is no span"),
        ({"text": "abc", "spans": {}}, "'spans' is not a list"),
        ({"text": "abc", "span": []}, "'spans' is missing. Did you mean 'span'"),
        ({"text": "", "spans": []}, "not empty"),
        ({"txt": "a"}, "an object with txt; expected"),
        ([1], "holds a JSON list"),
    ],
)
def test_json_that_cannot_be_used(tmp_path: Path, row: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_tagged(json_file(tmp_path / "a.jsonl", {"text": "fine", "spans": []}, row))


@pytest.mark.parametrize("line", ['{"text": "a"', "[" * 100_000, '{"text": 1' + "0" * 5000 + "}"])
def test_lines_that_are_not_json(tmp_path: Path, line: str) -> None:
    with pytest.raises(InputError, match=r"a\.jsonl:1: is not JSON"):
        read_tagged(write(tmp_path / "a.jsonl", line))


def test_another_field_of_json(tmp_path: Path) -> None:
    path = json_file(tmp_path / "a.jsonl", {"text": "ab", "spans": [], "ner": [[0, 2, "x"]]})
    assert read_tagged(path, column="ner").tags == [["B-x", "I-x"]]


def test_raw_texts() -> None:
    rows = rows_from_texts(["미나가 don't 🎉run.", "", "\ud83d 나"], "word")
    assert words(rows) == [["미나가", "don", "'", "t", "🎉run", "."], [], ["\ud83d", "나"]]
    assert rows.tags == []
    characters = rows_from_texts(["a 나"], "character")
    assert words(characters) == [["a", " ", "나"]]
    assert (characters.unit, characters.lines) == ("character", [1])


@settings(deadline=None)
@given(st.lists(st.lists(st.text("abc가나#.", min_size=1, max_size=4), min_size=1, max_size=4), min_size=1, max_size=4))
def test_columns_come_back(tmp_path_factory: pytest.TempPathFactory, sentences: list[list[str]]) -> None:
    path = tmp_path_factory.mktemp("tags") / "a.conll"
    write(path, "\n\n".join("\n".join(f"{word}\tT{len(word)}" for word in sentence) for sentence in sentences))
    rows = read_tagged(path, format="conll")
    assert words(rows) == sentences
    assert rows.tags == [[f"T{len(word)}" for word in sentence] for sentence in sentences]
    assert rows.texts == [" ".join(sentence) for sentence in sentences]
