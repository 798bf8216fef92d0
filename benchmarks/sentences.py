"""How well and how fast sentences are found, on real text.

    python benchmarks/sentences.py [--data ../shared/data] [--kiwi-documents 150]

Korean: raw/ko_mixed.txt and raw/ko_petitions.txt have one sentence a line. The lines of a document are joined
with spaces, split again, and the boundaries compared with the line ends (the document's end not counted).
Those lines were made by a program that cuts at every mark before white space, after "1." and inside dates too:
the naive splitter here finds all line ends of the petitions. So this is agreement, not truth, and also given
for plain line ends only, after a Hangul syllable and a single mark. Truth, for a few: the texts with known
sentences in tests/text/tricky_sentences.txt, which were written to be hard, and to test the rules.

English: raw/en_wikipedia.txt and raw/en_novels have no sentence ends to compare with, so the rules are compared
with the naive splitter, and lengths are given.
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bertsmith.config import CorpusSettings
from bertsmith.text.readers import ReadReport, find_files, read_documents
from bertsmith.text.sentences import choose_rule, split_sentences

ROOT = Path(__file__).resolve().parents[1]

_NAIVE = re.compile(r"(?<=[.!?])\s+|(?<=[.!?][\"'”’)])\s+")
Splitter = Callable[[str], list[str]]


def rules(text: str) -> list[str]:
    return split_sentences(text, "rules")


def kiwi(text: str) -> list[str]:
    return split_sentences(text, "kiwi")


def naive(text: str) -> list[str]:
    """Cut after every ., ! or ? (and closing quotes) before white space."""
    return [s for line in text.split("\n") for s in _NAIVE.split(line) if s.strip()]


def boundaries(sentences: list[str]) -> set[int]:
    """Return where sentences end, counted in characters that are not white space; the last end left out."""
    ends, at = set(), 0
    for sentence in sentences:
        at += len("".join(sentence.split()))
        ends.add(at)
    return ends - {at}


def plain(document: str) -> set[int]:
    """Return the boundaries after lines that end in a Hangul syllable and one mark, before one that is a text's."""
    lines = document.split("\n")
    ends, at = set(), 0
    for line, following in itertools.pairwise(lines):
        at += len("".join(line.split()))
        if re.search(r"[가-힣][.?!]$", line) and re.match(r"[가-힣]", following):
            ends.add(at)
    return ends


def tricky() -> list[tuple[str, set[int]]]:
    """Return the hand-written texts and their boundaries."""
    blocks = (ROOT / "tests" / "text" / "tricky_sentences.txt").read_text(encoding="utf-8").strip().split("\n\n")
    found = []
    for block in blocks:
        whole, _, expected = block.rpartition("\n=\n")
        lines = expected.split("\n")
        text = whole or " ".join(lines)
        found.append((text, boundaries([line.removeprefix("+") for line in lines])))
    return found


def agreement(found: list[set[int]], expected: list[set[int]]) -> tuple[float, float, float]:
    """Return precision, recall and F1 over all documents' boundaries."""
    hits = sum(len(f & e) for f, e in zip(found, expected, strict=True))
    precision = hits / max(sum(map(len, found)), 1)
    recall = hits / max(sum(map(len, expected)), 1)
    return precision, recall, 2 * precision * recall / max(precision + recall, 1e-9)


def timed(splitter: Splitter, texts: list[str]) -> tuple[list[list[str]], float]:
    """Return the sentences of each text and the speed in MB of UTF-8 a second."""
    splitter(texts[0])
    start = time.perf_counter()
    split = [splitter(text) for text in texts]
    return split, sum(len(t.encode()) for t in texts) / 1e6 / (time.perf_counter() - start)


def korean(name: str, documents: list[str], splitters: dict[str, tuple[Splitter, int]]) -> None:
    print(f"\n{name}: agreement with its lines")
    print(f"{'':8}{'documents':>10}{'precision':>11}{'recall':>9}{'F1':>9}{'plain ends':>12}{'MB/s':>8}")
    for label, (splitter, limit) in splitters.items():
        # Evenly over the file: its parts are of different kinds.
        some = documents[:: max(1, len(documents) // limit)]
        split, speed = timed(splitter, [" ".join(text.split("\n")) for text in some])
        found = [boundaries(s) for s in split]
        precision, recall, f1 = agreement(found, [boundaries(text.split("\n")) for text in some])
        clear = agreement(found, [plain(text) for text in some])[1]
        print(f"{label:8}{len(some):10,}{precision:11.4f}{recall:9.4f}{f1:9.4f}{clear:12.4f}{speed:8.2f}")


def written(splitters: dict[str, tuple[Splitter, int]]) -> None:
    texts = tricky()
    print(f"\n{len(texts)} hand-written texts")
    print(f"{'':8}{'texts right':>12}{'precision':>11}{'recall':>9}{'F1':>9}")
    for label, (splitter, _) in splitters.items():
        found = [boundaries(splitter(text)) for text, _ in texts]
        right = sum(f == expected for f, (_, expected) in zip(found, texts, strict=True))
        precision, recall, f1 = agreement(found, [expected for _, expected in texts])
        print(f"{label:8}{right:12}{precision:11.4f}{recall:9.4f}{f1:9.4f}")


def lengths(name: str, documents: list[str]) -> None:
    split, speed = timed(rules, documents)
    words = np.array([len(s.split()) for sentences in split for s in sentences])
    other, _ = timed(naive, documents)
    precision, recall, _ = agreement([boundaries(s) for s in other], [boundaries(s) for s in split])
    marks = ", ".join(f"{q}%: {np.percentile(words, q):.0f}" for q in (1, 10, 50, 90, 99, 99.9))
    print(f"\n{name}: {len(words):,} sentences, {words.mean():.1f} words on average ({marks}), {speed:.1f} MB/s")
    print(f"  a naive splitter finds {recall:.1%} of these boundaries, and {1 - precision:.1%} of its own are not here")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--kiwi-documents", type=int, default=150, help="documents a file for kiwi, which is slow")
    options = parser.parse_args()
    raw = options.data / "raw"
    if not raw.is_dir():
        sys.exit(f"no real data at {raw}; give its folder with --data")
    settings = CorpusSettings()
    splitters = {"rules": (rules, 10**9), "naive": (naive, 10**9), "kiwi": (kiwi, options.kiwi_documents)}
    written(splitters)
    for name in ("ko_mixed.txt", "ko_petitions.txt", "ko_reviews.txt", "en_wikipedia.txt", "en_novels"):
        files = find_files([raw / name], settings)
        documents = [d.text for f in files for d in read_documents(f, settings, ReadReport())]
        if name in ("ko_mixed.txt", "ko_petitions.txt"):
            korean(name, documents, splitters)
        lengths(name, documents)
        print(f"  the automatic choice for it: {choose_rule(documents[:100])}")


if __name__ == "__main__":
    main()
