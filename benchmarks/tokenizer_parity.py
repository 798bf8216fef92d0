"""Every id of 20 MB of mixed text against transformers' BertTokenizer, for published vocabularies.

python benchmarks/tokenizer_parity.py --data ../shared/data --megabytes 20
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from transformers import BertTokenizer

from bertsmith.config import CorpusSettings
from bertsmith.text.readers import ReadReport, find_files, read_documents
from bertsmith.text.tokenizer import Tokenizer, read_vocabulary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--megabytes", type=float, default=20)
    options = parser.parse_args()
    if not options.data.exists():
        sys.exit(f"{options.data} is not there")
    settings = CorpusSettings()
    paths = find_files([options.data / "raw"], settings)
    lines: list[str] = []
    for path in paths:
        size = 0
        for document in read_documents(path, settings, ReadReport()):
            lines += document.text.split("\n")
            size += len(document.text.encode())
            if size > options.megabytes * 1e6 / min(len(paths), 12):
                break
    total = sum(len(line.encode()) for line in lines)
    for name, lowercase in (("bert-base-uncased-vocab.txt", True), ("koelectra_vocab.txt", False)):
        path = options.data / "vocab" / name
        vocabulary = {token: number for number, token in enumerate(read_vocabulary(path))}
        theirs = BertTokenizer(vocab=vocabulary, do_lower_case=lowercase)
        ours = Tokenizer.from_vocabulary(path, lowercase=lowercase)
        different = tokens = 0
        seconds = [0.0, 0.0]
        for start in range(0, len(lines), 2000):
            chunk = lines[start : start + 2000]
            times = [time.perf_counter()]
            mine = ours.sentence_ids(chunk)
            times.append(time.perf_counter())
            expected = theirs(chunk, add_special_tokens=False).input_ids
            times.append(time.perf_counter())
            seconds = [s + b - a for s, a, b in zip(seconds, times, times[1:], strict=False)]
            for a, b in zip(mine, expected, strict=True):
                tokens += len(b)
                different += a.tolist() != b
        print(
            f"{name}: {total / 1e6:.1f} MB, {len(lines):,} lines, {tokens:,} tokens; lines that differ: {different}; "
            f"speed over BertTokenizer {seconds[1] / seconds[0]:.2f}"
        )


if __name__ == "__main__":
    main()
