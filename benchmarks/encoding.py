"""Our vectors of texts beside those of other engines: throughput, latency, and that they are the same vectors.

python benchmarks/encoding.py --data ../shared/data --texts 20000 --json encoding.json

Two jobs: 512 sentences of mixed lengths, and many lines as they stand in the files. Every engine gets the same strings
and gives float32 vectors: mean over the tokens of the last layer, scaled to length 1; tokenising is part of every
engine's time. With --precision bfloat16 ours and OpenVINO compute in bfloat16, the others in float32 as before. Ours is
the public `Encoder`. The others pad: texts are tokenised, sorted by length and go through in batches of --batch-size,
each padded to its longest. Engines take turns in every round; printed are medians and ratios. transformers is always
there; sentence-transformers, onnxruntime (with onnx and onnxscript for the export) and openvino take part where they
can be imported.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from finetuning import encoder_directory
from machine import describe

from bertsmith.features.encoder import Encoder
from bertsmith.text.sentences import split_sentences

Encode = Callable[[Sequence[str]], np.ndarray]

NEEDS = {
    "bertsmith": (),
    "transformers": ("transformers",),
    "sentence-transformers": ("sentence_transformers",),
    "onnxruntime": ("onnxruntime", "onnx", "onnxscript"),
    "openvino": ("openvino",),
}
SENTENCES = 512
_CALLS_A_TURN, _CALLS_BEFORE = 25, 5


@dataclass(frozen=True)
class Setup:
    """What all engines share."""

    model: Path
    max_length: int
    batch_size: int
    threads: int
    precision: str = "float32"


@dataclass(frozen=True)
class Job:
    """Texts to encode, and how often."""

    name: str
    texts: list[str]
    rounds: int


@dataclass(frozen=True)
class Result:
    """One engine on one job: seconds of each round, the CPU's beside the clock's, and agreement with transformers."""

    job: str
    engine: str
    seconds: list[float]
    cpu_seconds: list[float]
    texts_per_second: float
    least_cosine: float


@dataclass(frozen=True)
class Latency:
    """One sentence a call, in milliseconds."""

    engine: str
    p50: float
    p99: float
    calls: int


def ours(setup: Setup) -> Encode:
    """Return our engine: no padding, a batch a thread."""
    encoder = Encoder.load(
        setup.model,
        pooling="mean",
        normalize=True,
        max_length=setup.max_length,
        device="cpu",
        threads=setup.threads,
        precision=setup.precision,  # type: ignore[arg-type]
    )
    return encoder.encode


def with_transformers(setup: Setup) -> Encode:
    """Return transformers' AutoModel, in its usual attention."""
    network = _their_model(setup.model)

    def forward(inputs: dict[str, np.ndarray]) -> np.ndarray:
        with torch.inference_mode():
            output = network(**{name: torch.from_numpy(values) for name, values in inputs.items()})
        return output.last_hidden_state.numpy()

    return padded(setup, forward)


def with_sentence_transformers(setup: Setup) -> Encode:
    """Return sentence-transformers' own encode, which sorts and pads by itself."""
    from sentence_transformers import SentenceTransformer

    network = SentenceTransformer(str(setup.model), device="cpu")
    network.max_seq_length = setup.max_length
    return lambda texts: network.encode(
        list(texts), batch_size=setup.batch_size, normalize_embeddings=True, show_progress_bar=False
    )


def with_onnxruntime(setup: Setup) -> Encode:
    """Return onnxruntime on the graph that torch.onnx writes, in float32."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = setup.threads
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model.onnx"
        export_onnx(setup.model, path)
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    taken = {given.name for given in session.get_inputs()}
    return padded(setup, lambda inputs: session.run(None, {n: v for n, v in inputs.items() if n in taken})[0])


def with_openvino(setup: Setup) -> Encode:
    """Return OpenVINO on the model that it converts from transformers'."""
    import openvino

    network = openvino.convert_model(_LastHidden(_their_model(setup.model)), example_input=_example())
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if setup.precision == "bfloat16" else "f32",
        "INFERENCE_NUM_THREADS": str(setup.threads),
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(network, "CPU", settings)
    order = ("input_ids", "attention_mask", "token_type_ids")
    return padded(setup, lambda inputs: compiled([inputs[name] for name in order])[0])


ENGINES: dict[str, Callable[[Setup], Encode]] = {
    "bertsmith": ours,
    "transformers": with_transformers,
    "sentence-transformers": with_sentence_transformers,
    "onnxruntime": with_onnxruntime,
    "openvino": with_openvino,
}


class _LastHidden(torch.nn.Module):
    """A model of transformers with plain tensors in and out, for exporters."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor) -> Any:
        output = self.network(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        return output.last_hidden_state


def _their_model(directory: Path) -> torch.nn.Module:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers.AutoModel.from_pretrained(directory).eval()


def _example() -> tuple[torch.Tensor, ...]:
    mask = torch.ones(2, 7, dtype=torch.int64)
    mask[1, 5:] = 0
    return torch.full((2, 7), 5), mask, torch.zeros(2, 7, dtype=torch.int64)


def export_onnx(directory: Path, path: Path) -> None:
    """Write the encoder as an ONNX graph with a free number and length of sequences."""
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    names = ["input_ids", "attention_mask", "token_type_ids"]
    torch.onnx.export(
        _LastHidden(_their_model(directory)).eval(),
        _example(),
        path,
        input_names=names,
        output_names=["last_hidden_state"],
        dynamic_shapes={name: {0: batch, 1: length} for name in names},
        dynamo=True,
        verbose=False,
    )


def padded(setup: Setup, forward: Callable[[dict[str, np.ndarray]], np.ndarray]) -> Encode:
    """Return an engine that sorts, pads, and pools what ``forward`` gives: (n, longest, H)."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(setup.model)
    tokenizer.backend_tokenizer.no_padding()

    def encode(texts: Sequence[str]) -> np.ndarray:
        rows = tokenizer(list(texts), truncation=True, max_length=setup.max_length, padding=False)["input_ids"]
        order = sorted(range(len(rows)), key=lambda n: -len(rows[n]))
        out: list[np.ndarray] = [np.empty(0)] * len(rows)
        for first in range(0, len(order), setup.batch_size):
            numbers = order[first : first + setup.batch_size]
            lengths = np.array([len(rows[n]) for n in numbers])
            mask = np.arange(lengths.max()) < lengths[:, None]
            ids = np.zeros(mask.shape, dtype=np.int64)
            ids[mask] = np.concatenate([rows[n] for n in numbers])
            hidden = forward(
                {"input_ids": ids, "attention_mask": mask.astype(np.int64), "token_type_ids": np.zeros_like(ids)}
            )
            means = (hidden * mask[..., None]).sum(1) / lengths[:, None]
            for number, vector in zip(numbers, means, strict=True):
                out[number] = vector / np.linalg.norm(vector)
        return np.stack(out).astype(np.float32)

    return encode


def measure(job: Job, engines: dict[str, Encode]) -> list[Result]:
    """Let the engines encode the job's texts in turns; each has warmed up on some of them."""
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    cpu: dict[str, list[float]] = {name: [] for name in engines}
    vectors: dict[str, np.ndarray] = {}
    for encode in engines.values():
        encode(job.texts[:64])
    names = list(engines)
    for turn in range(job.rounds):
        # Nobody always comes first, when caches and clocks are as the last one left them.
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            clock, processor = time.perf_counter(), time.process_time()
            vectors[name] = engines[name](job.texts)
            seconds[name].append(time.perf_counter() - clock)
            cpu[name].append(time.process_time() - processor)
    reference = vectors["transformers" if "transformers" in vectors else names[0]]
    return [
        Result(
            job.name,
            name,
            seconds[name],
            cpu[name],
            len(job.texts) / statistics.median(seconds[name]),
            float((vectors[name] * reference).sum(1).min()),
        )
        for name in names
    ]


def measure_latency(texts: Sequence[str], engines: dict[str, Encode], calls: int) -> list[Latency]:
    """Time one sentence a call, engines in turns of some calls each."""
    taken: dict[str, list[float]] = {name: [] for name in engines}
    names = list(engines)
    for turn, first in enumerate(range(0, calls, _CALLS_A_TURN)):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            # The threads of the engine before still spin for a while; calls before the turn do not count.
            for call in range(first - _CALLS_BEFORE, min(first + _CALLS_A_TURN, calls)):
                begun = time.perf_counter()
                engines[name]([texts[call % len(texts)]])
                if call >= first:
                    taken[name].append(1000 * (time.perf_counter() - begun))
    return [
        Latency(name, float(np.percentile(times, 50)), float(np.percentile(times, 99)), calls)
        for name, times in taken.items()
    ]


def real_lines(raw: Path) -> Iterator[str]:
    """Yield the lines that are not blank, of the English files if any are named so (the encoder is English)."""
    paths = sorted(raw.rglob("*.txt"))
    english = [path for path in paths if str(path.relative_to(raw)).startswith("en")]
    for path in english or paths:
        for line in path.read_text(encoding="utf-8-sig").splitlines():
            if line.strip():
                yield line


def make_jobs(lines: list[str], texts: int, rounds: int) -> list[Job]:
    """Return the sentences and the lines, drawn with a fixed seed."""
    draw = random.Random(0)
    some = draw.sample(lines, min(len(lines), 4 * SENTENCES))
    sentences = [sentence for line in some for sentence in split_sentences(line, "rules")]
    many = draw.sample(lines, min(len(lines), texts))
    jobs = [
        Job("sentences", draw.sample(sentences, min(len(sentences), SENTENCES)), rounds),
        # One round of many texts already averages over much.
        Job("lines", many, max(1, rounds // 3)),
    ]
    return [job for job in jobs if job.texts]


def report(results: Sequence[Result], latencies: Sequence[Latency]) -> str:
    """Return the tables: ratios are time over ours, so above 1 means slower than ours."""
    lines = []
    for job in dict.fromkeys(result.job for result in results):
        own = [result for result in results if result.job == job]
        base = own[0]
        lines.append(f"{job:<24}{'texts/s':>9}{'time/' + base.engine:>18}{'CPU time':>10}{'least cosine':>15}")
        for result in own:
            ratio = statistics.median(a / b for a, b in zip(result.seconds, base.seconds, strict=True))
            lines.append(
                f"  {result.engine:<22}{result.texts_per_second:>9.1f}{ratio:>18.2f}"
                f"{statistics.median(result.cpu_seconds):>9.1f}s{result.least_cosine:>15.7f}"
            )
    if latencies:
        lines.append(f"{'one sentence':<24}{'p50 ms':>9}{'p99 ms':>9}{'p50/' + latencies[0].engine:>18}")
        for latency in latencies:
            ratio = latency.p50 / latencies[0].p50
            lines.append(f"  {latency.engine:<22}{latency.p50:>9.2f}{latency.p99:>9.2f}{ratio:>18.2f}")
    return "\n".join(lines)


def available(names: Sequence[str]) -> list[str]:
    """Return the engines whose packages are installed."""
    return [name for name in names if all(find_spec(package) for package in NEEDS[name])]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="a folder with raw/**/*.txt")
    parser.add_argument("--model", type=Path, help="a BERT directory in the transformers layout")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--texts", type=int, default=20_000, help="lines of the second job; 0 leaves it out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of ours and OpenVINO")
    parser.add_argument("--batch-size", type=int, default=32, help="of the engines that pad")
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--calls", type=int, default=300, help="of one sentence each")
    parser.add_argument("--json", type=Path, help="write results, configuration and machine here")
    options = parser.parse_args(arguments)
    raw = options.data / "raw"
    if not raw.is_dir():
        sys.exit(f"{raw} is not there; give the folder of the data with --data")
    names = available(options.engines)
    torch.set_num_threads(options.threads)
    setup = Setup(
        options.model or encoder_directory(), options.max_length, options.batch_size, options.threads, options.precision
    )
    engines = {name: ENGINES[name](setup) for name in names}
    jobs = make_jobs(list(real_lines(raw)), options.texts, options.rounds)
    results = [result for job in jobs for result in measure(job, engines)]
    latencies = measure_latency(jobs[0].texts, engines, options.calls) if options.calls else []
    missing = [name for name in options.engines if name not in names]
    print(
        f"{setup.model}: {setup.precision}, at most {setup.max_length} tokens, {setup.threads} threads, padded batches "
        f"of {setup.batch_size}; "
        f"{', '.join(f'{len(job.texts):,} {job.name} in {job.rounds} round(s)' for job in jobs)}; "
        f"tokenising included{'; not installed: ' + ', '.join(missing) if missing else ''}"
    )
    print(report(results, latencies))
    if options.json:
        values = {
            "machine": describe(package for name in names for package in NEEDS[name]),
            "setup": {name: str(value) for name, value in asdict(setup).items()},
            "results": [asdict(result) for result in results],
            "latency": [asdict(latency) for latency in latencies],
        }
        options.json.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
