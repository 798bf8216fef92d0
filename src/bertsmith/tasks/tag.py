"""Token tagging as a task: the output layer, the loss, and inputs; see :mod:`bertsmith.tasks.tagging` for the rest."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn

from bertsmith.batch import Batch
from bertsmith.config import ModelConfig
from bertsmith.errors import InputError
from bertsmith.model.heads import TokenClassifier
from bertsmith.task_config import TagSettings
from bertsmith.tasks.tag_columns import layout_of
from bertsmith.tasks.tag_files import TaggedRows, read_tagged, rows_from_texts, tag_format
from bertsmith.tasks.tag_schemes import OUTSIDE, bio_labels, detect_scheme, split_tag
from bertsmith.tasks.tagging import NO_TARGET, TagExamples, encode, predict, score
from bertsmith.tasks.tagging import find_facts as facts_of_rows
from bertsmith.tasks.task import Facts, Outputs, Source, Task, per_sequence
from bertsmith.tasks.texts import checked, text_inputs
from bertsmith.text.decoding import open_text, physical_lines, uncompressed_name
from bertsmith.text.tables import MAX_ROW

_TAGGED_ENDINGS = (".conll", ".conllu", ".bio", ".iob", ".iob2", ".bioes")
_OTHER_ENDINGS = (".csv", ".jsonl", ".ndjson", ".json", ".parquet", ".pq")
_ENTITY_TAG = re.compile(r"O|[BIESLUM]-\S+")
_SAMPLE, _FEWEST = 500, 5


def read(source: Source) -> TaggedRows:
    """Read tagged sentences.

    Raises:
        InputError: as :func:`read_tagged` says.
    """
    return read_tagged(
        source.path,
        format=source.format,
        column=source.columns.get("tags"),
        encoding=source.encoding,
        limit=source.limit,
    )


def find_facts(train: TaggedRows, dev: TaggedRows, settings: TagSettings) -> Facts:
    """Return labels, scheme, unit, columns, and the lengths of windows and of their overlap.

    Raises:
        InputError: as :func:`bertsmith.tasks.tagging.find_facts` says.
    """
    columns = {"text": "text"} | ({"tags": settings.tags} if settings.tags is not None else {})
    facts = facts_of_rows(train, dev, max_length=settings.max_length, stride=settings.overlap, columns=columns)
    return facts | {"format": settings.format}


def learned(rows: TaggedRows, settings: TagSettings) -> list[set[str]]:
    """Return the types of entities in each sentence, or its tags if they are of no scheme.

    Raises:
        InputError: as :func:`bertsmith.tasks.tag_schemes.detect_scheme` says.
    """
    if detect_scheme(rows.tags, path=rows.source) is None:
        return [set(tags) for tags in rows.tags]
    return [{split_tag(tag)[1] for tag in tags if tag != OUTSIDE} for tags in rows.tags]


def published_facts(labels: Sequence[str], positions: int) -> Facts:
    """Return what there is to know of somebody else's tagger: its labels, and in which order its logits are.

    Labels in the scheme BIO make entities; others are taken as plain tags.
    """
    kinds = sorted({split_tag(label)[1] for label in labels if label != OUTSIDE})
    ours = bio_labels(kinds)
    is_bio = OUTSIDE in labels and set(labels) <= set(ours)
    facts: Facts = {"labels": ours, "scheme": "BIO"} if is_bio else {"labels": list(labels), "scheme": None}
    # A label of ours that the model does not have (an I that never occurred) gets no logit.
    facts["logits"] = [labels.index(label) if label in labels else None for label in facts["labels"]]
    facts |= {"unit": "word", "columns": {"text": "text"}, "max_length": positions, "stride": min(32, positions // 4)}
    return facts | {"outputs": len(labels), "commonest": facts["labels"][0], "published": True}


def make_model(config: ModelConfig, facts: Facts) -> TokenClassifier:
    """Return a tagger with a fresh output layer."""
    return TokenClassifier(config, facts.get("outputs", len(facts["labels"])))


def loss_counts(batch: Batch) -> dict[str, int]:
    """Return how many tags a batch asks for."""
    assert batch.labels is not None
    return {"loss": int((batch.labels != NO_TARGET).sum())}


def loss_sums(model: nn.Module, batch: Batch, facts: Facts) -> dict[str, Tensor]:
    """Return the summed cross entropy (nats) of the tags."""
    assert batch.labels is not None
    logits = model(batch).float()
    return {"loss": F.cross_entropy(logits, batch.labels, ignore_index=NO_TARGET, reduction="sum")}


def cut_outputs(logits: Tensor, batch: Batch, facts: Facts) -> Outputs:
    """Cut logits (T, C) into an array (length, C) a window."""
    values = logits.detach().float().cpu().numpy()
    if "logits" in facts:
        lowest = np.full(len(values), np.finfo(np.float32).min / 2, dtype=np.float32)
        values = np.stack([lowest if n is None else values[:, n] for n in facts["logits"]], axis=1)
    return per_sequence(values, batch)


def inputs(source: Source, facts: Facts) -> Iterator[tuple[int, object]]:
    """Yield (line, text) of a table's text column or of plain text; of a tagged file (line, (text, units)).

    Raises:
        InputError: the file cannot be read, the column is missing, or a text is empty.
    """
    rows = untagged_rows(source, facts)
    if rows is None:
        yield from text_inputs(source, facts)
    else:
        yield from zip(rows.lines, zip(rows.texts, rows.units, strict=True), strict=True)


def untagged_rows(source: Source, facts: Facts) -> TaggedRows | None:
    """Return the sentences of a tagged file without their tags, which it need not have; None for texts.

    ``source.format`` says how the file is written ("text" for texts). If it is "auto", files go by their endings; in
    txt and tsv, which may hold either, sentences are CoNLL-U or lines that end with tags of entities.

    Raises:
        InputError: the file cannot be read in this format.
    """
    found = source.format
    if found == "auto":
        ending = "" if source.is_stdin else uncompressed_name(source.path).suffix.lower()
        if ending in _TAGGED_ENDINGS:
            remembered = facts.get("format", "auto")
            found = remembered if remembered in ("conll", "characters") and ending != ".conllu" else "auto"
        elif source.is_stdin or ending in _OTHER_ENDINGS or not _looks_tagged(source):
            found = "text"
    if found == "text":
        return None
    if source.is_stdin:
        raise InputError(f"is read as texts, a line each; {found} needs a file", path=source.where)
    return read_tagged(source.path, format=found, encoding=source.encoding, tagged=False)


def _looks_tagged(source: Source) -> bool:
    lines = physical_lines(open_text(source.path, source.encoding)[1], MAX_ROW, path=source.path)
    sample = list(itertools.islice((line for line in lines if line.strip()), _SAMPLE))
    found = tag_format(source.path, sample)
    if found in ("conllu", "jsonl"):
        return found == "conllu"
    layout = layout_of(found, sample)
    rows = [layout.cells(line) for line in sample if not line.startswith(("##", "# ", "-DOCSTART-"))]
    return len(rows) >= _FEWEST and all(
        len(cells) == layout.width > 1 and _ENTITY_TAG.fullmatch(cells[-1].strip()) for cells in rows
    )


def rows_of(given: Sequence[tuple[int, object]], facts: Facts) -> TaggedRows:
    """Return texts given in Python, or (text, [(start, end), ...]) with their own units, as rows without tags.

    Raises:
        InputError: something else, an empty text, or units that are not in order inside their text.
    """
    texts, own = [], []
    for number, value in given:
        text, units = value if isinstance(value, tuple) and len(value) == 2 else (value, None)
        texts.append(checked(text, number))
        own.append(None if units is None else _units(units, texts[-1], number))
    rows = rows_from_texts(texts, facts["unit"])
    units_of = [found if units is None else units for units, found in zip(own, rows.units, strict=True)]
    return replace(rows, units=units_of, lines=[number for number, _ in given])


def _units(units: object, text: str, number: int) -> list[tuple[int, int]]:
    try:
        pairs = [(int(start), int(end)) for start, end in units]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        pairs = [(0, 0)]
    ends = [0, *(end for _, end in pairs)]
    if not all(last <= start < end <= len(text) for last, (start, end) in zip(ends, pairs, strict=False)):
        raise InputError(f"text {number}: expected its units as (start, end) in their order, inside the text")
    return pairs


def notes(rows: TaggedRows, examples: TagExamples, facts: Facts) -> list[str]:
    """Return what had to be done with the texts, and what no tags of tokens can say."""
    found = list(rows.warnings)
    if examples.boundaries_inside:
        found.append(
            f"{examples.boundaries_inside:,} of {examples.boundaries:,} entity boundaries "
            f"({examples.boundaries_inside_token:.1%}) are inside a token: with this vocabulary nobody can get them"
        )
    return found


TASK = Task(
    name="tag",
    read=read,
    facts=find_facts,
    encode=encode,
    model=make_model,
    counts=loss_counts,
    sums=loss_sums,
    outputs=cut_outputs,
    score=score,
    predict=predict,
    inputs=inputs,
    rows=rows_of,
    roles=("tags",),
    keys=lambda rows: rows.texts,
    answers=lambda rows, facts: [tag for tags in rows.tags for tag in tags],
    groups=lambda rows: rows.texts,
    notes=notes,
    learned=learned,
)
