"""Models that others published, and what is no model of a task."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

from bertsmith.batch import pack
from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.serving.predictor import load, predict_file
from bertsmith.task_config import PredictSettings
from bertsmith.tasks.tag_schemes import to_spans
from bertsmith.text.store import TokenStore
from tests.conftest import PUBLISHED


def published(kind: str, directory: Path, store: TokenStore, **settings: object) -> Path:
    """Save a model of transformers with random weights, large enough for outputs to differ."""
    torch.manual_seed(3)
    config = transformers.BertConfig(vocab_size=store.vocab_size, **PUBLISHED, **settings)
    model = getattr(transformers, kind)(config)
    if hasattr(model, "classifier"):
        torch.nn.init.normal_(model.classifier.weight, std=3.0)
    model.save_pretrained(directory)
    store.tokenizer.save(directory)
    return directory


def close(ours: Tensor, theirs: Tensor) -> None:
    """Weights drawn so wide make scores of tens: rounding is measured against the largest."""
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < 2e-5


def test_a_tagger_with_labels_in_another_order(tmp_path: Path, store: TokenStore) -> None:
    labels = ["I-PER", "O", "B-LOC", "B-PER"]
    directory = published("BertForTokenClassification", tmp_path / "m", store, id2label=dict(enumerate(labels)))
    predictor = load(directory)
    assert predictor.facts["labels"] == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    text = "the cat sees my sister in the river"
    encoding = predictor.tokenizer.encode(text)
    theirs = transformers.AutoModelForTokenClassification.from_pretrained(directory).eval()
    with torch.no_grad():
        logits = theirs(input_ids=torch.tensor([encoding.ids])).logits[0]
        close(predictor.model(pack([encoding.ids])), logits)
    first = [n for n, word in enumerate(encoding.word_ids) if word is not None and word != encoding.word_ids[n - 1]]
    tags = [labels[n] for n in logits.argmax(1)[first].tolist()]
    spans = to_spans(tags, "BIO")
    starts = [encoding.char_spans[n][0] for n in first]
    assert len(set(tags)) > 1
    assert spans
    assert [(s.start, s.label) for s in predictor(text).spans] == [(starts[a], label) for a, _, label in spans]


def test_a_tagger_of_plain_tags(tmp_path: Path, store: TokenStore) -> None:
    directory = published("BertForTokenClassification", tmp_path / "m", store, id2label={0: "NOUN", 1: "VERB"})
    spans = load(directory)("the cat sees").spans
    assert [(s.start, s.end) for s in spans] == [(0, 3), (4, 7), (8, 12)]
    assert {s.label for s in spans} <= {"NOUN", "VERB"}


def test_a_question_answerer(tmp_path: Path, store: TokenStore) -> None:
    directory = published("BertForQuestionAnswering", tmp_path / "m", store)
    answer = load(directory)(("what", "the cat sees the river"))
    assert answer.text == answer.context[answer.start : answer.end] != ""


def test_a_model_of_several_labels_and_one_of_a_number(tmp_path: Path, store: TokenStore) -> None:
    several = published(
        "BertForSequenceClassification",
        tmp_path / "several",
        store,
        id2label={0: "late", 1: "rude"},
        problem_type="multi_label_classification",
    )
    encoding = store.tokenizer.encode("the cat")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(several).eval()
    with torch.no_grad():
        late, rude = theirs(input_ids=torch.tensor([encoding.ids])).logits[0].sigmoid().tolist()
    assert load(several)("the cat").scores == {
        "late": pytest.approx(late, rel=1e-3),
        "rude": pytest.approx(rude, rel=1e-3),
    }
    number = published("BertForSequenceClassification", tmp_path / "number", store, num_labels=1)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(number).eval()
    with torch.no_grad():
        expected = float(theirs(input_ids=torch.tensor([encoding.ids])).logits)
    assert load(number)("the cat").value == pytest.approx(expected, rel=1e-4)


def test_a_model_of_choices(tmp_path: Path, store: TokenStore) -> None:
    directory = published("BertForMultipleChoice", tmp_path / "m", store)
    predictor = load(directory)
    endings = ["the river", "my sister sees", "a dog", "the cat"]
    encodings = [predictor.tokenizer.encode("the cat sees", ending) for ending in endings]
    theirs = transformers.AutoModelForMultipleChoice.from_pretrained(directory).eval()
    with torch.no_grad():
        expected = (
            torch.cat(
                [
                    theirs(
                        input_ids=torch.tensor([[e.ids]]), token_type_ids=torch.tensor([[e.segment_ids]])
                    ).logits.flatten()
                    for e in encodings
                ]
            )
            .softmax(0)
            .tolist()
        )
    assert predictor(("the cat sees", endings)).to_json()["scores"] == pytest.approx(expected, rel=1e-3)
    # It scores one ending at a time, so it can compare any number of them.
    two = torch.tensor(expected[:2]).log().softmax(0).tolist()
    assert predictor(("the cat sees", endings[:2])).to_json()["scores"] == pytest.approx(two, rel=1e-3)
    with pytest.raises(InputError, match="input 2: expected a context and 2 endings"):
        predictor([("the cat sees", endings[:2]), ("the cat sees", endings)])
    with pytest.raises(InputError, match="expected a context and 2 endings"):
        predictor(("the cat sees", endings[:1]))

    rows = tmp_path / "rows.csv"
    rows.write_text("context,a,b,c\nthe cat sees,the river,my sister sees,a dog\na dog,finds,likes,sees\n", "utf-8")
    settings = {"model": directory, "input": rows, "output": tmp_path / "p.jsonl", "columns": "endings=a,b,c"}
    predict_file(PredictSettings.parse(settings), Log(quiet=True))
    first, second = (json.loads(line)["scores"] for line in (tmp_path / "p.jsonl").read_text("utf-8").splitlines())
    assert first == pytest.approx(torch.tensor(expected[:3]).log().softmax(0).tolist(), rel=1e-3)
    assert len(second) == 3


def test_labels_that_nobody_named(tmp_path: Path, store: TokenStore) -> None:
    classifier = published("BertForSequenceClassification", tmp_path / "c", store)
    assert "id2label" not in (classifier / "config.json").read_text("utf-8")
    ids = store.tokenizer.encode("the cat").ids
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    with torch.no_grad():
        shares = theirs(input_ids=torch.tensor([ids])).logits[0].softmax(0).tolist()
    scores = {
        label: pytest.approx(share, rel=1e-3) for label, share in zip(("LABEL_0", "LABEL_1"), shares, strict=True)
    }
    assert load(classifier)("the cat").scores == scores
    tagger = published("BertForTokenClassification", tmp_path / "t", store)
    assert {span.label for span in load(tagger)("the cat sees a dog").spans} <= {"LABEL_0", "LABEL_1"}


def test_a_damaged_memory(tmp_path: Path, run: Path) -> None:
    with pytest.raises(InputError, match="is not a fine-tuned model; make one with: bertsmith finetune classify"):
        load(run)
    config = (run / "model" / "config.json").read_text(encoding="utf-8")
    (tmp_path / "config.json").write_text(config.replace('"task": "pretraining"', '"task": "qa"'), "utf-8")
    with pytest.raises(InputError, match="says the task but not what the model remembers"):
        load(tmp_path)
