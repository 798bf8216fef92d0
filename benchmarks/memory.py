"""Peak memory of `prepare` and `vocab` on ever more text: whether it is flat.

python benchmarks/memory.py --data ../shared/data/raw --megabytes 100 300 1000 --workers 2

Each text is made of documents of 3 to 30 lines, drawn at random from the lines of --data: hardly any is a copy of
another. Memory is the resident memory of all processes of a command together, looked at four times a second.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bertsmith.config import CorpusSettings
from bertsmith.text.readers import ReadReport, find_files, read_documents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/raw"))
    parser.add_argument("--megabytes", type=float, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    if not options.data.exists():
        sys.exit(f"{options.data} is not there; give a folder of text with --data")
    settings = CorpusSettings()
    paths = find_files([options.data], settings)
    lines = [
        line
        for path in paths
        for document in read_documents(path, settings, ReadReport())
        for line in document.text.splitlines()
        if line.strip()
    ]
    bertsmith = [sys.executable, "-m", "bertsmith"]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for size in options.megabytes:
            text = directory / f"{size:g}.txt"
            write_text(text, lines, size)
            vocabulary = directory / f"vocabulary-{size:g}"
            report(size, "vocab", [*bertsmith, "vocab", str(text), "--size", "8000", "-o", str(vocabulary)])
            for workers in options.workers:
                store = directory / f"store-{size:g}-{workers}"
                command = [*bertsmith, "prepare", str(text), "--vocab", str(vocabulary), "-o", str(store)]
                report(size, f"prepare, {workers} worker(s)", [*command, "--workers", str(workers)])


def write_text(path: Path, lines: list[str], megabytes: float) -> None:
    """Write random documents of about so many megabytes."""
    rng, written = random.Random(1), 0
    with path.open("w", encoding="utf-8") as file:
        while written < megabytes * 1e6:
            document = "\n".join(rng.choices(lines, k=rng.randint(3, 30))) + "\n\n"
            file.write(document)
            written += len(document.encode())


def report(size: float, what: str, command: list[str]) -> None:
    """Run a command and print its time and peak memory."""
    begun, peak = time.monotonic(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None:
        peak = max(peak, memory_of_group(process.pid))
        time.sleep(0.25)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    print(f"{size:8,.0f} MB  {what:<24}{time.monotonic() - begun:8.1f} s {peak / 1e3:8.0f} MB at most", flush=True)


def memory_of_group(group: int) -> int:
    """Return the resident memory (kB) of all processes of a process group."""
    listed = subprocess.run(["ps", "-A", "-o", "pgid=,rss="], capture_output=True, text=True, check=True).stdout
    return sum(int(rss) for pgid, rss in map(str.split, listed.splitlines()) if int(pgid) == group)


if __name__ == "__main__":
    main()
