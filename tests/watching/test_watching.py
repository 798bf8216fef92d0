"""A run's log as it grows, the page that shows it, and TensorBoard's files."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.text.store import TokenStore
from bertsmith.training import pretrain as pretraining
from bertsmith.training.checkpoint import read_metrics
from bertsmith.training.pretrain import pretrain
from bertsmith.watch_config import WatchSettings
from bertsmith.watching import followers
from bertsmith.watching.log import GrowingLog
from bertsmith.watching.server import served
from bertsmith.watching.watch import watch
from tests.conftest import tiny_run

BLANK = {"before": "the old", "after": "sees <b>a</b> dog", "answer": "man", "guesses": [["man", 0.7], ["cat", 0.2]]}


def train_line(step: int, **more: Any) -> str:
    entry = {"step": step, "kind": "train", "loss": 9 - step / 50, "mlm_loss": 8 - step / 50, "learning_rate": 1e-3}
    entry |= {"grad_norm": 1.5, "tokens": 100 * step, "tokens_per_second": 2000.0, "seconds": step / 10}
    return json.dumps(entry | more) + "\n"


def eval_line(step: int, **more: Any) -> str:
    entry = {"step": step, "kind": "eval", "mlm_loss": 8.1 - step / 50, "mlm_accuracy": 0.1, "nsp_accuracy": 0.6}
    entry |= {"nsp_majority": 0.55, "unigram_entropy": 7.5, "blanks": [BLANK]}
    return json.dumps(entry | more) + "\n"


def steps(entries: list[dict[str, Any]]) -> list[int]:
    return [entry["step"] for entry in entries]


def test_whole_lines_once_and_half_ones_later(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = GrowingLog(path)
    first = log.read()
    assert (first.entries, first.offset) == ([], 0)
    path.write_text(train_line(1) + "not json\n" + train_line(2)[:-20], encoding="utf-8")
    piece = log.read(first.generation, first.offset)
    assert (steps(piece.entries), piece.is_new) == ([1], False)
    with path.open("a", encoding="utf-8") as file:
        file.write(train_line(2)[-20:] + train_line(3, loss=float("nan")))
    more = log.read(piece.generation, piece.offset)
    assert steps(more.entries) == [2, 3]
    assert more.entries[1]["loss"] is None
    assert log.read(more.generation, more.offset).entries == []
    assert steps(log.read("somebody else's", 10**6).entries) == [1, 2, 3]


def test_a_log_that_is_replaced_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(map(train_line, range(1, 6))), encoding="utf-8")
    log = GrowingLog(path)
    piece = log.read()
    for kept in (3, 5, 1):  # longer and shorter than what was read
        other = tmp_path / "other"
        other.write_text("".join(map(train_line, range(1, kept + 1))), encoding="utf-8")
        other.replace(path)
        piece = log.read(piece.generation, piece.offset)
        assert piece.is_new
        assert steps(piece.entries) == list(range(1, kept + 1))
    path.write_text(train_line(7)[:5], encoding="utf-8")  # the same file, cut
    assert log.read(piece.generation, piece.offset).is_new
    path.unlink()
    assert log.read().entries == []


def test_long_logs_come_in_pieces(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(map(train_line, range(1, 30))), encoding="utf-8")
    log, found = GrowingLog(path), []
    piece = log.read(at_most=50)  # less than a line
    while piece.entries:
        found += steps(piece.entries)
        assert piece.has_more or found[-1] == 29
        piece = log.read(piece.generation, piece.offset, at_most=500)
    assert found == list(range(1, 30))


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "metrics.jsonl").write_text(train_line(1) + eval_line(1), encoding="utf-8")
    (tmp_path / "config.yaml").write_text("size: mini\nlayers: null\n", encoding="utf-8")
    with served(tmp_path, 0) as found:
        yield found


def fetch(address: str, **headers: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_what_the_server_answers(address: str, tmp_path: Path) -> None:
    assert address.startswith("http://127.0.0.1:")
    page = fetch(address)[1].decode()
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")  # works without internet
    piece = json.loads(fetch(f"{address}log")[1])
    assert steps(piece["entries"]) == [1, 1]
    again = json.loads(fetch(f"{address}log?generation={piece['generation']}&offset={piece['offset']}")[1])
    assert (again["entries"], again["is_new"]) == ([], False)
    facts = json.loads(fetch(f"{address}run")[1])
    assert facts == {"name": tmp_path.name, "settings": {"size": "mini"}, "finished": False}


def test_what_the_server_refuses(address: str) -> None:
    assert fetch(f"{address}log?offset=-1")[0] == 400
    assert fetch(f"{address}../config.yaml")[0] == 404
    assert fetch(address, Host="evil.example")[0] == 403
    with pytest.raises(urllib.error.HTTPError, match="501"):
        urllib.request.urlopen(address, data=b"x", timeout=10)
    port = int(address.rstrip("/").rpartition(":")[2])
    with pytest.raises(InputError, match=f"port {port} cannot be used"), served(Path(), port):
        pass


def test_watch_until_it_is_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="is no run"):
        watch(WatchSettings(run=tmp_path))
    (tmp_path / "metrics.jsonl").touch()
    ended = threading.Event()
    ended.set()
    watch(WatchSettings(run=tmp_path), until=ended)
    assert "http://127.0.0.1:" in capsys.readouterr().err


def event_steps(folder: Path, tag: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    read.Reload()
    return [(event.step, event.value) for event in read.Scalars(tag)]


def test_tensorboard_after_a_stop_has_every_step_once(
    store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    output = tmp_path / "run"
    real, made = pretraining.metrics_entry, []

    def dies_after_seven(*arguments: Any) -> dict[str, Any]:
        made.append(1)
        if len(made) == 8:
            raise RuntimeError("power cut")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "metrics_entry", dies_after_seven)
        with pytest.raises(RuntimeError, match="power cut"):
            pretrain(tiny_run(store, output, tensorboard=True))
    assert [step for step, _ in event_steps(output / "tensorboard", "train/mlm_loss")] == list(range(1, 8))
    # The checkpoint is of step 4, so steps 5 to 7 are made again.
    pretrain(tiny_run(store, output, tensorboard=True, resume=True))
    entries = read_metrics(output / "metrics.jsonl")
    for kind, tag in (("train", "mlm_loss"), ("train", "grad_norm"), ("eval", "nsp_accuracy")):
        expected = [(e["step"], e[tag]) for e in entries if e["kind"] == kind]
        found = event_steps(output / "tensorboard", f"{kind}/{tag}")
        assert [step for step, _ in found] == [step for step, _ in expected]
        assert [value for _, value in found] == pytest.approx([value for _, value in expected], rel=1e-6)


def test_seeds_are_runs_of_their_own_in_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from bertsmith.watching.events import event_files

    (tmp_path / "config.yaml").touch()
    with event_files(tmp_path, Log()):
        lines = train_line(1, seed=0) + eval_line(1, seed=0, macro_f1=0.5) + train_line(1, seed=1, loss=None)
        (tmp_path / "metrics.jsonl").write_text(lines, encoding="utf-8")
    assert event_steps(tmp_path / "tensorboard" / "seed-0", "eval/macro_f1") == [(1, 0.5)]
    assert event_steps(tmp_path / "tensorboard" / "seed-1", "train/grad_norm") == [(1, 1.5)]


def test_tensorboard_without_the_package(store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"bertsmith\[tensorboard\]"):
        pretrain(tiny_run(store, tmp_path / "run", tensorboard=True))
    assert not (tmp_path / "run").exists()


def test_a_run_serves_its_own_curves(
    store: TokenStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []
    real = pretraining.filled_blanks

    def looked_at(*arguments: Any) -> list[dict[str, Any]]:
        address = capsys.readouterr().err.split("as they grow: ")
        if len(address) == 2:
            seen.append(json.loads(fetch(address[1].split()[0] + "run")[1]))
        return real(*arguments)

    monkeypatch.setattr(pretraining, "filled_blanks", looked_at)
    pretrain(tiny_run(store, tmp_path / "run", watch=True, quiet=False, steps=2))
    assert seen[0]["settings"]["steps"] == "2"


def test_blanks_are_the_same_at_every_evaluation_and_after_a_resume(run: Path, store: TokenStore) -> None:
    entries = [e for e in read_metrics(run / "metrics.jsonl") if e["kind"] == "eval"]
    asked = [[(b["before"], b["after"], b["answer"]) for b in e["blanks"]] for e in entries]
    assert len(asked[0]) == 4
    assert all(blanks == asked[0] for blanks in asked)
    first, last = entries[0]["blanks"], entries[-1]["blanks"]
    assert first != last  # the guesses change
    for blank in last:
        shares = [share for _, share in blank["guesses"]]
        assert shares == sorted(shares, reverse=True)
        assert 0 < sum(shares) <= 1.001
        assert blank["answer"] in store.tokenizer.tokens


def test_left_to_right_blanks_have_nothing_behind_them(store: TokenStore, tmp_path: Path) -> None:
    pretrain(tiny_run(store, tmp_path / "run", direction="left-to-right", next_sentence=False, steps=1))
    blanks = read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["blanks"]
    assert all(blank["before"] and not blank["after"] for blank in blanks)
