"""What ``predict`` writes: JSON lines, or tags in columns; and ``bertsmith tags``, columns in another scheme."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from bertsmith import files
from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.task_config import PredictSettings, TagsSettings
from bertsmith.tasks.tag import untagged_rows
from bertsmith.tasks.tag_files import TaggedRows, read_tagged
from bertsmith.tasks.tag_schemes import Scheme, convert, detect_scheme
from bertsmith.tasks.tag_writing import TaggedFile, check_labels
from bertsmith.tasks.task import Facts, Source, Task


@dataclass(frozen=True)
class Writer:
    """What goes into a model and what comes out of the file.

    Attributes:
        inputs: the inputs in their order, as a new stream with each call.
        text: what a prediction adds to the output; predictions come in the order of the inputs.
        end: what comes after the last one.
        about: what the user should know of the output, or nothing.
    """

    inputs: Callable[[], Iterator[Any]]
    text: Callable[[Any], str]
    end: Callable[[], str] = str
    about: str = ""


def writer_of(settings: PredictSettings, task: Task, facts: Facts, source: Source) -> Writer:
    """Return how inputs are read and predictions written.

    Raises:
        InputError: tags are to be written and the model is no tagger, a scheme is asked for and its tags have none,
            or the input's lines cannot hold the tags.
    """
    for option, value, usual in (
        ("--output-format", settings.output_format, "jsonl"),
        ("--input-format", settings.input_format, "auto"),
        ("--scheme", settings.scheme, "same"),
    ):
        if value != usual and task.name != "tag":
            raise InputError(f"{option} {value} is for taggers; this model's task is {task.name}")
    if settings.output_format == "jsonl":
        if settings.scheme != "same":
            raise InputError("--scheme is for --output-format conll or characters; JSON lines hold spans and no tags")
        return Writer(
            lambda: (given for _, given in task.inputs(source, facts)),
            lambda prediction: json.dumps(prediction.to_json(), ensure_ascii=False) + "\n",
        )
    return _columns(settings, task, facts, source)


def _columns(settings: PredictSettings, task: Task, facts: Facts, source: Source) -> Writer:
    own: Scheme | None = facts["scheme"]
    if own is None and settings.scheme != "same":
        raise InputError(f"--scheme {settings.scheme}: this model's tags are no entities and have no scheme")
    target: Scheme | None = None if settings.scheme == "same" else settings.scheme
    rows = untagged_rows(source, facts)
    kept = _kept_lines(settings.output_format, own, rows, source, facts)
    if rows is None or kept is None:
        check_labels(facts["labels"], spaces=True)
        return Writer(
            lambda: (given for _, given in task.inputs(source, facts)),
            lambda prediction: prediction.to_conll(own, target),
        )
    what = "added" if kept.added else "replaced"
    return Writer(
        lambda: zip(rows.texts, rows.units, strict=True),
        lambda prediction: kept.sentence(
            prediction.tags if own is None or target is None else convert(prediction.tags, own, target)
        ),
        kept.rest,
        f"the lines are those of {source.path}, with column {kept.place + 1} {what}",
    )


def _kept_lines(
    asked: str, scheme: Scheme | None, rows: TaggedRows | None, source: Source, facts: Facts
) -> TaggedFile | None:
    """Return the input as a file whose lines are kept, if it is in the format that is asked for.

    Raises:
        InputError: this format cannot be written from this input, or by this model.
    """
    given = rows.format if rows else "text"
    if asked == "conllu" and given != "conllu":
        raise InputError(
            "--output-format conllu keeps the lines of a CoNLL-U file, and this is none (read as "
            f"{given}); --output-format conll writes a word and its tag a line",
            path=source.where,
        )
    if asked == "conllu" and scheme is not None:
        raise InputError(
            "--output-format conllu is for parts of speech, and this model's tags are those of entities; "
            "--output-format conll writes a word and its tag a line"
        )
    if asked == "characters" and given != "characters" and (rows is not None or facts["unit"] != "character"):
        raise InputError(
            "--output-format characters: what is tagged here are words; --output-format conll writes them",
            path=source.where,
        )
    if rows is None or (given == "conllu" and asked == "conll"):
        return None
    return TaggedFile(rows, facts["labels"], column=source.columns.get("tags"), encoding=source.encoding)


def convert_tags(settings: TagsSettings, log: Log | None = None) -> None:
    """Write a tagged file in another scheme: the same lines with other tags; what breaks its scheme is repaired.

    Raises:
        InputError: the file cannot be read, its tags mark no entities, or the output is taken.
    """
    log = log or Log(settings.quiet)
    check_output(settings.output, settings.input)
    rows = read_tagged(settings.input, format=settings.format, column=settings.tags, encoding=settings.encoding)
    if rows.layout is None or rows.format == "conllu":
        raise InputError(f"is read as {rows.format}, which has no tags of entities in columns", path=rows.source)
    scheme = detect_scheme(rows.tags, path=rows.source)
    seen = sorted({tag for tags in rows.tags for tag in tags})
    if scheme is None:
        shown = ", ".join(seen[:5])
        raise InputError(f"the tags ({shown}) mark no entities, so they have no scheme", path=rows.source)
    kept = TaggedFile(rows, seen, column=settings.tags or str(rows.layout.width), encoding=settings.encoding)
    with output_file(settings.output) as out:
        for tags in rows.tags:
            out.write(kept.sentence(convert(tags, scheme, settings.scheme)))
        out.write(kept.rest())
    log.say(f"{len(rows):,} sentences from {scheme} to {settings.scheme}: {settings.output}")


def check_output(path: Path | None, given: Path | None) -> None:
    """Refuse an output that cannot be written, and make its folder.

    Args:
        path: the file to write; None for standard output.
        given: the input; None for standard input.

    Raises:
        InputError: it is a directory or the input itself, or its folder cannot be made.
    """
    if path is None:
        return
    if path.is_dir():
        raise InputError("is a directory; expected the name of a file to write", path=path)
    if path.exists() and given is not None and given.exists() and path.samefile(given):
        raise InputError("is the input itself; choose another file to write to", path=path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be made as a directory: {error.strerror}", path=path.parent) from None


@contextlib.contextmanager
def output_file(path: Path | None) -> Iterator[TextIO]:
    """Yield standard output, or a file that takes its name when the block ends without an error."""
    if path is None:
        yield sys.stdout
        return
    if path.exists() and not path.is_file():
        # A device or a pipe is written to; a file that took its name would replace it.
        with path.open("w", encoding="utf-8", newline="") as file:
            yield file
        return
    with files.new_file(path.resolve()) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        yield file
