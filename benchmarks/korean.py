"""The Korean tasks from a pre-trained run and, by the same recipe, from random weights: dev scores over seeds.

python benchmarks/korean.py ko_run --data ../shared/data --seeds 2
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertsmith.console import Log
from bertsmith.task_config import ClassifySettings, FinetuneSettings, QaSettings, RegressSettings, TagSettings
from bertsmith.training.finetune import finetune


@dataclass(frozen=True)
class Job:
    """A data set: which task, which files, which columns."""

    settings: type[FinetuneSettings]
    train: str
    dev: str | None
    options: dict[str, Any]


_PAIR = {"text": "sentence1", "text_b": "sentence2"}
JOBS = {
    "hate": Job(
        ClassifySettings,
        "classify/ko_hate_speech/train.tsv",
        "classify/ko_hate_speech/dev.tsv",
        {"text": "comments", "label": "hate"},
    ),
    "question_pair": Job(
        ClassifySettings,
        "pair/ko_question_pair/kor_pair_train.csv",
        None,
        {"text": "question1", "text_b": "question2", "label": "is_duplicate"},
    ),
    "kornli": Job(
        ClassifySettings,
        "pair/ko_kornli/train.xnli.test.ko.tsv",
        "pair/ko_kornli/dev.xnli.dev.ko.tsv",
        {**_PAIR, "label": "gold_label"},
    ),
    "korsts": Job(
        RegressSettings,
        "pair/ko_korsts/sts-train.tsv",
        "pair/ko_korsts/sts-dev.tsv",
        {**_PAIR, "label": "score", "quoting": "none"},
    ),
    "klue_ner": Job(TagSettings, "tag/ko_klue_ner/train.tsv", "tag/ko_klue_ner/dev.tsv", {}),
    "kaist": Job(
        TagSettings,
        "tag/ko_kaist/train.ko_kaist-ud-dev.conllu",
        "tag/ko_kaist/dev.ko_kaist-ud-test.conllu",
        {"tags": "UPOS"},
    ),
    "korquad": Job(QaSettings, "qa/ko_korquad/KorQuAD_v1.0_dev.json", None, {"max_length": 256}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a pre-training run on Korean text")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--limit", type=int, help="use only the first so many training rows")
    parser.add_argument("--threads", type=int, default=0)
    options = parser.parse_args()
    if not options.data.exists():
        sys.exit(f"{options.data} is not there; give the folder of the data with --data")
    print(f"{options.epochs:g} epochs, batch 32, learning rate {options.learning_rate:g}, {options.seeds} seeds")
    for name in options.jobs:
        job = JOBS[name]
        for from_scratch in (False, True):
            with tempfile.TemporaryDirectory() as directory:
                settings = job.settings(
                    model=options.run,
                    train=options.data / job.train,
                    dev=None if job.dev is None else options.data / job.dev,
                    output=Path(directory) / "tuned",
                    epochs=options.epochs,
                    learning_rate=options.learning_rate,
                    seeds=options.seeds,
                    limit=options.limit,
                    threads=options.threads,
                    from_scratch=from_scratch,
                    quiet=True,
                    **job.options,
                )
                result = finetune(settings, Log(quiet=True))
            start = "random weights" if from_scratch else "pre-trained"
            scores = "  ".join(f"{m} {result.mean[m]:.3f} ± {result.deviation[m]:.3f}" for m in result.mean)
            print(f"{name:<15}{start:<16}{scores}", flush=True)


if __name__ == "__main__":
    main()
