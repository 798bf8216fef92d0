"""Long jobs killed (SIGKILL) at random moments and started again: what they leave is that of a job never stopped.

python benchmarks/soak.py --kills 100
python benchmarks/soak.py pretrain finetune --kills 20 --seed 3

Each job runs once in one piece. Then it is started, killed after a random part of that time, started again with the
command that goes on, killed again, until it is done; its files are compared byte by byte with the first run's, and
metrics.jsonl entry by entry, times left out, each step once. Finished jobs begin anew in a new folder until there were
enough kills. Texts and models are made up here, and small.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_WORDS = "river house garden window letter 강물 마을 학교 바람 이야기 편지 나무 그림".split()
_TIMES = ("seconds", "tokens_per_second")
# Files that say when or by whom, not what.
_OTHERS = ("metrics.jsonl", "report.html", "config.yaml", "scores.json", ".lock", "checksums.json", "manifest.json")


@dataclass(frozen=True)
class Job:
    """A command that can be stopped.

    Attributes:
        start: its arguments, for an output.
        again: those that go on after a stop.
        output: what is compared: a file or a directory, for the same output.
    """

    start: Callable[[Path], list[str]]
    again: Callable[[Path], list[str]]
    output: Callable[[Path], Path] = lambda path: path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", nargs="*", help="of vocab, prepare, pretrain, finetune, embed; all if not given")
    parser.add_argument("--kills", type=int, default=100, help="of each job")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args()
    context = multiprocessing.get_context("forkserver")
    # Importing takes longer than a whole small job.
    context.set_forkserver_preload(["bertsmith.training.pretrain", "bertsmith.training.finetune", "bertsmith.cli"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jobs = prepare_jobs(folder, options.precision)
        unknown = set(options.jobs) - set(jobs)
        if unknown:
            sys.exit(f"no job called {', '.join(sorted(unknown))}; there are {', '.join(jobs)}")
        print(f"{'':<10}{'kills':>7}{'starts':>8}{'runs':>6}{'one run s':>11}  result")
        failed = False
        for job in options.jobs or jobs:
            failed |= soak(job, jobs[job], folder, options, context)
    sys.exit(1 if failed else 0)


def prepare_jobs(folder: Path, precision: str) -> dict[str, Job]:
    """Write the texts, make what the later jobs start from, and return the jobs."""
    rng = random.Random(1)
    corpus, rows, texts = folder / "corpus.txt", folder / "rows.csv", folder / "texts.txt"
    sentences = [" ".join(rng.choices(_WORDS, k=rng.randint(3, 12))) + "." for _ in range(6000)]
    documents = ["\n".join(sentences[n : n + rng.randint(3, 8)]) for n in range(0, 6000, 5)]
    corpus.write_text("\n\n".join(documents) + "\n", encoding="utf-8")
    labelled = [f"{sentence},{'a' if '강물' in sentence else 'b'}" for sentence in sentences[:150]]
    rows.write_text("text,label\n" + "\n".join(labelled) + "\n", encoding="utf-8")
    texts.write_text("\n".join(sentences[:900]) + "\n", encoding="utf-8")

    vocab, store, run = (str(folder / name) for name in ("vocab", "store", "run"))
    size = ["--layers", "2", "--hidden-size", "24", "--heads", "2", "--max-length", "40", "--max-positions", "48"]
    training = ["--threads", "1", "--precision", precision]
    pretraining = [*size, *training, "--steps", "60", "--checkpoint-every", "7", "--eval-every", "20"]
    tuning = ["--train", str(rows), "--max-length", "40", "--batch-size", "8", "--epochs", "4", *training]
    make = [
        ["vocab", str(corpus), "--size", "90", "-o", vocab],
        ["prepare", str(corpus), "--vocab", vocab, "-o", store],
    ]
    jobs = {
        "vocab": Job(lambda out: ["vocab", str(corpus), "--size", "90", "-o", str(out)], lambda out: []),
        "prepare": Job(
            lambda out: ["prepare", str(corpus), "--vocab", vocab, "--shard-tokens", "3000", "-o", str(out)],
            lambda out: [],
        ),
        "pretrain": Job(
            lambda out: ["pretrain", store, *pretraining, "-o", str(out)],
            lambda out: ["pretrain", "--config", str(out / "config.yaml"), "--resume"],
        ),
        "finetune": Job(
            lambda out: ["finetune", "classify", run, *tuning, "-o", str(out)],
            lambda out: ["finetune", "classify", "--config", str(out / "config.yaml"), "--resume"],
        ),
        "embed": Job(
            lambda out: ["embed", run, "--input", str(texts), "--threads", "1", "-o", str(out.with_suffix(".npy"))],
            lambda out: [],
            lambda out: out.with_suffix(".npy"),
        ),
    }
    context = multiprocessing.get_context("forkserver")
    for arguments in (*make, jobs["pretrain"].start(Path(run))):
        process = context.Process(target=bertsmith, args=(arguments, folder / "said.txt"))
        process.start()
        process.join()
        if process.exitcode:
            sys.exit((folder / "said.txt").read_text(encoding="utf-8"))
    return jobs


def bertsmith(arguments: list[str], said: Path) -> None:
    """Run the command line in this process; what it says goes to a file."""
    with said.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["bertsmith", *arguments]
    from bertsmith.__main__ import main

    main()


def soak(
    name: str, job: Job, folder: Path, options: argparse.Namespace, context: multiprocessing.context.BaseContext
) -> bool:
    """Kill and go on until there were enough kills; print a line and return whether something differed."""
    rng = random.Random(f"{options.seed} {name}")
    said = folder / f"{name}.said.txt"
    whole = folder / f"{name}-whole"
    times = []
    for _ in range(2):
        remove(job, whole)
        begun = time.monotonic()
        if not run_until(job.start(whole), said, None, context):
            sys.exit(f"{name} failed:\n{said.read_text(encoding='utf-8')[-2000:]}")
        times.append(time.monotonic() - begun)
    usual = statistics.fmean(times)
    kills = starts = runs = 0
    result = "the same bytes"
    while kills < options.kills and result == "the same bytes":
        out = folder / f"{name}-{runs}"
        done = False
        while not done:
            goes_on = (out / "config.yaml").exists() and bool(job.again(out))
            patience = rng.uniform(0, usual) if kills < options.kills else None
            starts += 1
            before = len(said.read_bytes())
            done = run_until(job.again(out) if goes_on else job.start(out), said, patience, context)
            if done is None and job.output(out).exists() and difference(job.output(whole), job.output(out)) is None:
                done = True  # the kill came when all was written
            elif done is None:
                result = "failed: " + said.read_bytes()[before:].decode()[-600:]
                break
            kills += not done
        else:
            result = difference(job.output(whole), job.output(out)) or result
        remove(job, out)
        runs += 1
    print(f"{name:<10}{kills:>7}{starts:>8}{runs:>6}{usual:>11.2f}  {result}", flush=True)
    return result != "the same bytes"


def remove(job: Job, out: Path) -> None:
    """Remove what a job left."""
    shutil.rmtree(out, ignore_errors=True)
    if job.output(out) != out:
        for path in job.output(out).parent.glob(f"{job.output(out).name}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def run_until(
    arguments: list[str], said: Path, patience: float | None, context: multiprocessing.context.BaseContext
) -> bool | None:
    """Run a command; true if it ended well, false if it was killed after ``patience`` seconds, None if it failed."""
    process = context.Process(target=bertsmith, args=(arguments, said))  # type: ignore[attr-defined]
    process.start()
    process.join(patience)
    if process.exitcode is None:
        process.kill()
        process.join()
        return False
    return True if process.exitcode == 0 else None


def difference(whole: Path, parts: Path) -> str | None:
    """Return the first file in which two outputs differ, or None."""
    if whole.is_file():
        return None if whole.read_bytes() == parts.read_bytes() else f"{whole.name} differs"
    names = [sorted(str(p.relative_to(d)) for p in d.rglob("*") if p.is_file()) for d in (whole, parts)]
    if names[0] != names[1]:
        return f"other files: {sorted(set(names[0]) ^ set(names[1]))[:4]}"
    for name in names[0]:
        plain = Path(name).name not in _OTHERS and "state.json" not in name
        if plain and (whole / name).read_bytes() != (parts / name).read_bytes():
            return f"{name} differs"
        if name.endswith("metrics.jsonl") and entries(whole / name) != entries(parts / name):
            return f"{name} differs"
    return None


def entries(path: Path) -> list[dict[str, object]]:
    """Return the entries of a metrics log without times."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in line.items() if key not in _TIMES} for line in lines]


if __name__ == "__main__":
    main()
