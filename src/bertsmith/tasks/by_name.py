"""The tasks by their names, and the task of a model directory."""

from __future__ import annotations

from pathlib import Path

from bertsmith.errors import InputError
from bertsmith.model.weights import ModelInfo
from bertsmith.tasks import choose, classify, multilabel, qa, regress, tag, vectors
from bertsmith.tasks.task import Facts, Task

# What transformers takes a model to tell apart whose config.json does not say.
_TWO_LABELS = ("LABEL_0", "LABEL_1")

_PUBLISHED = (
    "BertForSequenceClassification",
    "BertForMultipleChoice",
    "BertForQuestionAnswering",
    "BertForTokenClassification",
)

_ALL = (classify.TASK, multilabel.TASK, regress.TASK, choose.TASK, qa.TASK, tag.TASK)
TASKS: dict[str, Task] = {task.name: task for task in _ALL}
_USABLE = TASKS | {vectors.TASK.name: vectors.TASK}


def has_task(info: ModelInfo) -> bool:
    """Return whether a model was tuned for a task, by us or by others."""
    return info.extras.get("task") in _USABLE or info.architecture in _PUBLISHED


def task_of(info: ModelInfo, directory: Path) -> tuple[Task, Facts]:
    """Return the task that a model was tuned for and what it remembers of it.

    A published model says less: it is taken for what its class and its label names mean, with columns of the usual
    names and its full length.

    Raises:
        InputError: the model was not tuned for a task of ours, or what it remembers is damaged.
    """
    name = info.extras.get("task")
    positions = info.config.max_position_embeddings
    if name in _USABLE:
        facts = info.extras.get("facts")
        if not isinstance(facts, dict) or not isinstance(facts.get("max_length"), int) or "columns" not in facts:
            raise InputError("config.json says the task but not what the model remembers of it", path=directory)
        return _USABLE[name], {**facts, "max_length": min(facts["max_length"], positions)}
    labels = info.labels or _TWO_LABELS
    if info.architecture == "BertForSequenceClassification":
        facts = {"labels": list(labels), "columns": {"text": "text", "label": "label"}, "max_length": positions}
        facts["published"] = True
        if info.problem_type == "multi_label_classification":
            return multilabel.TASK, facts | {"separator": "|"}
        if len(labels) == 1:
            return regress.TASK, facts | {"mean": 0.0, "deviation": 1.0}
        return classify.TASK, facts
    if info.architecture == "BertForMultipleChoice":
        return choose.TASK, choose.published_facts(positions)
    if info.architecture == "BertForQuestionAnswering":
        return qa.TASK, qa.published_facts(positions)
    if info.architecture == "BertForTokenClassification":
        return tag.TASK, tag.published_facts(labels, positions)
    raise InputError(
        "is not a fine-tuned model; make one with: bertsmith finetune classify MODEL --train F --dev F -o DIR",
        path=directory,
    )
