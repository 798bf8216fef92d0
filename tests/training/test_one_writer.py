"""Two runs on one output: the second one refuses, and says so, whichever stage it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bertsmith import files
from bertsmith.config import PrepareSettings, VocabularySettings
from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.feature_config import EmbedSettings
from bertsmith.features.embed import embed
from bertsmith.features.spool import work_directory
from bertsmith.task_config import ClassifySettings
from bertsmith.text.prepare import prepare
from bertsmith.text.store import TokenStore
from bertsmith.text.vocabulary import learn_vocabulary
from bertsmith.training.finetune import finetune
from bertsmith.training.pretrain import pretrain
from tests.conftest import tiny_run
from tests.training.test_finetune import write_rows

QUIET = Log(quiet=True)


def test_the_second_run_refuses(
    corpus_file: Path, vocabulary: Path, store: TokenStore, run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    learning = VocabularySettings(corpus=[corpus_file], output=out)
    preparing = PrepareSettings(corpus=[corpus_file], vocab=vocabulary, output=out)
    rows = write_rows(tmp_path / "rows.csv", 9, 1)
    tuned = ClassifySettings(model=run, train=rows, dev=rows, output=out, max_length=30, threads=1)
    vectors = EmbedSettings(model=run, input=rows, output=tmp_path / "out.npy", threads=1)
    stages: list[tuple[Callable[[], object], Path]] = [
        (lambda: learn_vocabulary(learning, QUIET), tmp_path / ".out.writing"),
        (lambda: prepare(preparing, QUIET), tmp_path / "out.partial"),
        (lambda: pretrain(tiny_run(store, out), QUIET), out),
        (lambda: finetune(tuned, QUIET), out),
        (lambda: embed(vectors, QUIET), work_directory(vectors.output)),
    ]
    for stage, held in stages:
        with files.only_writer(held), pytest.raises(InputError, match="another process is writing here"):
            stage()
        assert [p.name for p in held.iterdir()] == [files.LOCK]


def test_what_held_an_output_is_gone_afterwards(corpus_file: Path, tmp_path: Path) -> None:
    learn_vocabulary(VocabularySettings(corpus=[corpus_file], output=tmp_path / "out", size=137), QUIET)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
