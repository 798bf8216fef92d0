"""Who comes in: keys, names, sizes, numbers; a full house says when to come again; failures tell no texts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from starlette.types import Message

from bertsmith.errors import InputError
from bertsmith.serve_config import ServeSettings
from bertsmith.service import guard
from bertsmith.service.app import make_app
from bertsmith.service.guard import read_keys
from bertsmith.service.service import Service
from bertsmith.service.turns import Lane
from tests.service.small import Gate, service_of

VECTORS = "/v1/embeddings"
ASKED = {"model": "encoder", "input": "abc"}


@pytest.fixture
def encoder(directories: dict[str, Path]) -> dict[str, Path]:
    return {"encoder": directories["encoder"]}


@contextmanager
def asking(service: Service, keys: Sequence[str] = (), **more: Any) -> Iterator[TestClient]:
    with TestClient(make_app(service, keys, **more), "http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.005)


def gated(service: Service) -> Gate:
    gate = Gate()
    model = service.models["encoder"]
    service.models["encoder"] = replace(model, embedding=gate.before(model.embedding))
    return gate


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Basic first"}, 401),
        ({"Authorization": "first"}, 401),
        ({"X-API-Key": ""}, 401),
        ({"Authorization": "Bearer first"}, 200),
        ({"Authorization": "bearer  second"}, 200),
        ({"X-API-Key": "second"}, 200),
    ],
)
def test_keys(encoder: dict[str, Path], headers: dict[str, str], status: int) -> None:
    with asking(service_of(encoder), ["first", "second"]) as client:
        answers = [client.post(VECTORS, json=ASKED, headers=headers)]
        answers += [client.get(path, headers=headers) for path in ("/v1/models", "/metrics")]
        assert [answer.status_code for answer in answers] == [status] * 3
        if status == 401:
            assert answers[0].json()["error"]["type"] == "unauthorized"
            assert answers[0].headers["WWW-Authenticate"] == "Bearer"
        # What probes and browsers ask for first tells nothing.
        for path in ("/health", "/ready", "/docs", "/openapi.json", "/", "/page/main.js"):
            assert client.get(path, headers=headers).status_code == 200, path


def test_where_keys_are_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def keys(**settings: Any) -> tuple[str, ...]:
        return read_keys(ServeSettings.parse({"models": ["m"]} | settings))

    monkeypatch.delenv("BERTSMITH_API_KEY", raising=False)
    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        assert keys(host=host) == ()
    for host in ("0.0.0.0", "::", "10.0.0.7", "example.org"):
        with pytest.raises(InputError, match=r"others could reach .* without a key; set BERTSMITH_API_KEY"):
            keys(host=host)
        assert keys(host=host, insecure=True) == ()
    monkeypatch.setenv("BERTSMITH_API_KEY", " from-the-environment ")
    assert keys(host="0.0.0.0") == ("from-the-environment",)
    file = tmp_path / "keys"
    file.write_text("\ufeffone\r\n\n two\n", encoding="utf-8")
    assert keys(host="0.0.0.0", api_key_file=file) == ("one", "two")
    for content, message in ((b"\n", "holds no key"), (b"a b\n", "has a space"), ("키".encode(), "has a space or")):
        file.write_bytes(content)
        with pytest.raises(InputError, match=message):
            keys(api_key_file=file)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        keys(api_key_file=tmp_path / "none")


def test_names_of_other_sites_are_refused_here(encoder: dict[str, Path]) -> None:
    def status(client: TestClient, host: str) -> int:
        return client.get("/v1/models", headers={"Host": host}).status_code

    with asking(service_of(encoder)) as client:
        for host in ("127.0.0.1:8000", "localhost", "LocalHost:1", "[::1]:8000"):
            assert status(client, host) == 200, host
        for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "localhost:8000:1x"):
            assert status(client, host) == 403, host
    with asking(service_of(encoder, allow_host=["bert.example"])) as client:
        assert [status(client, host) for host in ("bert.example", "localhost", "evil.example")] == [200, 200, 403]
    with asking(service_of(encoder, host="0.0.0.0", insecure=True)) as client:
        assert status(client, "anything.example") == 200
    with asking(service_of(encoder, host="0.0.0.0", insecure=True, allow_host=["bert.example"])) as client:
        assert [status(client, host) for host in ("bert.example", "evil.example")] == [200, 403]


def test_pages_of_other_sites_may_not_ask_unless_told(encoder: dict[str, Path]) -> None:
    origin = {"Origin": "https://site.example"}
    wish = origin | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    with asking(service_of(encoder), ["key"]) as client:
        assert "Access-Control-Allow-Origin" not in client.get("/health", headers=origin).headers
        assert client.options(VECTORS, headers=wish).status_code in (401, 405)
    with asking(service_of(encoder, cors_origin=["https://site.example"]), ["key"]) as client:
        preflight = client.options(VECTORS, headers=wish)
        assert preflight.status_code == 200
        assert preflight.headers["Access-Control-Allow-Origin"] == "https://site.example"
        refused = client.post(VECTORS, json=ASKED, headers=origin)
        assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (401, "https://site.example")
        assert client.options(VECTORS, headers=wish | {"Origin": "https://evil.example"}).status_code == 400


def test_sizes(encoder: dict[str, Path]) -> None:
    with asking(service_of(encoder, max_body=700, max_texts=5, max_characters=50)) as client:
        cases: list[tuple[dict[str, Any], str | None]] = [
            ({"json": ASKED | {"input": ["a"] * 5}}, None),
            ({"json": ASKED | {"input": ["a"] * 6}}, "texts in a request: 6; this service takes at most 5 (max_texts)"),
            ({"json": ASKED | {"input": "a" * 50}}, None),
            ({"json": ASKED | {"input": ["a", "b" * 51]}}, "characters of a text: 51; this service takes at most 50"),
            ({"json": ASKED | {"input": "a" * 700}}, "bytes of a request: 7"),
            ({"content": iter([b" " * 400, b" " * 400])}, "bytes of a request: 800; this service takes at most 700"),
        ]
        for body, message in cases:
            response = client.post(VECTORS, headers={"Content-Type": "application/json"}, **body)
            if message is None:
                assert response.status_code == 200, response.text
            else:
                assert response.status_code == 413
                assert response.json()["error"]["message"].startswith(message)
                assert response.json()["error"]["type"] == "too_large"
        # What is refused leaves the house.
        assert client.post(VECTORS, json=ASKED).status_code == 200


def test_a_body_that_does_not_come(encoder: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_LONGEST_READ", 0.05)
    sent: list[Message] = []
    scope = {"type": "http", "method": "POST", "path": VECTORS, "headers": [(b"host", b"localhost")]}

    async def receive() -> Message:
        await asyncio.sleep(60)
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    service = service_of(encoder)
    asyncio.run(guard.Guard(make_app(service), service)(scope, receive, send))
    assert sent[0]["status"] == 408
    assert b"did not come within" in sent[1]["body"]
    assert service.inside == 0


def test_a_full_queue_answers_429(encoder: dict[str, Path]) -> None:
    service = service_of(encoder, max_batch_tokens=8, max_queue_tokens=10, max_wait=0)
    gate = gated(service)
    with asking(service) as client, ThreadPoolExecutor(9) as threads, gate.closed():
        answers = [threads.submit(client.post, VECTORS, json=ASKED)]
        until(gate.entered.is_set)  # one is computed, two wait
        for waiting in (1, 2):
            answers.append(threads.submit(client.post, VECTORS, json=ASKED))
            until(lambda waiting=waiting: service.turns.waiting_jobs == waiting)
        refused = client.post(VECTORS, json=ASKED)
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.json()["error"]["type"] == "overloaded"
        # Asking what there is costs nothing.
        assert client.get("/v1/models/encoder").status_code == 200
        assert client.get("/v1/models").status_code == client.get("/ready").status_code == 200
        gate.opened.set()
        assert [answer.result(60).status_code for answer in answers] == [200] * 3
        assert client.post(VECTORS, json=ASKED).status_code == 200


def test_a_full_house_answers_429_before_it_reads(encoder: dict[str, Path]) -> None:
    service = service_of(encoder, max_requests=2)
    gate = gated(service)
    with asking(service) as client, ThreadPoolExecutor(9) as threads, gate.closed():
        answers = [threads.submit(client.post, VECTORS, json=ASKED) for _ in range(2)]
        until(lambda: service.inside == 2)
        refused = client.post(VECTORS, content=b"no JSON")
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        gate.opened.set()
        assert [answer.result(60).status_code for answer in answers] == [200] * 2
        assert service.inside == 0
        until(lambda: client.post(VECTORS, json=ASKED).status_code == 200)


def test_a_short_request_does_not_wait_for_a_huge_one(encoder: dict[str, Path]) -> None:
    service = service_of(encoder, max_batch_tokens=40, max_wait=0)
    gate = gated(service)
    with asking(service) as client, ThreadPoolExecutor(9) as threads, gate.closed():
        huge = threads.submit(client.post, VECTORS, json=ASKED | {"input": ["abc def"] * 600})
        until(gate.entered.is_set)
        short = threads.submit(client.post, VECTORS, json=ASKED)
        until(lambda: service.turns.waiting_jobs == 2)
        gate.opened.set()
        assert short.result(60).status_code == 200
        # The batch that ran, and the next one, in which both were.
        assert len(huge.result(60).json()["data"]) == 600
        assert gate.batches[:2] == [1, 2]
        assert len(gate.batches) > 50


def test_a_failure_is_500_and_its_text_is_nowhere(encoder: dict[str, Path]) -> None:
    def failing(batches: Sequence[Any]) -> list[Any]:
        raise ValueError("abc is what they wrote")

    lines: list[str] = []
    service = service_of(encoder)
    service.models["encoder"] = replace(service.models["encoder"], embedding=Lane("encoder", failing))
    with asking(service, say=lines.append, warn=lines.append) as client:
        response = client.post(VECTORS, json=ASKED)
        assert response.status_code == 500
        assert response.json()["error"] == {
            "message": "something failed here; the service's log says where",
            "type": "internal",
            "param": None,
        }
        assert client.get("/ready").status_code == 200
    assert lines[0].startswith("failed: ValueError in ")
    assert "failing" in lines[0]
    assert lines[1].startswith("500 POST /v1/embeddings encoder: 1 texts, 5 tokens")
    assert "abc" not in "".join(lines)


def test_lines_and_counters_hold_no_texts(encoder: dict[str, Path]) -> None:
    lines: list[str] = []
    with asking(service_of(encoder), ["secret-key"], say=lines.append, warn=lines.append) as client:
        client.headers["X-API-Key"] = "secret-key"
        client.post(VECTORS, json=ASKED | {"input": ["personal words", "좋아"]})
        client.post(VECTORS, json={"model": "personal words", "input": "personal words"})
        client.post("/v1/models/personal words/predict?personal=words", json={"input": "personal words"})
        client.post("/v1/personal words", content=b"personal words")
        client.post(VECTORS, content=b"{personal words", headers={"Content-Type": "application/json"})
        client.get("/health")
        counted = client.get("/metrics").text
    assert len(lines) == 5
    for words in ("personal", "words", "좋", "secret"):
        assert words not in "\n".join(lines) + counted
    assert 'bertsmith_requests_total{model="encoder",route="/v1/embeddings",status="200"} 1.0' in counted
    assert 'bertsmith_texts_total{model="encoder"} 2.0' in counted
    assert 'bertsmith_requests_total{model="",route="/v1/embeddings",status="404"} 1.0' in counted
    for name in ("bertsmith_queue_tokens 0.0", "bertsmith_requests_inside 0.0", "process_resident_memory_bytes"):
        assert name in counted


def test_not_ready_before_and_after(encoder: dict[str, Path]) -> None:
    service = service_of(encoder)
    client = TestClient(make_app(service), "http://127.0.0.1")
    assert client.get("/ready").status_code == 503
    with client:
        assert client.get("/ready").status_code == 200
    assert client.get("/ready").status_code == 503
    assert client.get("/health").status_code == 200
