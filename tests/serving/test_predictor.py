"""Prediction: what a text gets whatever its company, what is refused, and files in and out."""

from __future__ import annotations

import gzip
import io
import json
import os
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

from bertsmith.batch import pack
from bertsmith.config import ModelConfig
from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.model.heads import SequenceClassifier
from bertsmith.model.weights import load_tuned, save_model
from bertsmith.serving.predictor import Predictor, load, predict_file
from bertsmith.task_config import PredictSettings
from bertsmith.text.tokenizer import Tokenizer
from tests.conftest import PUBLISHED

QUIET = Log(quiet=True)
LABELS = ("나쁨", "good", "[b]neither")
LETTERS = "abcdefghijklm"
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS), "좋", "##아", "."]
EXTRAS = {
    "task": "classify",
    "facts": {"labels": list(LABELS), "columns": {"text": "comment", "label": "label"}, "max_length": 33},
}


CONFIG = ModelConfig.parse(PUBLISHED | {"vocab_size": len(TOKENS), "initializer_range": 0.4})


def save(directory: Path, extras: dict[str, object], entries: int = len(TOKENS)) -> Path:
    """Save a model with random weights that are large enough for texts to differ."""
    torch.manual_seed(5)
    config = CONFIG.model_copy(update={"vocab_size": entries})
    save_model(
        SequenceClassifier(config, len(LABELS)),
        directory,
        Tokenizer.from_tokens(TOKENS, lowercase=True),
        labels=LABELS,
        extras=extras,
    )
    return directory


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "tuned" / "model", EXTRAS).parent


@pytest.fixture(scope="module")
def predict(model: Path) -> Predictor:
    return load(model)


def some_texts(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [
        " ".join("".join(rng.choice(list(LETTERS), rng.integers(1, 5))) for _ in range(rng.integers(1, 14)))
        for _ in range(count)
    ]


def predict_to(directory: Path, model: Path, **settings: object) -> list[dict[str, object]]:
    output = directory / "out.jsonl"
    summary = predict_file(PredictSettings.parse({"model": model, "output": output} | settings), QUIET)
    lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert summary.rows == len(lines)
    return lines


def test_a_prediction_is_the_models_softmax(model: Path, predict: Predictor) -> None:
    text = "Abc 좋아."
    network = load_tuned(SequenceClassifier(CONFIG, len(LABELS)), model / "model", CONFIG)
    encoding = Tokenizer.load(model / "model").encode(text)
    with torch.no_grad():
        expected = network(pack([encoding.ids])).softmax(1)[0].tolist()
    prediction = predict(text)
    assert prediction.text == text
    assert list(prediction.scores) == list(LABELS)
    assert list(prediction.scores.values()) == pytest.approx(expected, abs=1e-6)
    assert prediction.score == max(prediction.scores.values()) == prediction.scores[prediction.label]
    assert json.loads(json.dumps(prediction.to_json())) == {
        "text": text,
        "label": prediction.label,
        "score": prediction.score,
        "scores": prediction.scores,
        "truncated": 0,
        "windows": 1,
    }


def test_examples_of_several_callers_share_a_batch(predict: Predictor) -> None:
    texts = some_texts(23)
    steps = [predict.encode(list(enumerate(part, start=1))) for part in (texts[:3], texts[3:4], texts[4:])]
    batches = [examples.batch(range(len(examples.lengths))) for _, examples in steps]
    for (rows, examples), outputs in zip(steps, predict.outputs(batches), strict=True):
        found = predict.task.predict(outputs, examples, rows, predict.facts)
        for one, other in zip(found, predict(rows.texts), strict=True):
            assert one.scores == pytest.approx(other.scores, abs=1e-5)
            assert (one.text, one.label) == (other.text, other.label)


def test_company_does_not_matter_and_order_is_kept(predict: Predictor) -> None:
    texts = some_texts(2071)
    together = predict(texts)
    assert [p.text for p in together] == texts
    assert len({p.label for p in together}) > 1
    spread = np.ptp([p.scores["good"] for p in together])
    assert spread > 0.1, "the texts are too alike for this test to mean something"
    for n in range(0, len(texts), 61):
        assert predict(texts[n]).scores == pytest.approx(together[n].scores, abs=1e-5)
    turned = predict(texts[::-1])[::-1]
    for one, other in zip(together, turned, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-5)


def test_streams_without_reading_ahead_of_a_chunk(predict: Predictor) -> None:
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield "abc"

    stream = predict.stream(endless())
    assert taken == 0
    next(stream)
    assert taken == 1024
    assert predict([]) == []


def test_calls_from_threads(predict: Predictor) -> None:
    lists = [some_texts(150, seed) for seed in range(4)]
    expected = [predict(texts) for texts in lists]
    found: dict[int, object] = {}
    threads = [
        threading.Thread(target=lambda n=n: found.__setitem__(n, [predict(lists[n]) for _ in range(3)]))
        for n in range(len(lists))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n, once in enumerate(expected):
        for again in found[n]:
            assert [p.label for p in again] == [p.label for p in once]
            for one, other in zip(again, once, strict=True):
                assert one.scores == pytest.approx(other.scores, abs=1e-5)


def test_long_texts_are_cut_and_counted_if_asked(model: Path) -> None:
    predict = load(model, long_texts="cut")
    assert predict.max_length == 33
    exact, longer = predict(["a " * 31, "a " * 31 + "b c"])
    assert (exact.truncated, longer.truncated) == (0, 2)
    assert longer.scores == pytest.approx(exact.scores, abs=1e-5)
    assert longer.to_json()["windows"] == 1


def test_long_texts_are_read_whole(model: Path, predict: Predictor) -> None:
    words = [f"{a}{b}" for a in LETTERS for b in LETTERS][:60]
    fits, long = predict([" ".join(words[:15]), " ".join(words)])
    assert (fits.windows, long.windows, long.truncated) == (1, 5, 0)
    # 120 tokens in windows of 31 that begin and end between words: the mean of their logits decides.
    network, encode = predict.model, Tokenizer.load(model / "model").encode
    starts = [(0, 15), (11, 26), (22, 37), (34, 49), (45, 60)]
    with torch.no_grad():
        logits = [network(pack([encode(" ".join(words[a:b])).ids])) for a, b in starts]
    expected = torch.cat(logits).mean(0).softmax(0).tolist()
    assert list(long.scores.values()) == pytest.approx(expected, abs=1e-5)
    assert long.to_json()["windows"] == 5
    other = predict([" ".join([*words[:59], "mm"])])[0]
    assert other.scores != pytest.approx(long.scores, abs=1e-4)


def test_pairs(predict: Predictor, tmp_path: Path) -> None:
    pairs = load(save(tmp_path / "pairs", {}))
    assert pairs.max_length == 41
    one, two = pairs([("abc", "a"), ("abc", "b")])
    assert one.scores != pytest.approx(two.scores, abs=1e-4)
    assert pairs(("abc", "a")).scores == pytest.approx(one.scores, abs=1e-5)
    assert one.to_json()["text_b"] == "a"
    with pytest.raises(InputError, match="text 1 is an empty text"):
        pairs(("abc", " "))
    with pytest.raises(InputError, match="text 1 is a pair, but the model was tuned on single texts"):
        predict(("abc", "a"))
    with pytest.raises(InputError, match="text 2 is a group of 3 texts"):
        pairs(["a", ("a", "b", "c")])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", "\t "], "text 2 is an empty text"),
        ("", "text 1 is an empty text"),
        (None, "NoneType is not a text"),
        ({"text": "a"}, "row 1 has no column 'comment'"),
        (b"abc", "bytes is not a text"),
        (["a", float("nan")], "text 2 is of type float; expected a string"),
        ((), "text 1 is an empty text"),
    ],
)
def test_what_is_not_a_text(predict: Predictor, texts: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        predict(texts)


def test_a_lone_surrogate_predicts(predict: Predictor) -> None:
    assert predict("a \ud800 b").text == "a \ud800 b"


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="they do not belong together"):
        load(save(tmp_path / "model", EXTRAS, entries=len(TOKENS) - 1))


def test_a_model_directory_without_tokenizer(tmp_path: Path) -> None:
    directory = save(tmp_path / "model", EXTRAS)
    for name in ("tokenizer.json", "vocab.txt", "checksums.json"):
        (directory / name).unlink()
    with pytest.raises(InputError, match="holds no tokenizer"):
        load(directory)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.tab", "a.jsonl", "a.csv.gz", "a.parquet", "a.pq", "a.txt"])
def test_files(model: Path, tmp_path: Path, predict: Predictor, name: str) -> None:
    texts = ["abc", "좋아", "m l"]
    path = tmp_path / name
    if name.endswith((".pq", ".parquet")):
        pq.write_table(pa.table({"id": [1, 2, 3], "comment": texts}), path)
    elif name.endswith(".txt"):
        path.write_bytes("\r\n".join(texts).encode())
    elif name.endswith(".jsonl"):
        path.write_text("".join(json.dumps({"comment": t, "id": 1}) + "\n" for t in texts), encoding="utf-8")
    else:
        cell = "," if ".csv" in name else "\t"
        content = "".join(f"{n}{cell}{t}\n" for n, t in [("id", "comment"), *enumerate(texts)]).encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    lines = predict_to(tmp_path, model, input=path)
    assert [line["text"] for line in lines] == texts
    for line, expected in zip(lines, predict(texts), strict=True):
        assert line["label"] == expected.label
        assert line["scores"] == pytest.approx(expected.scores, abs=1e-5)


def test_another_column(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("comment,title\nabc,b\n", encoding="utf-8")
    assert predict_to(tmp_path, model, input=tmp_path / "a.csv", columns="text=title")[0]["text"] == "b"
    with pytest.raises(InputError, match=r"'body=title' is not role=name.* Roles of this model: text, label"):
        predict_to(tmp_path, model, input=tmp_path / "a.csv", columns="body=title")
    with pytest.raises(InputError, match=r"no column 'titel'\. Did you mean 'title'\? Columns: comment, title"):
        predict_to(tmp_path, model, input=tmp_path / "a.csv", columns="text=titel")
    joined = predict_to(tmp_path, model, input=tmp_path / "a.csv", columns="text=title,comment,label=none")
    assert joined[0]["text"] == "b abc"


class Stdin:
    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


def test_standard_input_to_standard_output(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", Stdin("\ufeffabc\n좋아".encode()))
    predict_file(PredictSettings(model=model, input=Path("-")), Log())
    said = capsys.readouterr()
    assert [json.loads(line)["text"] for line in said.out.splitlines()] == ["abc", "좋아"]
    assert said.err.startswith("predicting 2  ")
    monkeypatch.setattr("sys.stdin", Stdin(b"abc\n \n"))
    with pytest.raises(InputError, match=r"^standard input:2: the text is empty"):
        predict_file(PredictSettings(model=model, input=Path("-")), QUIET)
    monkeypatch.setattr("sys.stdin", Stdin(b""))
    with pytest.raises(InputError, match=r"^standard input: holds no text"):
        predict_file(PredictSettings(model=model, input=Path("-")), QUIET)


def test_the_bar_of_a_terminal(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr("bertsmith.console._console", lambda: Console(file=shown, force_terminal=True, width=90))
    (tmp_path / "a.txt").write_text("abc\nde\n", encoding="utf-8")
    predict_file(PredictSettings(model=model, input=tmp_path / "a.txt", output=tmp_path / "out.jsonl"), Log())
    assert "100%" in shown.getvalue()
    monkeypatch.setattr("sys.stdin", Stdin(b"abc\nde\n"))
    predict_file(PredictSettings(model=model, input=Path("-"), output=tmp_path / "out.jsonl"), Log())
    assert "2 predictions" in shown.getvalue()


def test_long_texts_are_said(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("abc\n" + "a " * 50 + "\n", encoding="utf-8")
    predict_file(PredictSettings(model=model, input=tmp_path / "a.txt", output=tmp_path / "out.jsonl"), QUIET)
    assert capsys.readouterr().err == ""
    settings = PredictSettings(model=model, input=tmp_path / "a.txt", output=tmp_path / "out.jsonl")
    assert predict_file(settings, Log()).windowed == 1
    assert "1 of 2 texts were longer than 33 tokens and were read in windows" in capsys.readouterr().err
    predict_file(settings.model_copy(update={"long_texts": "cut"}), QUIET)
    assert "1 of 2 texts were longer than 33 tokens and were cut" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "comment\n", r"a\.csv: holds no text"),
        ("a.txt", "", r"a\.txt: holds no text"),
        ("a.txt", "abc\n" * 1500 + "\n", r"a\.txt:1501: the text is empty"),
        ("a.csv", "comment,id\nabc,1\n ,2\n", r"a\.csv:3: the text is empty"),
        ("a.jsonl", '{"comment": "abc"}\n{"coment": "abc"}\n', r"a\.jsonl:2: has no field 'comment'\. Did you mean"),
    ],
)
def test_unusable_input_leaves_the_old_output(
    model: Path, tmp_path: Path, name: str, content: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    (tmp_path / "out.jsonl").write_text("old", encoding="utf-8")
    monkeypatch.setattr(Predictor, "stream", lambda *_: pytest.fail("predicted before the input was looked through"))
    if "no text" in message:
        monkeypatch.setattr(Predictor, "stream", lambda *_: iter(()))
    with pytest.raises(InputError, match=message):
        predict_to(tmp_path, model, input=tmp_path / name)
    assert (tmp_path / "out.jsonl").read_text(encoding="utf-8") == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "out.jsonl"])


def test_outputs_that_are_refused(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("abc\n", encoding="utf-8")
    (tmp_path / "link.txt").symlink_to(path)
    for output, message in (
        (tmp_path, "is a directory"),
        (path, "is the input itself"),
        (tmp_path / "link.txt", "is the input itself"),
        (path / "out.jsonl", "cannot be made as a directory"),
    ):
        with pytest.raises(InputError, match=message):
            predict_file(PredictSettings(model=model, input=path, output=output), QUIET)
    assert path.read_text(encoding="utf-8") == "abc\n"


def test_a_pipe_and_a_link_stay_what_they_are(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abc\n", encoding="utf-8")
    pipe, link, target = tmp_path / "pipe", tmp_path / "link", tmp_path / "target"
    os.mkfifo(pipe)
    target.write_text("old", encoding="utf-8")
    link.symlink_to(target)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text(encoding="utf-8")), daemon=True)
    reader.start()
    predict_file(PredictSettings(model=model, input=tmp_path / "a.txt", output=pipe), QUIET)
    reader.join(timeout=10)
    assert pipe.is_fifo()
    assert json.loads(read[0])["text"] == "abc"
    predict_file(PredictSettings(model=model, input=tmp_path / "a.txt", output=link), QUIET)
    assert link.is_symlink()
    assert json.loads(target.read_text(encoding="utf-8"))["text"] == "abc"
