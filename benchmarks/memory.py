"""Peak memory of the long jobs on ever more text: whether it is flat.

python benchmarks/memory.py --data ../shared/data/raw --megabytes 1000 4000 --stages vocab prepare pretrain embed

Each text is a jsonl file of documents of 3 to 30 lines, drawn at random from the lines of --data: hardly any is a copy
of another. Memory is the resident memory of all processes of a command together, looked at four times a second; "own"
is the part of it that is not pages of files, which the system takes back when it needs them. `pretrain` makes some
hundred steps of a tiny model on the store, `embed` encodes the first tokens of every document with it. With --directory
the text and what is made of it stays, and what is there already is not made again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bertsmith.config import CorpusSettings
from bertsmith.text.readers import ReadReport, find_files, read_documents

STAGES = ("vocab", "prepare", "pretrain", "embed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/raw"))
    parser.add_argument("--megabytes", type=float, nargs="+", default=[1000, 4000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1], help="of prepare; several numbers are compared")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--steps", type=int, default=300, help="of pre-training")
    parser.add_argument("--directory", type=Path, help="keep text, vocabularies and stores here")
    options = parser.parse_args()
    if not options.data.exists():
        sys.exit(f"{options.data} is not there; give a folder of text with --data")
    with folder(options.directory) as directory:
        for size in options.megabytes:
            text = directory / f"{size:g}.jsonl"
            if not text.exists():
                write_text(text, options.data, size)
            for stage in STAGES:
                run_stage(stage, size, directory, options)


def run_stage(stage: str, size: float, directory: Path, options: argparse.Namespace) -> None:
    """Measure a stage, or make what later ones need of it where there is nothing yet."""
    text, vocabulary, run = (directory / f"{name}{size:g}{end}" for name, end in NAMES)
    stores = {workers: directory / f"store-{size:g}-{workers}" for workers in options.workers}
    store = stores[options.workers[0]]
    wanted = stage in options.stages
    if stage == "vocab" and (wanted or not vocabulary.exists()):
        report(size, "vocab", ["vocab", str(text), "--size", "8000"], vocabulary)
    elif stage == "prepare":
        for workers, output in stores.items():
            if wanted or (output == store and not store.exists()):
                command = ["prepare", str(text), "--vocab", str(vocabulary), "--workers", str(workers)]
                report(size, f"prepare, {workers} worker(s)", command, output)
    elif stage == "pretrain" and (wanted or ("embed" in options.stages and not run.exists())):
        command = ["pretrain", str(store), "--size", "tiny", "--batch-size", "32", "--steps", str(options.steps)]
        report(size, "pretrain", [*command, "--checkpoint-every", "100", "--threads", "1"], run)
    elif stage == "embed" and wanted:
        command = ["embed", str(run), "--input", str(text), "--max-length", "8", "--threads", "1"]
        report(size, "embed", command, directory / f"vectors-{size:g}.npy")


NAMES = (("", ".jsonl"), ("vocabulary-", ""), ("run-", ""))


@contextlib.contextmanager
def folder(given: Path | None) -> Iterator[Path]:
    """Yield the folder to work in; it is removed afterwards where none was given."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def write_text(path: Path, data: Path, megabytes: float) -> None:
    """Write random documents of about so many megabytes, of the lines of the text in ``data``."""
    settings = CorpusSettings()
    lines = [
        line
        for source in find_files([data], settings)
        for document in read_documents(source, settings, ReadReport())
        for line in document.text.splitlines()
        if line.strip()
    ]
    rng, written = random.Random(1), 0
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8") as file:
        while written < megabytes * 1e6:
            document = "\n".join(rng.choices(lines, k=rng.randint(3, 30)))
            written += len(document.encode())
            file.write(json.dumps({"text": document}, ensure_ascii=False) + "\n")
    part.replace(path)


def report(size: float, what: str, command: list[str], output: Path) -> None:
    """Run a command of Bertsmith and print its time and peak memory; an output from before is removed."""
    if output.is_dir():
        shutil.rmtree(output)
    for left in output.parent.glob(f"{output.name}*"):
        left.unlink()
    begun, peak, own = time.monotonic(), 0, 0
    words = [sys.executable, "-m", "bertsmith", *command, "-o", str(output)]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True)
        while process.poll() is None:
            found = memory_of_group(process.pid)
            peak, own = max(peak, found[0]), max(own, found[1])
            time.sleep(0.25)
        if process.returncode:
            said.seek(0)
            sys.exit(f"{' '.join(words)} ended with {process.returncode}: {said.read().decode()[-2000:]}")
    seconds = time.monotonic() - begun
    print(f"{size:8,.0f} MB  {what:<24}{seconds:8.1f} s {peak / 1e3:8.0f} MB at most, own {own / 1e3:.0f}", flush=True)


def memory_of_group(group: int) -> tuple[int, int]:
    """Return the resident memory (kB) of all processes of a process group, and the part that is not of files."""
    total = own = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError, ValueError):
            if os.getpgid(int(status.parent.name)) == group:
                fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
                # A process that has just ended has neither.
                total += int(fields.get("VmRSS", "0 kB").split()[0])
                own += int(fields.get("RssAnon", "0 kB").split()[0])
    return total, own


if __name__ == "__main__":
    main()
