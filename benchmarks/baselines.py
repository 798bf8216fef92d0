"""What one has without BERT on labelled rows: the most frequent label, and TF-IDF with logistic regression.

python benchmarks/baselines.py --train ../shared/data/classify/en_polarity/train.csv \
    --dev ../shared/data/classify/en_polarity/dev.csv --text text --label label
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bertsmith.tasks import baselines
from bertsmith.tasks.classify import label_names
from bertsmith.tasks.task import Source
from bertsmith.tasks.texts import read_texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--dev", type=Path, required=True)
    parser.add_argument("--text", default="text")
    parser.add_argument("--label", default="label")
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    for path in (options.train, options.dev):
        if not path.exists():
            sys.exit(f"{path} is not there")
    columns = {"text": options.text, "label": options.label}
    train = read_texts(Source(options.train, columns, limit=options.limit))
    dev = read_texts(Source(options.dev, columns))
    labels = label_names(train, dev)
    print(f"{len(train.texts):,} training rows, {len(dev.texts):,} dev rows, {len(labels)} labels")
    rows = (
        ("most frequent label", baselines.majority(train, dev, labels)),
        ("TF-IDF, characters 1-4", baselines.tfidf(train, dev, labels)),
        ("TF-IDF, words 1-2 and characters 1-4", baselines.tfidf(train, dev, labels, "words and characters")),
    )
    for name, scores in rows:
        print(f"{name:<38} accuracy {scores.metrics['accuracy']:.3f}  macro F1 {scores.metrics['macro_f1']:.3f}")


if __name__ == "__main__":
    main()
