"""Tagged files written again with other tags: what is kept, what is refused, and that they are read back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bertsmith.errors import InputError
from bertsmith.tasks.tag_files import TaggedRows, read_tagged
from bertsmith.tasks.tag_schemes import OUTSIDE, Scheme, Span, SpanTuple, Tagged, from_spans, to_spans
from bertsmith.tasks.tag_writing import TaggedFile, check_labels

SCHEMES: tuple[Scheme, ...] = get_args(Scheme)
LABELS = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
COMMENTED = "-DOCSTART- -X- O O\r\n\r\n# id one\r\nMina NNP  O  \r\n in IN O\r\n \r\nSeoul NNP O\r\n\r\n\r\n"
UNIVERSAL = (
    "# text = don't go\n1-2\tdon't\t_\t_\t_\t_\t_\t_\t_\t_\n1\tdo\tdo\tAUX\tVBP\t_\t0\troot\t_\t_\n"
    "2\tn't\tnot\tPART\tRB\t_\t1\tadvmod\t_\t_\n2.1\tx\tx\tX\tX\t_\t_\t_\t_\t_\n3\tgo\tgo\t_\tVB\t_\t1\tx\t_\t\n"
)


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def rewritten(rows: TaggedRows, tags: Sequence[Sequence[str]], **options: str) -> str:
    kept = TaggedFile(rows, sorted({*LABELS, *(tag for sentence in tags for tag in sentence)}), **options)
    return "".join([*(kept.sentence(sentence) for sentence in tags), kept.rest()])


def test_only_tags_change(tmp_path: Path) -> None:
    rows = read_tagged(write(tmp_path / "a.conll", COMMENTED))
    changed = rewritten(rows, [["B-PER", "O"], ["B-LOC"]])
    assert changed == COMMENTED.replace("NNP  O", "NNP  B-PER").replace("Seoul NNP O", "Seoul NNP B-LOC")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "cp949", "utf-16"])
def test_encodings_become_utf8_and_line_ends_stay(tmp_path: Path, encoding: str) -> None:
    text = " 서울\tO\t\r\n에\tO\r\r나\tO"
    rows = read_tagged(write(tmp_path / "a.conll", text, encoding))
    assert rewritten(rows, [["B-LOC", "O"], ["O"]]) == text.replace("서울\tO", "서울\tB-LOC")


def test_a_file_of_many_chunks_keeps_its_lines(tmp_path: Path) -> None:
    text = "".join(f"word{n}\tO\r\n" + "\r\n" * (n % 10 == 9) for n in range(150_000))
    rows = read_tagged(write(tmp_path / "a.conll", text))
    assert rewritten(rows, rows.tags) == text


def test_universal_dependencies(tmp_path: Path) -> None:
    path = write(tmp_path / "a.conllu", UNIVERSAL)
    with pytest.raises(InputError, match="the tag in column UPOS is missing"):
        read_tagged(path)
    rows = read_tagged(path, tagged=False)
    assert rows.tags == []
    changed = rewritten(rows, [["X", "Y", "Z"]])
    assert changed == UNIVERSAL.replace("AUX", "X").replace("PART", "Y").replace("go\tgo\t_", "go\tgo\tZ")
    assert rewritten(rows, [["X", "Y", "Z"]], column="xpos") == (
        UNIVERSAL.replace("VBP", "X").replace("RB", "Y").replace("VB\t_", "Z\t_")
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("Mina\nruns\n\n.\n", "Mina\tB-PER\nruns\tO\n\n.\tO\n"),
        ("Mina NNP\nruns VBZ\n\n. .", "Mina NNP B-PER\nruns VBZ O\n\n. . O"),
        ("Mina\tB-NP\nruns\tB-VP\n\n.\tO\n", "Mina\tB-NP\tB-PER\nruns\tB-VP\tO\n\n.\tO\tO\n"),
        ("Mina _\nruns _\n\n. _\n", "Mina B-PER\nruns O\n\n. O\n"),
        ("Mina S-PER\nruns O\n\n. O\n", "Mina B-PER\nruns O\n\n. O\n"),
    ],
    ids=["one column", "parts of speech", "chunks", "placeholders", "tags"],
)
def test_a_column_is_added_or_replaced(tmp_path: Path, content: str, expected: str) -> None:
    rows = read_tagged(write(tmp_path / "a.conll", content), tagged=False)
    assert rewritten(rows, [["B-PER", "O"], ["O"]]) == expected


def test_one_column_of_characters(tmp_path: Path) -> None:
    rows = read_tagged(write(tmp_path / "a.txt", "## id\n미\n나\n \n#\n\n가\n"), format="characters", tagged=False)
    assert rows.texts == ["미나 #", "가"]
    changed = rewritten(rows, [["B-PER", "I-PER", "O", "O"], ["O"]])
    assert changed == "## id\n미\tB-PER\n나\tI-PER\n \tO\n#\tO\n\n가\tO\n"
    read = read_tagged(write(tmp_path / "b.txt", changed))
    assert (read.texts, read.tags) == (rows.texts, [["B-PER", "I-PER", "O", "O"], ["O"]])


def test_a_column_that_is_named(tmp_path: Path) -> None:
    rows = read_tagged(write(tmp_path / "a.conll", "Mina x O\nruns y O\n"), tagged=False)
    assert rewritten(rows, [["B-PER", "O"]], column="2") == "Mina B-PER O\nruns O O\n"
    assert rewritten(rows, [["B-PER", "O"]], column="4") == "Mina x O B-PER\nruns y O O\n"
    for column in ("1", "5", "ner"):
        with pytest.raises(InputError, match=rf"a\.conll: has no tag column '{column}'; expected a number from 2 .* 4"):
            TaggedFile(rows, LABELS, column=column)


def test_labels_that_end_a_column(tmp_path: Path) -> None:
    rows = read_tagged(write(tmp_path / "a.conll", "Mina O\n"))
    with pytest.raises(InputError, match=r"the label 'B-a b' holds a space, .*jsonl writes spans"):
        TaggedFile(rows, ["O", "B-a b"])
    check_labels(["O", "B-a b"], spaces=True)
    with pytest.raises(InputError, match=r"the label 'B-a\\tb' holds a tab"):
        check_labels(["O", "B-a\tb"], spaces=True)


WORDS = st.text(st.sampled_from("aB한#-_.'"), min_size=1, max_size=4).filter(lambda word: word[0] not in "#-")
CHARACTERS = st.sampled_from("aB한 #\t._")


@st.composite
def tagged_sentences(draw: st.DrawFn, unit: st.SearchStrategy[str]) -> list[tuple[list[str], list[SpanTuple]]]:
    sentences = []
    for _ in range(draw(st.integers(1, 3))):
        units = draw(st.lists(unit, min_size=1, max_size=6).filter(lambda found: "".join(found).strip() != ""))
        cuts = draw(st.lists(st.booleans(), min_size=len(units), max_size=len(units)))
        spans, at = [], 0
        for end in [n for n, cut in enumerate(cuts, start=1) if cut]:
            if kind := draw(st.sampled_from(["", "LOC", "PER", "a-b"])):
                spans.append((at, end, kind))
            at = end
        sentences.append((units, spans))
    return sentences


def spans_of(rows: TaggedRows, scheme: Scheme) -> list[list[SpanTuple]]:
    return [to_spans(tags, scheme) for tags in rows.tags]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    data=st.data(),
    format=st.sampled_from(["conll", "characters"]),
    target=st.sampled_from(SCHEMES),
    separator=st.sampled_from("\t "),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_what_is_written_is_read_back(
    data: st.DataObject,
    format: str,  # noqa: A002
    target: Scheme,
    separator: str,
    end: str,
    tmp_path: Path,
) -> None:
    sentences = data.draw(tagged_sentences(WORDS if format == "conll" else CHARACTERS))
    spans = [found for _, found in sentences]
    blocks = [end.join(f"{unit}{separator}{OUTSIDE}" for unit in units) + end for units, _ in sentences]
    path = write(tmp_path / "a.tsv", end.join(blocks))
    rows = read_tagged(path, format=format, tagged=False)
    tags = [from_spans(found, len(units), target) for units, found in sentences]
    again = write(tmp_path / "b.tsv", rewritten(rows, tags))
    read = read_tagged(again, format=format)
    assert (read.texts, spans_of(read, target)) == (rows.texts, spans)
    back = rewritten(read, [[OUTSIDE] * len(units) for units, _ in sentences], column="2")
    assert back == path.read_bytes().decode()


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data(), words=st.booleans(), target=st.sampled_from(SCHEMES))
def test_texts_in_columns_are_read_back(data: st.DataObject, words: bool, target: Scheme, tmp_path: Path) -> None:
    sentences = data.draw(tagged_sentences(WORDS if words else CHARACTERS))
    written = ""
    for parts, found in sentences:
        text = (" " if words else "").join(parts)
        ends = [sum(map(len, parts[: n + 1])) + words * n for n in range(len(parts))]
        units = tuple((end - len(part), end) for part, end in zip(parts, ends, strict=True))
        spans = tuple(Span(units[a][0], units[b - 1][1], kind, 1.0) for a, b, kind in found)
        written += Tagged(text, spans, 0, units, tuple(from_spans(found, len(parts), "BIO"))).to_conll("BIO", target)
    rows = read_tagged(write(tmp_path / "a.tsv", written), format="conll" if words else "characters")
    assert spans_of(rows, target) == [found for _, found in sentences]
    assert rows.texts == [(" " if words else "").join(parts) for parts, _ in sentences]
