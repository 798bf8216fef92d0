"""What predict writes besides JSON, without a model: predictions are made up; and files in another scheme."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.serving.writing import Writer, convert_tags, writer_of
from bertsmith.task_config import PredictSettings, TagsSettings
from bertsmith.tasks import classify, tag
from bertsmith.tasks.tag_schemes import Tagged
from bertsmith.tasks.task import Facts, Source

ENTITIES: Facts = {"labels": ["O", "B-LOC", "I-LOC"], "scheme": "BIO", "unit": "word", "columns": {"text": "text"}}
SPEECH: Facts = {"labels": ["NOUN", "VERB"], "scheme": None, "unit": "word", "columns": {"text": "text"}}
CHARACTERS: Facts = ENTITIES | {"unit": "character"}
UNIVERSAL = "# text = a b\n1\ta\ta\tX\tY\t_\t0\troot\t_\t_\n2\tb\tb\tX\tY\t_\t1\tdep\t_\t_\n\n"
SPACES = "## id\n서 O\n울 O\n  O\n에 O\n. O\n"


def writer(facts: Facts, path: Path | str, **changes: Any) -> Writer:
    settings = PredictSettings.parse({"model": "m", "input": path} | changes)
    columns = facts["columns"] | ({"tags": settings.columns} if settings.columns else {})
    return writer_of(settings, tag.TASK, facts, Source(Path(path), columns, format=settings.input_format))


def written(found: Writer, facts: Facts, said: list[str]) -> str:
    """Return the output where the model says the same first tags of every text."""
    rows = tag.TASK.rows(list(enumerate(found.inputs(), start=1)), facts)
    texts = [
        found.text(Tagged(text, (), 0, tuple(units), tuple(said[: len(units)])))
        for text, units in zip(rows.texts, rows.units, strict=True)
    ]
    return "".join([*texts, found.end()])


def test_each_input_in_each_form(tmp_path: Path) -> None:
    def file(name: str, content: str) -> Path:
        (tmp_path / name).write_text(content, encoding="utf-8")
        return tmp_path / name

    said = ["B-LOC", "I-LOC", "O", "O", "O"]
    conll = file("a.conll", "# id 1\nNew x O\nYork y O\n")
    assert written(writer(ENTITIES, conll, output_format="conll"), ENTITIES, said) == (
        "# id 1\nNew x B-LOC\nYork y I-LOC\n"
    )
    found = writer(ENTITIES, conll, output_format="conll", scheme="BIOES", columns="4")
    assert written(found, ENTITIES, said) == "# id 1\nNew x O B-LOC\nYork y O E-LOC\n"
    assert found.about.endswith("a.conll, with column 4 added")
    texts = file("a.txt", "New York.\nhi\n")
    assert written(writer(ENTITIES, texts, output_format="conll", scheme="IOB1"), ENTITIES, said) == (
        "New\tI-LOC\nYork\tI-LOC\n.\tO\n\nhi\tI-LOC\n\n"
    )
    table = file("a.jsonl", '{"text": "New York"}\n')
    assert written(writer(ENTITIES, table, output_format="conll"), ENTITIES, said) == "New\tB-LOC\nYork\tI-LOC\n\n"
    syllables = file("a.tsv", SPACES)
    assert written(writer(CHARACTERS, syllables, output_format="characters"), CHARACTERS, said) == (
        "## id\n서 B-LOC\n울 I-LOC\n  O\n에 O\n. O\n"
    )
    assert written(writer(CHARACTERS, texts, output_format="characters"), CHARACTERS, said[:2] + ["O"] * 9).startswith(
        "N\tB-LOC\ne\tI-LOC\nw\tO\n \tO\nY\tO\n"
    )
    universal = file("a.conllu", UNIVERSAL)
    assert written(writer(SPEECH, universal, output_format="conllu"), SPEECH, ["NOUN", "VERB"]) == (
        UNIVERSAL.replace("X", "NOUN", 1).replace("X", "VERB", 1)
    )
    assert written(writer(SPEECH, universal, output_format="conll"), SPEECH, ["NOUN", "VERB"]) == (
        "a\tNOUN\nb\tVERB\n\n"
    )


def test_what_is_a_tagged_file(tmp_path: Path) -> None:
    def inputs(content: str, name: str, **changes: str) -> list[Any]:
        (tmp_path / name).write_text(content, encoding="utf-8")
        return list(writer(ENTITIES, tmp_path / name, **changes).inputs())

    columns = "New B-X\nYork I-X\nis O\nthere O\n. O\n"
    units = ("New York is there .", [(0, 3), (4, 8), (9, 11), (12, 17), (18, 19)])
    assert inputs(columns, "a.txt") == inputs(columns, "a.bio") == [units]
    assert inputs(columns, "a.txt", input_format="text") == columns.splitlines()
    speech = columns.replace("I-X", "NNP")
    assert inputs(speech, "a.txt") == speech.splitlines()
    assert inputs(speech, "a.txt", input_format="conll") == [units]
    assert inputs(UNIVERSAL, "b.txt") == [("a b", [(0, 1), (2, 3)])]
    assert inputs("text\tid\nNew York\tO\n", "c.tsv") == ["New York"]
    assert inputs("New\nYork\n", "a.conll") == [("New York", [(0, 3), (4, 8)])]


@pytest.mark.parametrize(
    ("facts", "name", "content", "changes", "message"),
    [
        (ENTITIES, "a.txt", "hi\n", {"output_format": "conllu"}, r"a\.txt: --output-format conllu .* \(read as text\)"),
        (ENTITIES, "a.conllu", UNIVERSAL, {"output_format": "conllu"}, "--output-format conllu is for parts of speech"),
        (ENTITIES, "a.txt", "hi\n", {"output_format": "characters"}, "--output-format characters: what is tagged here"),
        (ENTITIES, "a.txt", "hi\n", {"scheme": "BIO"}, "--scheme is for --output-format conll or characters"),
        (SPEECH, "a.txt", "hi\n", {"scheme": "BIO", "output_format": "conll"}, "--scheme BIO: this model's tags are"),
        (ENTITIES, "a.conll", "hi O\n", {"output_format": "conll", "columns": "9"}, "has no tag column '9'"),
        (ENTITIES, "-", "", {"input_format": "conll", "output_format": "conll"}, "standard input: is read as texts"),
    ],
)
def test_what_cannot_be_written(
    tmp_path: Path, facts: Facts, name: str, content: str, changes: dict[str, str], message: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        writer(facts, name if name == "-" else tmp_path / name, **changes)


@pytest.mark.parametrize(
    ("option", "value"), [("output_format", "conll"), ("input_format", "conll"), ("scheme", "BIOES")]
)
def test_options_of_taggers_only(option: str, value: str) -> None:
    settings = PredictSettings.parse({"model": "m", "input": "a.csv", option: value})
    with pytest.raises(InputError, match=rf"--{option.replace('_', '-')} {value} is for taggers; .* task is classify"):
        writer_of(settings, classify.TASK, {"columns": {"text": "text"}}, Source(Path("a.csv")))


def test_a_file_in_another_scheme_and_back(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_bytes("# id 1\r\n서울 NNP B-LC\r\n시 NNG I-LC\r\n에 JKB O\r\n\r\nMina NNP B-PS\r\n".encode("cp949"))

    def convert(given: Path, scheme: str) -> Path:
        output = tmp_path / "new" / f"{scheme}.conll"
        convert_tags(TagsSettings.parse({"input": given, "output": output, "scheme": scheme}), Log(quiet=True))
        return output

    text = path.read_bytes().decode("cp949")
    other = convert(path, "BIOES")
    assert other.read_bytes().decode() == text.replace("I-LC", "E-LC").replace("B-PS", "S-PS")
    assert convert(other, "BIO").read_bytes().decode() == text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.conll", "a NOUN\nb VERB\n", r"a\.conll: the tags \(NOUN, VERB\) mark no entities"),
        ("a.conllu", UNIVERSAL, "is read as conllu, which has no tags of entities in columns"),
        ("a.jsonl", '{"text": "a", "spans": []}\n', "is read as jsonl"),
        ("a.conll", "a Q-x\nb O\n", "the tags have the prefixes Q"),
    ],
)
def test_files_without_a_scheme(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    settings = {"input": tmp_path / name, "scheme": "BIO"}
    with pytest.raises(InputError, match=message):
        convert_tags(TagsSettings.parse(settings | {"output": tmp_path / "b"}), Log(quiet=True))
    with pytest.raises(InputError, match="is the input itself"):
        convert_tags(TagsSettings.parse(settings | {"output": tmp_path / name}), Log(quiet=True))
    assert not (tmp_path / "b").exists()
