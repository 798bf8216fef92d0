"""Our WordPiece learner beside that of `tokenizers`: time, quality on held-out text, same result twice?

python benchmarks/vocabulary.py --data ../shared/data/raw --size 30000 --megabytes 50
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers

from bertsmith.config import CorpusSettings, VocabularySettings
from bertsmith.console import Log
from bertsmith.text.readers import ReadReport, find_files, read_documents
from bertsmith.text.tokenizer import SPECIAL_TOKENS, Tokenizer, own_normalizer
from bertsmith.text.vocabulary import learn_vocabulary, measure_fit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/raw"))
    parser.add_argument("--size", type=int, default=30_000)
    parser.add_argument("--megabytes", type=float, default=50)
    parser.add_argument("--runs", type=int, default=2)
    options = parser.parse_args()
    if not options.data.exists():
        sys.exit(f"{options.data} is not there; give a folder of text with --data")

    settings = CorpusSettings()
    documents = [
        d.text for p in find_files([options.data], settings) for d in read_documents(p, settings, ReadReport())
    ]
    held_out, learned, size = documents[::50], [], 0.0
    for number, text in enumerate(documents):
        if number % 50 and size < options.megabytes * 1e6:
            learned.append(text)
            size += len(text.encode())
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "text.txt"
        file.write_text("\n\n".join(learned), encoding="utf-8")
        ours, theirs = [], []
        for run in range(options.runs):
            ours.append(learn_ours(file, Path(name) / str(run), options.size))
            theirs.append(learn_theirs(file, options.size))
    print(f"{size / 1e6:.1f} MB, {options.size:,} entries, median of {options.runs} interleaved runs")
    print(f"{'':<12}{'seconds':>9}{'same twice':>12}{'tokens/word':>13}{'unknown':>10}")
    for label, results in (("bertsmith", ours), ("tokenizers", theirs)):
        fit = measure_fit(Tokenizer.from_tokens(results[0][1], lowercase=False), held_out)
        same = all(r[1] == results[0][1] for r in results)
        seconds = statistics.median(r[0] for r in results)
        print(f"{label:<12}{seconds:>9.1f}{same!s:>12}{fit.tokens_per_word:>13.3f}{fit.unknown_rate:>10.3%}")
    ratio = statistics.median(a[0] / b[0] for a, b in zip(ours, theirs, strict=True))
    print(f"time, bertsmith over tokenizers: {ratio:.2f}")


def learn_ours(file: Path, output: Path, size: int) -> tuple[float, list[str]]:
    begun = time.perf_counter()
    learn_vocabulary(VocabularySettings(corpus=[file], size=size, held_out=0, output=output), Log(quiet=True))
    return time.perf_counter() - begun, Tokenizer.load(output).tokens


def learn_theirs(file: Path, size: int) -> tuple[float, list[str]]:
    begun = time.perf_counter()
    backend = Backend(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = own_normalizer(lowercase=False), pre_tokenizers.BertPreTokenizer()
    backend.train(
        [str(file)],
        trainers.WordPieceTrainer(vocab_size=size, special_tokens=list(SPECIAL_TOKENS), show_progress=False),
    )
    seconds = time.perf_counter() - begun
    vocabulary = backend.get_vocab()
    return seconds, sorted(vocabulary, key=vocabulary.__getitem__)


if __name__ == "__main__":
    main()
