"""The benchmark of the service runs, counts what comes back, and knows the vectors."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.features.small import save, some_texts

pytest.importorskip("fastapi")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import serving

    model, output = save(tmp_path / "model"), tmp_path / "out.json"
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "en_a.txt").write_text("\n\n".join(f"{text}." for text in some_texts(90)), encoding="utf-8")
    sizes = ["--seconds", "0.4", "--rounds", "1", "--requests", "60", "--memory-requests", "30", "--no-peers"]
    serving.main(["--data", str(tmp_path), "--model", str(model), *sizes, "--json", str(output)])
    values = json.loads(output.read_text(encoding="utf-8"))
    assert values["least_cosine"]["bertsmith"] > 0.99999
    assert list(values["servers"]["bertsmith"]) == ["0.5x", "1x", "2x"]
    for load in values["servers"]["bertsmith"].values():
        assert set(load["statuses"]) <= {"200", "429"}
        assert load["statuses"]["200"] > 0
        assert 0 < load["p50_ms"] <= load["p99_ms"]
    assert values["capacity"]["tokens_per_second"] > 0
    assert values["memory"]["statuses"] == {"200": 30}
    assert min(values["memory"]["resident_mb"]) > 50
    assert "uvicorn" in values["machine"]["versions"]
    assert "p99 ms" in capsys.readouterr().out


def test_a_load_counts_what_comes_back() -> None:
    from http_load import Prepared, closed_load, open_load

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = 0
        while head := await reader.readline():
            status, number = ("200 OK", "429 No", "200 OK")[number % 3], number + 1
            if head.startswith(b"GET /none"):
                break
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nok".encode())
        writer.close()

    async def loads() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            few = [Prepared(b"GET /\r\n", 3)]
            found = await closed_load(port, few, 1, 0.2)
            assert set(found.statuses) == {200, 429}
            assert found.statuses[200] == pytest.approx(2 * found.statuses[429], abs=2)
            assert found.tokens_per_second == pytest.approx(3 * found.requests_per_second)
            found = await open_load(port, few, rate=200, seconds=0.3)
            assert 20 < sum(found.statuses.values()) < 120
            found = await closed_load(port, [Prepared(b"GET /none\r\n", 1)], 2, 0.1)
            assert set(found.statuses) == {0}

    asyncio.run(loads())
