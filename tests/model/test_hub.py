"""Names of the hub: only with their prefix, and every failure is one line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
import transformers

from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.model.hub import download, pinned
from bertsmith.model.weights import load_encoder, model_directory
from bertsmith.task_config import ClassifySettings
from bertsmith.text.store import TokenStore
from bertsmith.training.finetune import finetune

hub = pytest.importorskip("huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the hub's library find nothing that is already on this machine, and no token."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)


def published(directory: Path, store: TokenStore) -> transformers.BertModel:
    """Write what a download leaves: a directory that is named by the commit."""
    torch.manual_seed(3)
    numbers = {"num_hidden_layers": 1, "hidden_size": 12, "num_attention_heads": 2, "intermediate_size": 17}
    model = transformers.BertModel(transformers.BertConfig(vocab_size=store.vocab_size, **numbers))
    model.save_pretrained(directory)
    store.tokenizer.save(directory)
    return model


def test_a_name_is_fetched_with_its_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fake(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repository, revision))
        assert not any("bin" in pattern for pattern in allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", fake)
    with pytest.raises(InputError, match=r"hub:who/what: publishes no safetensors.*--from-pickle"):
        model_directory(Path("hub:who/what"))
    (tmp_path / "model.safetensors").touch()
    assert model_directory(Path("hub:who/what")) == tmp_path
    assert model_directory(Path("hub:bert-base@v2")) == tmp_path
    assert asked[1:] == [("who/what", None), ("bert-base", "v2")]


def test_a_run_from_a_name_remembers_the_commit(
    tmp_path: Path, store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = published(tmp_path / COMMIT, store)
    asked = []

    def fake(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repository, revision))
        return str(tmp_path / COMMIT)

    monkeypatch.setattr(hub, "snapshot_download", fake)
    ours = load_encoder(Path("hub:who/what@main"))
    assert torch.equal(ours.embeddings.token.weight, theirs.embeddings.word_embeddings.weight)

    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n" + "the cat sees,a\na dog likes,b\n" * 4, "utf-8")
    values = {"model": "hub:who/what", "train": rows, "dev": rows, "output": tmp_path / "tuned", "epochs": 1}
    finetune(ClassifySettings.parse(values | {"threads": 1, "max_length": 16}), Log(quiet=True))
    written = ClassifySettings.from_yaml(tmp_path / "tuned" / "config.yaml")
    assert written.model == Path(f"hub:who/what@{COMMIT}")
    assert model_directory(written.model) == tmp_path / COMMIT
    assert asked[-1] == ("who/what", COMMIT)


def test_what_is_pinned() -> None:
    snapshot = Path("cache") / "snapshots" / COMMIT
    assert pinned(Path("hub:who/what@v2"), snapshot) == Path(f"hub:who/what@{COMMIT}")
    assert pinned(Path("hub:who/what"), Path("elsewhere")) == Path("hub:who/what")
    assert pinned(Path("who/what"), snapshot) == Path("who/what")


def test_a_mistyped_path_never_goes_to_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object, **named: object) -> str:
        raise AssertionError("asked the hub")

    monkeypatch.setattr(hub, "snapshot_download", never)
    with pytest.raises(InputError, match=r"no such directory.*\(a model of the hub is named hub:who/what\)"):
        model_directory(Path("who/what"))
    with pytest.raises(InputError, match=r"\(a model of the hub is named hub:bert-base-uncased\)"):
        model_directory(Path("bert-base-uncased"))
    with pytest.raises(InputError, match=r"expected a model or a run$"):
        model_directory(Path("/no/such/place"))


def test_failures_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object, **named: object) -> str:
        raise ConnectionError("\nno route\nsecond line")

    monkeypatch.setattr(hub, "snapshot_download", fails)
    with pytest.raises(InputError, match=r"hub:who/what: cannot be had from the hub: no route$"):
        download("hub:who/what")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install 'bertsmith\[hub\]'"):
        download("hub:who/what")


@contextmanager
def answering(code: str) -> Iterator[str]:
    """Stand for the hub on this machine: every request gets the hub's word for one kind of failure."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(403 if code == "GatedRepo" else 404)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.usefixtures("no_cache")
@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("RepoNotFound", r"the hub has no such model, or it is private"),
        ("GatedRepo", r"is gated: accept its terms"),
        ("RevisionNotFound", r"the model has no revision 'v9'$"),
    ],
)
def test_what_the_hub_refuses(monkeypatch: pytest.MonkeyPatch, code: str, message: str) -> None:
    with answering(code) as address:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        with pytest.raises(InputError, match=rf"^hub:who/what@v9: {message}"):
            model_directory(Path("hub:who/what@v9"))


@pytest.mark.usefixtures("no_cache")
def test_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing listens on this port.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"^hub:who/what: the hub cannot be reached, and there is no earlier download"):
        model_directory(Path("hub:who/what"))
