"""Rows of a text or a pair of texts, for the tasks that read the pooled [CLS] vector."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch

from bertsmith.batch import Batch, pack
from bertsmith.config import ModelConfig
from bertsmith.errors import InputError, nearest
from bertsmith.model.heads import SequenceClassifier
from bertsmith.task_config import FinetuneSettings
from bertsmith.tasks.scores import Scores
from bertsmith.tasks.task import Facts, Outputs, Rows, Source, Task
from bertsmith.tasks.text_windows import encode_windows, merged
from bertsmith.text.columns import joined, named, split_names
from bertsmith.text.decoding import uncompressed_name
from bertsmith.text.tables import FORMATS, column, open_records, read_lines, read_table
from bertsmith.text.tokenizer import Tokenizer

TEXT_ROLES = ("text", "text_b")

_ENOUGH, _MANY = 20, 50
"""Rows from which on what texts look like, and that no label repeats, is no accident."""

_NUMBER = re.compile(r"[+-]?[0-9][0-9.,]*")

Text: TypeAlias = str | tuple[str, str]
"""A text, or a pair of texts."""

T = TypeVar("T")
Judge: TypeAlias = Callable[[Outputs, Any, Any, Facts], T]
"""What makes scores or predictions of outputs, examples, rows and facts."""


@dataclass(frozen=True)
class TextRows:
    """Texts as they were read.

    Attributes:
        texts: a text or a pair each, never empty.
        labels: the label cell of each, as written without spaces around it; empty for rows without labels.
        lines: where each stands in the file.
        source: the file.
        label_column: where the labels are from, for messages.
    """

    texts: list[Text]
    labels: list[str]
    lines: list[int]
    source: Path
    label_column: str = "label"


@dataclass(frozen=True)
class TextExamples:
    """Texts as the encoder gets them.

    Attributes:
        token_ids: of each text, with special tokens.
        segment_ids: the same shape.
        cut: tokens of each text that did not fit.
        targets: what each is trained towards: (rows,) int64 classes, (rows,) float32 values, or (rows, labels)
            float32; None without labels, and where long texts are windows.
        windows: how many windows each text was read in; None if each is one sequence.
    """

    token_ids: list[list[int]]
    segment_ids: list[list[int]]
    cut: list[int]
    targets: torch.Tensor | None
    windows: list[int] | None = None

    @property
    def lengths(self) -> list[int]:
        """Tokens of each text, or of each window."""
        return [len(ids) for ids in self.token_ids]

    @property
    def truncated(self) -> int:
        """Texts that were cut to fit the length limit."""
        return sum(tokens > 0 for tokens in self.cut)

    @property
    def windows_of(self) -> list[int]:
        """How many windows each text was read in."""
        return [1] * len(self.cut) if self.windows is None else self.windows

    def batch(self, numbers: Sequence[int] | np.ndarray) -> Batch:
        """Return some texts as a batch."""
        batch = pack([self.token_ids[int(n)] for n in numbers], [self.segment_ids[int(n)] for n in numbers])
        if self.targets is None:
            return batch
        return replace(batch, labels=self.targets[torch.as_tensor(np.asarray(numbers), dtype=torch.int64)])


def read_texts(source: Source, *, empty_labels: bool = False) -> TextRows:
    """Read a table's text columns and its label column.

    Raises:
        InputError: the file, a column or a row cannot be used; the line is named.
    """
    label = source.columns["label"]
    parts = _columns_of_texts(source)
    table = read_table(source.path, encoding=source.encoding, quoting=source.quoting, only=[*_flat(parts), label])
    labels = [cell.strip() for cell in column(table, label)[: source.limit]]
    if not labels:
        raise InputError("has no rows", path=source.path)
    lines = table.lines[: len(labels)]
    columns = [
        [joined(cells) for cells in zip(*(column(table, name)[: len(labels)] for name in names), strict=True)]
        for names in parts
    ]
    for number, line in enumerate(lines):
        for names, texts_of_role in zip(parts, columns, strict=True):
            if not texts_of_role[number]:
                raise InputError(f"{named(names)} empty; expected a text", path=source.path, line=line)
        if not labels[number] and not empty_labels:
            raise InputError(f"column {label!r} is empty; expected a label", path=source.path, line=line)
    texts: list[Text] = list(columns[0]) if len(columns) == 1 else list(zip(*columns, strict=True))
    return TextRows(texts, labels, lines, source.path, label)


def _columns_of_texts(source: Source) -> list[list[str]]:
    """Return the columns of the text, and of the second one if rows are pairs."""
    wanted = [source.columns[role] for role in TEXT_ROLES if role in source.columns]
    there = _header(source) if is_table(source) and any("," in names for names in wanted) else ()
    return [split_names(names, there) for names in wanted]


def _header(source: Source) -> Sequence[str]:
    """Return a table's columns; of jsonl those of the first row."""
    records = open_records(source.path, encoding=source.encoding, quoting=source.quoting)
    return records.columns if records.columns is not None else list(next(records.rows, (0, {}))[1])


def _flat(parts: Sequence[Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(name for names in parts for name in names))


def refuse_swapped(rows: TextRows) -> None:
    """Refuse a label column that looks like the text column.

    Raises:
        InputError: most rows have a label of their own, while texts repeat.
    """
    labels = len(set(rows.labels))
    own = len(rows.labels) >= _ENOUGH and labels > 0.5 * len(rows.labels)
    if own and len(set(rows.texts)) < 0.5 * len(rows.texts):
        raise InputError(
            f"{labels:,} of {len(rows.labels):,} rows have a label of their own in column {rows.label_column!r}, and "
            "texts repeat: are the text and label columns swapped?",
            path=rows.source,
        )


def encode_texts(
    texts: Sequence[Text], facts: Facts, tokenizer: Tokenizer, targets: torch.Tensor | None
) -> TextExamples:
    """Encode texts as ``[CLS] a [SEP]``, pairs as ``[CLS] a [SEP] b [SEP]``.

    Longer texts are cut, of a pair the longer one first; or where ``facts["long_texts"]`` is "windows", they are
    several sequences.
    """
    if facts.get("long_texts") == "windows":
        return encode_groups([[text] for text in texts], facts, tokenizer)
    found = tokenizer.encode_batch(texts, facts["max_length"])
    return TextExamples([e.ids for e in found], [e.segment_ids for e in found], [e.truncated for e in found], targets)


def encode_groups(groups: Sequence[Sequence[Text]], facts: Facts, tokenizer: Tokenizer) -> TextExamples:
    """Encode texts or pairs in windows, those of a group in as many: all of its first window, all of its second, ..."""
    pairs = [[(text,) if isinstance(text, str) else text for text in group] for group in groups]
    ids = iter(tokenizer.sentence_ids([part for group in pairs for pair in group for part in pair]))
    windows = [
        encode_windows([[next(ids) for _ in pair] for pair in group], facts["max_length"], tokenizer) for group in pairs
    ]
    sequences = [sequence for own in windows for together in own for sequence in together]
    return TextExamples(
        [own for own, _ in sequences],
        [segments for _, segments in sequences],
        [0] * sum(map(len, groups)),
        None,
        [len(own) for own in windows],
    )


def text_columns(settings: FinetuneSettings) -> dict[str, str]:
    """Return the columns of texts and labels that a model must remember."""
    roles = (*TEXT_ROLES, "label")
    return {role: getattr(settings, role) for role in roles if getattr(settings, role) is not None}


def text_inputs(source: Source, facts: Facts) -> Iterator[tuple[int, Text]]:
    """Yield (line, text or pair) of a table, of a text file with a text a line, or of standard input ("-").

    Raises:
        InputError: the file cannot be read, a column is missing, a text is empty, or pairs are wanted and
            there are no columns.
    """
    parts = _columns_of_texts(source)
    # A line of plain text is the whole text, whatever the columns that it is made of elsewhere.
    names = _flat(parts) if is_table(source) or len(parts) > 1 else parts[0][:1]
    for line, cells in read_cells(source, names):
        found = dict(zip(names, cells, strict=True))
        texts = [joined([found[name] for name in own if name in found]) for own in parts]
        if not all(texts):
            raise InputError("the text is empty; expected at least one character", path=source.where, line=line)
        yield line, texts[0] if len(texts) == 1 else (texts[0], texts[1])


def is_table(source: Source) -> bool:
    """Return whether a source has columns; otherwise each of its lines is a text."""
    return not source.is_stdin and uncompressed_name(source.path).suffix.lower() in FORMATS


def read_cells(source: Source, names: Sequence[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield (line, cells of the named columns) of a table, or (line, (text,)) of plain text.

    Raises:
        InputError: the file cannot be read, a column is missing, or several are wanted of plain text.
    """
    if is_table(source):
        records = open_records(source.path, encoding=source.encoding, quoting=source.quoting, only=names)
        for line, cells in records.rows:
            yield line, tuple(cells.get(name, "") for name in names)
        return
    if len(names) > 1:
        raise InputError(f"is plain text; expected a table with the columns {', '.join(names)}", path=source.where)
    lines = read_lines(sys.stdin.buffer if source.is_stdin else source.path, encoding=source.encoding)
    for line, text in enumerate(lines, start=1):
        yield line, (text,)


def text_rows(inputs: Sequence[tuple[int, object]], facts: Facts) -> TextRows:
    """Return inputs given in Python as rows without labels.

    Raises:
        InputError: something is not a text, is empty, or is a pair where the model was tuned on single texts; a row
            lacks a column.
    """
    # A published classifier does not say what it was tuned on; it may be pairs.
    only_pairs = "text_b" in facts["columns"]
    pairs = only_pairs or facts.get("published", False)
    texts: list[Text] = []
    for number, given in inputs:
        if isinstance(given, Mapping):
            given = _text_of_row(given, facts["columns"], number)
        parts = given if isinstance(given, tuple) else (given,)
        for part in parts:
            _check_type(part, number)
        if len(parts) > 1 and not (pairs and len(parts) == 2):
            seen = (
                "a pair, but the model was tuned on single texts"
                if len(parts) == 2
                else f"a group of {len(parts)} texts"
            )
            raise InputError(f"text {number} is {seen} (in Python a tuple is one pair of texts, a list is many texts)")
        if len(parts) == 1 and only_pairs:
            raise InputError(f"text {number} is one text, but the model was tuned on pairs; expected two texts")
        parts = tuple(checked(part, number) for part in parts or ("",))
        texts.append(parts[0] if len(parts) == 1 else (parts[0], parts[1]))
    return TextRows(texts, [], [number for number, _ in inputs], Path("-"))


def _text_of_row(row: Mapping[str, object], columns: Mapping[str, str], number: int) -> Text:
    """Return the text or the pair of a row with columns, as those of a table are joined."""
    texts = []
    for names in (columns[role] for role in TEXT_ROLES if role in columns):
        cells = []
        for name in split_names(names, row):
            if name not in row:
                raise InputError(
                    f"row {number} has no column {name!r}.{nearest(name, row)} Columns: {', '.join(map(str, row))}"
                )
            cell = row[name]
            _check_type(cell, number)
            cells.append(str(cell))
        texts.append(joined(cells))
    return texts[0] if len(texts) == 1 else (texts[0], texts[1])


def checked(text: object, number: int) -> str:
    """Return an input that is a text.

    Raises:
        InputError: it is something else, or empty; the message names the number of the input.
    """
    _check_type(text, number)
    if not str(text).strip():
        raise InputError(f"text {number} is an empty text; expected at least one character")
    return str(text)


def _check_type(text: object, number: int) -> None:
    if not isinstance(text, str):
        raise InputError(f"text {number} is of type {type(text).__name__}; expected a string")


def both(text: Text) -> tuple[str, str | None]:
    """Return the first text, and the second of a pair."""
    return (text, None) if isinstance(text, str) else text


def shown(text: Text) -> str:
    """Return a text or a pair in one line for people."""
    return text if isinstance(text, str) else " ‖ ".join(text)


def make_classifier(config: ModelConfig, facts: Facts) -> SequenceClassifier:
    """Return a model with a fresh output layer, one output a label name."""
    return SequenceClassifier(config, len(facts["labels"]))


def pooled_outputs(logits: torch.Tensor, batch: Batch, facts: Facts) -> Outputs:
    """Cut logits (N, C) into an array (C,) a sequence."""
    return list(logits.detach().float().cpu().numpy())


def pooled_counts(batch: Batch) -> dict[str, int]:
    """Return how many sequences a batch holds: one prediction each."""
    return {"loss": batch.num_sequences}


def softmax(outputs: Outputs) -> np.ndarray:
    """Return probabilities (rows, labels) of logits, float32."""
    shares: np.ndarray = torch.from_numpy(np.stack(outputs)).softmax(1).numpy()
    return shares


def cut_notes(rows: Rows, examples: Any, facts: Facts) -> list[str]:
    """Return what was cut, or read in windows, in a sentence."""
    long = sum(count > 1 for count in examples.windows_of)
    if long:
        return [
            f"{long:,} of {len(rows.lines):,} texts are longer than {facts['max_length']} tokens and were read in "
            "windows (--long-texts cut: only their beginnings)"
        ]
    if not examples.truncated:
        return []
    return [
        f"{examples.truncated:,} of {len(rows.lines):,} texts are longer than {facts['max_length']} tokens and were "
        "cut at the end (--max-length)"
    ]


def text_notes(rows: TextRows, examples: TextExamples, facts: Facts) -> list[str]:
    """Return what was cut, and whether a column looks like another one, in sentences."""
    notes = cut_notes(rows, examples, facts)
    numbers = [text for text in rows.texts if isinstance(text, str) and _NUMBER.fullmatch(text.strip())]
    if len(rows.texts) >= _ENOUGH and len(numbers) > 0.9 * len(rows.texts):
        notes.append(
            f"{len(numbers):,} of {len(rows.texts):,} texts are numbers such as {numbers[0]!r}: is "
            f"{facts['columns']['text']!r} the column with the text (--text)?"
        )
    # A model of numbers has one output, and numbers need not repeat.
    labels = len(set(rows.labels)) if len(facts["labels"]) > 1 else 0
    if len(rows.labels) >= _MANY and labels > 0.9 * len(rows.labels):
        notes.append(
            f"{labels:,} of {len(rows.labels):,} rows have a label of their own, such as {rows.labels[0][:40]!r}: is "
            f"{rows.label_column!r} the column with the label (--label)?"
        )
    return notes


def text_task(name: str, *, score: Judge[Scores], predict: Judge[Any], **own: Any) -> Task:
    """Return a task over texts and pairs: ``own`` are its own functions, the others are those of this module.

    Its ``score`` and ``predict`` get one output a row, whatever windows there were.
    """
    return Task(
        name=name,
        model=make_classifier,
        outputs=pooled_outputs,
        inputs=text_inputs,
        rows=text_rows,
        roles=(*TEXT_ROLES, "label"),
        keys=lambda rows: rows.texts,
        groups=lambda rows: rows.texts,
        notes=text_notes,
        score=_of_rows(score),
        predict=_of_rows(predict),
        **own,
    )


def _of_rows(judge: Judge[T]) -> Judge[T]:
    def of_rows(outputs: Outputs, examples: Any, rows: Any, facts: Facts) -> T:
        return judge(merged(outputs, examples.windows_of), examples, rows, facts)

    return of_rows
