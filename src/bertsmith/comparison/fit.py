"""One contender fitted once: with one setting, one seed, on all rows or a part of them."""

from __future__ import annotations

import itertools
import math
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bertsmith.batch import Batch
from bertsmith.comparison.contenders import Contender
from bertsmith.comparison.frozen import FrozenVectors, VectorMemory, sequence_keys
from bertsmith.comparison.measures import Answers, Measure
from bertsmith.comparison.networks import (
    BagOfVectors,
    CnnClassifier,
    LearnedEmbeddings,
    LstmClassifier,
    LstmTagger,
    sequence_means,
)
from bertsmith.config import ModelConfig
from bertsmith.console import Log
from bertsmith.errors import DivergedError
from bertsmith.features.layers import Layers, parse_layers
from bertsmith.model.bert import Bert
from bertsmith.task_config import FinetuneSettings
from bertsmith.tasks.baselines import tfidf_model
from bertsmith.tasks.classify import label_numbers
from bertsmith.tasks.tagging import decode, gold_numbers
from bertsmith.tasks.task import Examples, Facts, Outputs, Task, select_rows
from bertsmith.tasks.texts import shown
from bertsmith.text.tokenizer import Tokenizer
from bertsmith.training.apply import apply_model
from bertsmith.training.checkpoint import METRICS, MetricsLog, read_metrics
from bertsmith.training.disk import Disk
from bertsmith.training.loop import StopRequest
from bertsmith.training.tuning import RunState, SeedState, Session, TaskData, tune

_FEWEST_STEPS = 200
# Ends of words that a frequency tagger falls back on, the longest first.
_ENDS = (4, 3, 2, 1)


@dataclass(frozen=True)
class Split:
    """Rows of one file, encoded, with their right answers."""

    rows: Any
    examples: Examples
    gold: Answers


@dataclass
class Bench:
    """What all fits of a comparison share.

    Attributes:
        task, facts, measure: what is asked and how it is judged.
        settings: of fine-tuning; learning rate and seed are replaced for each fit.
        config: of the network, with the dropout of fine-tuning.
        bert: the pre-trained encoder, in evaluation mode.
        tokenizer: its own.
        dev, test: rows that choose, and rows that score.
        device, dtype: where BERT is tuned, and in which arithmetic.
        stop: the user's wish.
        memory: vectors of the frozen encoder, by the choice of layers.
    """

    task: Task
    facts: Facts
    measure: Measure
    settings: FinetuneSettings
    config: ModelConfig
    bert: Bert
    tokenizer: Tokenizer
    dev: Split
    test: Split
    device: torch.device
    dtype: torch.dtype
    stop: StopRequest
    memory: dict[str, VectorMemory] = field(default_factory=dict)

    def split(self, rows: Any) -> Split:
        """Encode rows."""
        return encoded(self.task, rows, self.facts, self.tokenizer)


@dataclass(frozen=True)
class Fit:
    """What a fit came to.

    Attributes:
        dev: the measure on dev.
        answers: to the test rows.
        train_seconds, predict_seconds: time of fitting, and of answering the test rows.
        parameters: numbers in the model, those of a frozen encoder included.
        layer_weights: what a model that weighs the encoder's layers has learned, before the softmax.
        bad_steps: steps whose gradient was no number.
    """

    dev: float
    answers: list[Any]
    train_seconds: float
    predict_seconds: float
    parameters: int
    layer_weights: list[float] | None = None
    bad_steps: int = 0


def encoded(task: Task, rows: Any, facts: Facts, tokenizer: Tokenizer) -> Split:
    """Return rows with their examples and their right answers as numbers."""
    gold: Answers = gold_numbers(rows, facts) if task.name == "tag" else label_numbers(rows, facts["labels"])
    return Split(rows, task.encode(rows, facts, tokenizer), gold)


def fit(bench: Bench, contender: Contender, setting: float, seed: int, train: Split) -> Fit:
    """Fit a contender on ``train``, choose its best epoch on dev where it has epochs, and answer the test rows.

    Raises:
        KeyboardInterrupt: the user stopped it.
    """
    if contender.layers is not None:
        _remember(bench, contender, [train, bench.dev])
    if contender.is_network:
        return _fit_network(bench, contender, setting, seed, train)
    begun = time.monotonic()
    if contender.kind == "frequency":
        answer, parameters = _frequency_tagger(train, bench.facts)
    elif contender.kind == "majority" or len(set(train.gold)) == 1:  # a part of the rows may hold one label only
        answer, parameters = partial(_majority, bench, train), 1
    elif contender.kind == "tfidf":
        answer, parameters = _tfidf(train, setting)
    else:
        answer, parameters = _logistic(bench, contender, train, setting)
    dev = bench.measure.of(bench.dev.gold, answer(bench.dev))
    _forget(bench, contender, bench.test)
    fitted = time.monotonic()
    answers = answer(bench.test)
    return Fit(dev, _plain(answers), fitted - begun, time.monotonic() - fitted, parameters)


Answering = Callable[[Split], Answers]


def _majority(bench: Bench, train: Split, split: Split) -> Answers:
    """Answer every row, or every unit, with what is most frequent in training."""
    if bench.task.name == "tag":
        commonest = bench.facts["labels"].index(bench.facts["commonest"])
        return [np.full(len(numbers), commonest) for numbers in split.gold]
    return [int(np.bincount(np.asarray(train.gold)).argmax())] * len(split.gold)


def _tfidf(train: Split, c: float) -> tuple[Answering, int]:
    model = tfidf_model(len(train.gold), "words and characters", c)
    model.fit([shown(text) for text in train.rows.texts], np.asarray(train.gold))
    size = model[-1].coef_.size + model[-1].intercept_.size
    return (lambda split: model.predict([shown(text) for text in split.rows.texts])), size


def _logistic(bench: Bench, contender: Contender, train: Split, c: float) -> tuple[Answering, int]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    source = _frozen(bench, contender)

    def means(split: Split) -> np.ndarray:
        return np.concatenate(
            [sequence_means(source(batch), batch.sequence_starts).cpu().numpy() for batch in _batches(bench, split)]
        )

    model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000))
    model.fit(means(train), np.asarray(train.gold))
    size = model[-1].coef_.size + model[-1].intercept_.size + _size(bench.bert)
    return (lambda split: model.predict(means(split))), size


def _frequency_tagger(train: Split, facts: Facts) -> tuple[Answering, int]:
    """Return a tagger that gives a word its most frequent tag, an unknown one that of its end, else the commonest."""
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for row, numbers in enumerate(train.gold):
        for word, number in zip(_words(train.rows, row), numbers.tolist(), strict=True):
            counts[word][number] += 1
            for size in _ENDS:
                if len(word) > size:
                    counts[f"\0{word[-size:]}"][number] += 1
    # Of tags that are equally frequent the one with the smallest number, whatever came first.
    best = {word: min(c, key=lambda tag: (-c[tag], tag)) for word, c in counts.items()}
    commonest = facts["labels"].index(facts["commonest"])

    def tag(word: str) -> int:
        ends = (best.get(f"\0{word[-size:]}") for size in _ENDS if len(word) > size)
        return best.get(word, next((number for number in ends if number is not None), commonest))

    def answer(split: Split) -> Answers:
        return [np.array([tag(word) for word in _words(split.rows, row)]) for row in range(len(split.gold))]

    return answer, len(best)


def _words(rows: Any, row: int) -> list[str]:
    return [rows.texts[row][start:end] for start, end in rows.units[row]]


def _frozen(bench: Bench, contender: Contender) -> FrozenVectors:
    assert contender.layers is not None
    depth = bench.config.num_hidden_layers
    weighted = contender.layers == "weighted"
    layers = Layers(tuple(range(depth + 1))) if weighted else parse_layers(contender.layers, depth)
    memory = bench.memory.setdefault(contender.layers, VectorMemory())
    return FrozenVectors(bench.bert, layers, memory, weighted=weighted)


def _network(bench: Bench, contender: Contender) -> nn.Module:
    classes = len(bench.facts["labels"])
    source: LearnedEmbeddings | FrozenVectors
    source = LearnedEmbeddings(bench.config.vocab_size) if contender.layers is None else _frozen(bench, contender)
    if bench.task.name == "tag":
        return LstmTagger(source, source.width, classes)
    build = {"bag": BagOfVectors, "lstm": LstmClassifier, "cnn": CnnClassifier}[contender.kind]
    return build(source, source.width, classes)


def _fit_network(bench: Bench, contender: Contender, setting: float, seed: int, train: Split) -> Fit:
    """Train by the loop of fine-tuning; a network of ours takes the place of the task's model."""
    task = bench.task
    assert bench.settings.epochs is not None
    steps = math.ceil(len(train.examples.lengths) / bench.settings.batch_size)
    # As many passes for every network: what BERT is worth does not depend on who was given more of them.
    epochs = max(bench.settings.epochs, float(math.ceil(_FEWEST_STEPS / steps)))
    settings = bench.settings.model_copy(update={"learning_rate": setting, "seed": seed, "epochs": epochs})
    if contender.kind != "bert":
        task = replace(task, model=lambda config, facts: _network(bench, contender))
    encoder = bench.bert if contender.kind == "bert" and contender.pretrained else None
    data = TaskData(task, bench.facts, train.examples, bench.dev.examples, bench.dev.rows)
    run = RunState([SeedState(seed)])
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, MetricsLog(Path(folder) / METRICS) as metrics:
        session = Session(
            settings,
            bench.config,
            encoder,
            data,
            bench.device,
            bench.dtype,
            metrics,
            bench.stop,
            Disk(Path(folder), Log(quiet=True)),
            Log(mute=True),
            keeps_checkpoints=False,
        )
        try:
            if not tune(session, run, None):
                raise KeyboardInterrupt
        except DivergedError:
            pass  # its best epoch up to there counts
        bad_steps = sum(entry["kind"] == "refused" for entry in read_metrics(Path(folder) / METRICS))
    if not run.current:
        answers = _majority(bench, train, bench.test)
        dev = bench.measure.of(bench.dev.gold, _majority(bench, train, bench.dev))
        return Fit(dev, _plain(answers), time.monotonic() - begun, 0.0, 1, bad_steps=bad_steps)
    model = task.model(bench.config, bench.facts)
    model.load_state_dict(run.current)
    model.to(bench.device)
    fitted = time.monotonic()
    _forget(bench, contender, bench.test)
    outputs = apply_model(model, task, bench.test.examples, bench.facts, bench.device, bench.dtype)
    answers = answers_of(bench.task, outputs, bench.test.examples, bench.facts)
    seconds = time.monotonic() - fitted
    dev = run.seeds[-1].metrics[bench.measure.name]
    source = getattr(model, "source", None)
    weights = source.weights.tolist() if isinstance(source, FrozenVectors) and source.weights is not None else None
    size = _size(model) + (_size(bench.bert) if isinstance(source, FrozenVectors) else 0)
    return Fit(dev, _plain(answers), fitted - begun, seconds, size, weights, bad_steps)


def _batches(bench: Bench, split: Split) -> Iterator[Batch]:
    """Yield all rows of a split, in their order."""
    count, size = len(split.examples.lengths), bench.settings.batch_size
    for start in range(0, count, size):
        yield split.examples.batch(range(start, min(start + size, count))).to(bench.device)


def _remember(bench: Bench, contender: Contender, splits: Sequence[Split]) -> None:
    """Make the frozen vectors that are not there yet before the clock runs: models share them."""
    source = _frozen(bench, contender)
    for batch in itertools.chain.from_iterable(_batches(bench, split) for split in splits):
        if bench.stop.requested or source.memory.is_full:
            return
        if any(source.memory.get(key) is None for key in sequence_keys(batch)):
            source(batch)


def _forget(bench: Bench, contender: Contender, split: Split) -> None:
    """Take a split's vectors out of the memory, so that the time of predicting has the encoder's in it."""
    memory = bench.memory.get(contender.layers or "")
    if memory is None:
        return
    for number in range(len(split.examples.lengths)):
        memory.forget(sequence_keys(split.examples.batch([number]))[0])


def answers_of(task: Task, outputs: Outputs, examples: Any, facts: Facts) -> Answers:
    """Return a model's answers as numbers of labels: one a row, or an array of the units' tags."""
    if task.name == "tag":
        return decode(outputs, examples, facts)[0]
    return [int(logits.argmax()) for logits in outputs]


def part_of(bench: Bench, train: Split, share: float, seed: int) -> Split:
    """Return the first ``share`` of the training rows in an order of ``seed``: smaller parts are inside larger ones."""
    count = max(1, round(share * len(train.gold)))
    numbers = np.sort(np.random.default_rng([seed, len(train.gold)]).permutation(len(train.gold))[:count])
    return bench.split(select_rows(train.rows, numbers.tolist()))


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _plain(answers: Answers) -> list[Any]:
    """Return answers as JSON takes them."""
    return [answer.tolist() if isinstance(answer, np.ndarray) else int(answer) for answer in answers]


def unplain(task: Task, answers: Sequence[Any]) -> Answers:
    """Return answers that came from JSON as they were."""
    return [np.array(answer) for answer in answers] if task.name == "tag" else answers
