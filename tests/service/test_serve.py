"""The service as others meet it: over sockets, by OpenAI's client, until it is ended."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn

import bertsmith
from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.features.encoder import Encoder
from bertsmith.serve_config import ServeSettings
from bertsmith.service import serve as stage
from bertsmith.service.app import make_app
from bertsmith.service.service import Service
from tests.features.small import some_texts
from tests.service.small import TUNED, Gate, close, json_inputs, loaded, python_inputs, service_of

QUIET = Log(mute=True)


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.01)


@contextmanager
def running(service: Service, keys: tuple[str, ...] = ()) -> Iterator[tuple[str, uvicorn.Server, threading.Thread]]:
    """Run an application as the stage does, in a thread; yields its address and what ends it."""
    server = uvicorn.Server(stage.server_settings(make_app(service, keys), service.settings))
    with stage.bound("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            until(lambda: server.started)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", server, thread
        finally:
            server.should_exit = True
            thread.join(60)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def address(directories: dict[str, Path]) -> Iterator[str]:
    with running(service_of(directories)) as (found, _, _):
        yield found


def test_openais_client(address: str, directories: dict[str, Path]) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none is needed", max_retries=0)
    assert [model.id for model in client.models.list()] == list(directories)
    assert client.models.retrieve("qa").owned_by == "bertsmith"
    texts = [*some_texts(5), "좋아"]
    expected = Encoder.load(directories["encoder"], device="cpu", threads=1).encode(texts)
    for more in ({}, {"encoding_format": "float"}):
        answer = client.embeddings.create(model="encoder", input=texts, **more)
        np.testing.assert_allclose([each.embedding for each in answer.data], expected, atol=1e-5)
    assert answer.usage.total_tokens > 12
    with pytest.raises(openai.NotFoundError, match=r"no model 'encodr' here\. Did you mean 'encoder'"):
        client.embeddings.create(model="encodr", input="a")
    with pytest.raises(openai.UnprocessableEntityError, match="dimensions 3"):
        client.embeddings.create(model="encoder", input="a", dimensions=3)


def test_several_models_at_once(address: str, directories: dict[str, Path]) -> None:
    expected = {}
    for task in TUNED:
        predictor = loaded(task, directories[task], "cpu").predictor
        assert predictor is not None
        expected[task] = [json.loads(json.dumps(found.to_json())) for found in predictor(python_inputs(task))]

    with httpx.Client(base_url=address) as client, ThreadPoolExecutor(8) as threads:

        def is_right(each: tuple[str, int]) -> bool:
            task, number = each
            answer = client.post(f"/v1/models/{task}/predict", json={"input": json_inputs(task)[number]})
            return close(answer.json()["predictions"], [expected[task][number]])

        assert all(threads.map(is_right, [(task, number) for number in range(9) for task in TUNED]))


def test_a_client_that_goes_away_leaves_the_queue(directories: dict[str, Path]) -> None:
    service = service_of({"encoder": directories["encoder"]}, max_batch_tokens=8, max_wait=0)
    model, gate = service.models["encoder"], Gate()
    service.models["encoder"] = replace(model, embedding=gate.before(model.embedding))

    def send(texts: list[str]) -> socket.socket:
        body = json.dumps({"model": "encoder", "input": texts}).encode()
        connection = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])))
        head = "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
        connection.sendall(head.encode() + str(len(body)).encode() + b"\r\n\r\n" + body)
        return connection

    with running(service) as (address, _, _), gate.closed():
        first, second = send(["abc"] * 9), None
        until(gate.entered.is_set)
        second = send(["abc"] * 5)
        until(lambda: service.turns.waiting_jobs == 2)
        before = service.turns.waiting_tokens
        second.close()
        until(lambda: service.turns.waiting_jobs == 1)
        assert service.turns.waiting_tokens < before
        first.close()
        until(lambda: service.turns.waiting_jobs == 0)
        gate.opened.set()
        assert httpx.post(f"{address}/v1/embeddings", json={"model": "encoder", "input": "a"}).status_code == 200
        # Of both only the batch that ran was computed.
        assert len(gate.batches) == 2
        until(lambda: service.inside == 0)
        assert 'status="499"} 2.0' in httpx.get(f"{address}/metrics").text


def test_the_end_waits_for_what_is_running(directories: dict[str, Path]) -> None:
    service = service_of({"encoder": directories["encoder"]})
    model, gate = service.models["encoder"], Gate()
    service.models["encoder"] = replace(model, embedding=gate.before(model.embedding))
    with running(service) as (address, server, thread), ThreadPoolExecutor(3) as threads, gate.closed():
        asked = {"model": "encoder", "input": ["abc", "d"]}
        answers = [threads.submit(httpx.post, f"{address}/v1/embeddings", json=asked, timeout=60) for _ in range(2)]
        until(gate.entered.is_set)
        until(lambda: service.inside == 2)
        server.should_exit = True

        def is_refused() -> bool:
            try:
                return httpx.get(f"{address}/health").is_error
            except httpx.TransportError:
                return True

        until(is_refused)
        assert thread.is_alive()
        gate.opened.set()
        for answer in answers:
            assert len(answer.result(60).json()["data"]) == 2
        thread.join(60)
        assert not service.is_ready


def test_an_end_that_waits_too_long_lets_go(directories: dict[str, Path]) -> None:
    service = service_of({"encoder": directories["encoder"]}, max_shutdown=1, max_batch_tokens=8, max_wait=0)
    model, gate = service.models["encoder"], Gate()
    service.models["encoder"] = replace(model, embedding=gate.before(model.embedding))
    with running(service) as (address, server, _), ThreadPoolExecutor(3) as threads, gate.closed():
        asked = {"model": "encoder", "input": ["abc"] * 9}
        answer = threads.submit(httpx.post, f"{address}/v1/embeddings", json=asked, timeout=60)
        until(gate.entered.is_set)
        server.should_exit = True
        assert answer.result(60).status_code == 503
        assert answer.result().json()["error"]["message"] == "the service ended before this was done"
        assert service.turns.waiting_jobs == 0


_WATCHED = """
import os, sys
def seen(event, arguments):
    if event == "open":
        path, _, flags = arguments
        written = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and path not in ("/dev/null", os.devnull)
    else:
        written = event in ("os.mkdir", "os.rename", "os.remove", "os.symlink", "os.link", "tempfile.mkstemp")
    if written:
        os.write(2, f"WROTE {event} {arguments}\\n".encode())
sys.addaudithook(seen)
from bertsmith.__main__ import main
main()
"""


def test_the_command_writes_no_files_and_logs_no_texts(directories: dict[str, Path], tmp_path: Path) -> None:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("BERTSMITH")},
        "BERTSMITH_LANG": "en",
        "BERTSMITH_API_KEY": "secret-key",
        "BERTSMITH_KERNELS": "0",  # they are compiled once a machine, where there is a place for them
        "PYTHONPATH": str(Path(bertsmith.__file__).parents[1]),
        "HOME": str(tmp_path / "no-home"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    models = [str(directories["classify"]), f"run={directories['heads']}"]
    process = subprocess.Popen(
        [sys.executable, "-c", _WATCHED, "serve", *models, "--port", "0", "--threads", "1"],
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment,
        cwd=tmp_path,
    )
    lines: list[str] = []
    assert process.stderr is not None
    try:
        for line in process.stderr:
            lines.append(line)
            if line.startswith("next: "):
                break
        address = re.search(r"http://127\.0\.0\.1:\d+", "".join(lines))
        assert address is not None, lines
        assert "next: curl http://127.0.0.1:" in lines[-1]
        assert '/v1/models/classify/predict -H "Authorization: Bearer $BERTSMITH_API_KEY"' in lines[-1]
        headers = {"Authorization": "Bearer secret-key"}
        with httpx.Client(base_url=address[0], headers=headers, timeout=60) as client:
            until(lambda: _answers(client))
            assert client.post("/v1/models/classify/predict", json={"input": "my words"}).status_code == 200
            assert client.post("/v1/models/run/fill", json={"text": "my [MASK]"}).status_code == 200
            assert client.post("/v1/embeddings", json={"model": "run", "input": "my words"}).status_code == 200
            assert client.post("/v1/models/my words/fill", json={"text": "my words"}).status_code == 404
            assert client.get("/v1/models", headers={"Authorization": "Bearer other"}).status_code == 401
        process.send_signal(signal.SIGTERM)
        lines += process.stderr.readlines()
        assert process.wait(60) == 0
    finally:
        process.kill()
    said = "".join(lines)
    assert "WROTE" not in said, said
    assert "my words" not in said
    assert "secret" not in said
    assert re.search(r"\S+ 200 POST /v1/models/\{name\}/predict classify: 1 texts, \d+ tokens, [\d.]+ ms", said)
    assert lines[-1] == "no longer serving\n"
    assert list(tmp_path.iterdir()) == []


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/ready").status_code == 200
    except httpx.TransportError:
        return False


def test_what_cannot_be_served(directories: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**settings: Any) -> str:
        with pytest.raises(InputError) as error:
            stage.serve(ServeSettings.parse({"models": [str(directories["encoder"])]} | settings), QUIET)
        return str(error.value)

    monkeypatch.delenv("BERTSMITH_API_KEY", raising=False)
    with stage.bound("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        message = f"port {port} cannot be used: Address already in use; choose another --port, or 0 for a free one"
        assert refused(port=port) == message
    assert "no such directory" in refused(models=["nowhere"], port=0)
    assert "two models are called" in refused(models=["a", "b/a"])
    assert "without a key" in refused(host="0.0.0.0")
    assert "cannot be used" in refused(host="no such host.invalid", insecure=True)
    assert "device 'gpu' cannot be used" in refused(device="gpu", port=0)
    with pytest.raises(InputError, match="models"):
        ServeSettings.parse({})
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert refused() == "serving needs uvicorn: pip install 'bertsmith[serve]'"
