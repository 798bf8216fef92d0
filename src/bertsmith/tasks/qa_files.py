"""Questions about contexts, from SQuAD's JSON (1.1, 2.0, KorQuAD) and from tables with a question a row."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertsmith.errors import InputError, nearest
from bertsmith.text.decoding import open_text, read_bytes, uncompressed_name
from bertsmith.text.tables import FORMATS, open_records

ROLES = ("question", "context", "answer", "start", "id", "group")
"""What columns of a table mean. Needed are question, context and answer; the rest may be left out."""

COLUMNS = {"question": "question", "context": "context", "answer": "answer"}
"""The columns that are always read, unless others are named in their place."""

SHOWN = 5
"""Examples that a warning lists."""

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# pandas writes whole numbers as 12.0 when some cells of the column are empty.
_OFFSET = re.compile(r"(-?[0-9]{1,15})(?:\.0+)?")
_JSON_NAMES = {
    dict: "an object",
    list: "an array",
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number with a point",
    type(None): "null",
}


@dataclass(frozen=True)
class GoldAnswer:
    """A right answer.

    Attributes:
        text: as annotated.
        start: where it begins in the context, in characters; None where it was not found.
    """

    text: str
    start: int | None

    @property
    def span(self) -> tuple[int, int] | None:
        """(start, end) in the context without white space around it, None where it was not found."""
        if self.start is None:
            return None
        begin = self.start + len(self.text) - len(self.text.lstrip())
        return begin, begin + len(self.text.strip())


@dataclass(frozen=True)
class QuestionRows:
    """Questions as they were read.

    Attributes:
        ids: as in the file; of a table without such a column the line.
        questions: never empty.
        contexts: never empty; questions about one context share the string.
        answers: right answers of each, at least one of them found in the context; none for a question that the
            context does not answer. The whole list is empty for rows without labels.
        groups: article of each; of a table without such a column the context.
        lines: where each stands in a table; in SQuAD's JSON the number of the question, counted from 1.
        source: the file.
        warnings: what was repaired or left out, in sentences.
        left_out: questions that were left out because no answer of theirs could be found in the context.
    """

    ids: list[str]
    questions: list[str]
    contexts: list[str]
    answers: list[tuple[GoldAnswer, ...]]
    groups: list[str]
    lines: list[int]
    source: Path
    warnings: tuple[str, ...] = ()
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def impossible(self) -> list[bool]:
        """Whether the context has no answer, for each question; empty for rows without labels."""
        return [not golds for golds in self.answers]


@dataclass(frozen=True)
class _Question:
    line: int
    id: str
    question: str
    context: str
    answers: tuple[GoldAnswer, ...]
    group: str


def read_questions(
    path: Path,
    columns: Mapping[str, str] | None = None,
    *,
    encoding: str = "auto",
    quoting: str = "auto",
    limit: int | None = None,
) -> QuestionRows:
    """Read questions with their answers.

    An answer that does not stand at its offset is looked for; if its text occurs once in the context, it is taken
    from there. A question of which no answer can be found is left out. Both are told in ``warnings``.

    Args:
        path: SQuAD's JSON (``.json``), or a table (jsonl, csv, tsv, parquet) with a question a row, where an empty
            answer means that the context has none; compressed or not.
        columns: names of the table's columns by role (:data:`ROLES`), added to :data:`COLUMNS`. Without ``start``
            every answer is looked for.
        encoding: as in :func:`bertsmith.text.decoding.open_text`.
        quoting: as in :func:`bertsmith.text.tables.read_table`.
        limit: read only the first so many questions.

    Raises:
        InputError: the file cannot be read, something in it is missing, empty or of another type (the place is
            named), or no question is left.
    """
    found: list[_Question] = []
    moved, given, missing = 0, 0, list[str]()
    asked_all = _questions(path, COLUMNS | dict(columns or {}), encoding, quoting)
    for asked in itertools.islice(asked_all, limit):
        golds = tuple(_located(gold, asked.context) for gold in asked.answers)
        given += len(golds)
        if golds and all(gold.start is None for gold in golds):
            missing.append(f"{asked.id} ({_short(golds[0].text)!r})")
            continue
        # Without an offset nothing was wrong with it.
        moved += sum(
            old.start is not None and old.start != new.start and new.start is not None
            for old, new in zip(asked.answers, golds, strict=True)
        )
        found.append(_Question(asked.line, asked.id, asked.question, asked.context, golds, asked.group))
    warnings = []
    if moved:
        warnings.append(
            f"{moved:,} of {given:,} answers in {path.name} were not at their offset; each occurs once in its context "
            "and was taken from there"
        )
    if missing:
        listed = ", ".join(missing[:SHOWN]) + (", ..." if len(missing) > SHOWN else "")
        warnings.append(
            f"{len(missing):,} of {len(found) + len(missing):,} questions in {path.name} are left out, because the "
            f"answer is not at its offset and occurs elsewhere in the context never or more than once: {listed}"
        )
    if not found:
        raise InputError(warnings[-1] if warnings else "holds no questions", path=path)
    return _rows(found, path, tuple(warnings), len(missing))


def read_inputs(
    path: Path, columns: Mapping[str, str] | None = None, *, encoding: str = "auto", quoting: str = "auto"
) -> Iterator[tuple[int, tuple[str, str]]]:
    """Yield (line, (question, context)) of a file of :func:`read_questions`; answers are not looked at.

    Raises:
        InputError: as there.
    """
    names = COLUMNS | dict(columns or {})
    for asked in _questions(path, {r: names[r] for r in ("question", "context")}, encoding, quoting, answers=False):
        yield asked.line, (asked.question, asked.context)


def _rows(found: Sequence[_Question], path: Path, warnings: tuple[str, ...], left_out: int) -> QuestionRows:
    contexts: dict[str, str] = {}
    return QuestionRows(
        [asked.id for asked in found],
        [asked.question for asked in found],
        [contexts.setdefault(asked.context, asked.context) for asked in found],
        [asked.answers for asked in found],
        [asked.group for asked in found],
        [asked.line for asked in found],
        path,
        warnings,
        left_out,
    )


def _located(gold: GoldAnswer, context: str) -> GoldAnswer:
    start = gold.start
    if start is not None and start >= 0 and context.startswith(gold.text, start):
        return gold
    first = context.find(gold.text)
    if first < 0 or context.find(gold.text, first + 1) >= 0:
        return GoldAnswer(gold.text, None)
    return GoldAnswer(gold.text, first)


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


def _questions(
    path: Path, columns: Mapping[str, str], encoding: str, quoting: str, *, answers: bool = True
) -> Iterator[_Question]:
    ending = uncompressed_name(path).suffix.lower()
    if ending == ".json":
        return _json_questions(path, encoding, answers)
    if ending not in FORMATS:
        raise InputError(
            "the name does not say how the questions are written; expected .json (SQuAD's form) or a table "
            f"({', '.join(FORMATS)}), also with .gz, .zst, .bz2 or .xz",
            path=path,
        )
    return _table_questions(path, columns, encoding, quoting)


def _table_questions(path: Path, columns: Mapping[str, str], encoding: str, quoting: str) -> Iterator[_Question]:
    names = {role: columns[role] for role in ROLES if role in columns}
    wanted = list(dict.fromkeys(names.values()))
    for line, cells in open_records(path, encoding=encoding, quoting=quoting, only=wanted).rows:
        found = {role: cells[name] for role, name in names.items()}
        for role in ("question", "context"):
            if not found[role].strip():
                raise InputError(f"column {names[role]!r} is empty; expected a text", path=path, line=line)
        answer, start = found.get("answer", ""), found.get("start", "").strip()
        golds: tuple[GoldAnswer, ...] = ()
        if answer.strip():
            offset = _OFFSET.fullmatch(start)
            if start and offset is None:
                raise InputError(
                    f"column {names['start']!r} is {start!r}; expected the offset of the answer in the context, in "
                    "characters from 0",
                    path=path,
                    line=line,
                )
            golds = (GoldAnswer(answer, int(offset[1]) if offset else None),)
        name, group = found.get("id", ""), found.get("group", "")
        yield _Question(line, name or str(line), found["question"], found["context"], golds, group or found["context"])


def _json_questions(path: Path, encoding: str, answers: bool) -> Iterator[_Question]:
    number = 0
    for place, article in _items(_load(path, encoding), "data", "", path):
        title = article.get("title") if isinstance(article, dict) else None
        for where, paragraph in _items(article, "paragraphs", place, path):
            context = _text(paragraph, "context", where, path)
            for here, asked in _items(paragraph, "qas", where, path):
                number += 1
                question = _text(asked, "question", here, path)
                golds = _json_answers(asked, here, path) if answers else ()
                name = asked.get("id", "" if not answers else None)
                if isinstance(name, int) and not isinstance(name, bool):
                    name = str(name)
                if not isinstance(name, str):
                    _field(asked, "id", str, here, path)
                yield _Question(number, str(name), question, context, golds, str(place if title is None else title))


def _json_answers(asked: dict[str, Any], place: str, path: Path) -> tuple[GoldAnswer, ...]:
    impossible = "is_impossible" in asked and _field(asked, "is_impossible", bool, place, path)
    golds = []
    # SQuAD 2.0's test form may leave the key out where there is nothing to say.
    for here, answer in [] if impossible and "answers" not in asked else _items(asked, "answers", place, path):
        text = _text(answer, "text", here, path)
        golds.append(GoldAnswer(text, _field(answer, "answer_start", int, here, path)))
    if impossible and golds:
        raise InputError(f"{place} has answers, but is_impossible is true; expected one or the other", path=path)
    if not impossible and not golds:
        raise InputError(f"{place}.answers is empty; expected an answer, or is_impossible: true", path=path)
    return tuple(golds)


def _load(path: Path, encoding: str) -> Any:
    try:
        text = "".join(open_text(path, encoding)[1])
    except InputError:
        # Hangul is three bytes in UTF-8, so a file that is cut off mostly ends inside a character.
        if encoding == "auto" and path.is_file() and _ends_inside_character(path):
            raise InputError("ends inside a character; the file seems to be cut off", path=path) from None
        raise
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        whole = len(text.rstrip())
        if not whole:
            raise InputError("is empty; expected SQuAD's JSON", path=path) from None
        if error.msg.startswith("Extra data"):
            hint = " (one object a line is jsonl; a file of that name is read as a table)"
        elif error.pos >= whole or error.msg.startswith("Unterminated string"):
            hint = " (the file seems to be cut off)"
        else:
            hint = ""
        raise InputError(
            f"is not JSON{hint}: {error.msg} at column {error.colno}; expected SQuAD's JSON",
            path=path,
            line=error.lineno,
        ) from None
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number of thousands of digits
        raise InputError(f"cannot be read as JSON: {error}", path=path) from None


def _ends_inside_character(path: Path) -> bool:
    try:
        b"".join(read_bytes(path)).decode("utf-8")
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return False


def _items(holder: Any, key: str, place: str, path: Path) -> list[tuple[str, Any]]:
    prefix = f"{place}.{key}" if place else key
    return [(f"{prefix}[{n}]", item) for n, item in enumerate(_field(holder, key, list, place, path))]


def _text(holder: Any, key: str, place: str, path: Path) -> str:
    text: str = _field(holder, key, str, place, path)
    if not text.strip():
        raise InputError(f"{place}.{key} is empty; expected a text", path=path)
    # A half of a surrogate pair is not a character; one for one keeps the offsets right.
    return text if text.isascii() else _LONE_SURROGATE.sub("\ufffd", text)


def _field(holder: Any, key: str, kind: type, place: str, path: Path) -> Any:
    where = place or "the file"
    if not isinstance(holder, dict):
        seen = _JSON_NAMES[type(holder)]
        raise InputError(f"{where} is {seen}; expected an object with {key!r}", path=path)
    if key not in holder:
        fields = ", ".join(map(str, holder)) or "none"
        raise InputError(
            f"{where} has no {key!r}; expected {_JSON_NAMES[kind]} there.{nearest(key, holder)} Fields: {fields}",
            path=path,
        )
    value = holder[key]
    if type(value) is not kind:
        what = f"{place}.{key}" if place else key
        raise InputError(f"{what} is {_JSON_NAMES[type(value)]}; expected {_JSON_NAMES[kind]}", path=path)
    return value
