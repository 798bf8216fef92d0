from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertsmith import files
from bertsmith.config import PrepareSettings
from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.text import corpus, partial
from bertsmith.text.corpus import SeenTexts
from bertsmith.text.prepare import prepare
from bertsmith.text.shards import shard_name, write_shard
from bertsmith.text.store import TokenStore
from bertsmith.text.tokenizer import Tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz"
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *LETTERS, *(f"##{c}" for c in LETTERS)]
QUIET = Log(quiet=True)


def texts(number: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)

    def sentence() -> str:
        return " ".join("".join(rng.choice(list(LETTERS), rng.integers(1, 9))) for _ in range(7)) + "."

    return ["\n".join(sentence() for _ in range(rng.integers(1, 6))) for _ in range(number)]


@pytest.fixture
def vocabulary(tmp_path: Path) -> Path:
    (tmp_path / "plain.txt").write_text("\n".join(VOCABULARY) + "\n")
    Tokenizer.from_vocabulary(tmp_path / "plain.txt", lowercase=False).save(tmp_path / "vocab")
    return tmp_path / "vocab"


@pytest.fixture
def settings(tmp_path: Path, vocabulary: Path) -> PrepareSettings:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text("\n\n".join(texts(40)) + "\n")
    (folder / "b.txt.gz").write_bytes(gzip.compress(("\n\n".join(texts(25, seed=1)) + "\n").encode()))
    (folder / "c.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts(30, seed=2)))
    return PrepareSettings(
        corpus=[folder],
        vocab=vocabulary,
        output=tmp_path / "store",
        sentences="line",
        documents="blank-line",
        shard_tokens=1000,
        workers=1,
    )


def changed(settings: PrepareSettings, **values: Any) -> PrepareSettings:
    return settings.model_copy(update=values)


def content(store: Path) -> dict[str, bytes]:
    """All files but the settings (which name output and workers) and the checksums over them."""
    names = {str(p.relative_to(store)): p for p in store.rglob("*") if p.is_file()}
    return {name: p.read_bytes() for name, p in sorted(names.items()) if name not in ("config.yaml", "checksums.json")}


def test_workers_and_batches_do_not_change_a_byte(
    settings: PrepareSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(settings, QUIET)
    expected = content(tmp_path / "store")
    assert len([name for name in expected if name.startswith("shard-")]) > 3
    monkeypatch.setattr(corpus, "BATCH_CHARACTERS", 700)
    for workers in (1, 2, 3):
        prepare(changed(settings, workers=workers, output=tmp_path / f"store{workers}"), QUIET)
        assert content(tmp_path / f"store{workers}") == expected
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.endswith(".partial")) == []


def test_manifest_says_what_the_store_was_made_from(settings: PrepareSettings) -> None:
    store = prepare(settings, QUIET)
    manifest = store.manifest
    assert [Path(s["path"]).name for s in manifest["sources"]] == ["a.txt", "b.txt.gz", "c.jsonl"]
    assert [s["sentences"] for s in manifest["sources"]] == ["line"] * 3
    assert manifest["counts"]["documents"] == 95
    assert manifest["counts"]["characters"] == sum(
        len(t.replace("\n", "")) for t in texts(40) + texts(25, seed=1) + texts(30, seed=2)
    )
    assert manifest["tokenizer_hash"] == Tokenizer.load(settings.vocab).hash
    assert manifest["id_dtype"] == "uint16"
    for shard in manifest["shards"][:-1]:
        assert 1000 <= shard["tokens"] < 1000 + 5 * 7 * 9
    assert {store.origin(d)[0].rsplit("/", 1)[1] for d in (0, 39, 40, 64, 65, 94)} == {"a.txt", "b.txt.gz", "c.jsonl"}


def test_exact_duplicates_are_dropped_and_counted(settings: PrepareSettings, tmp_path: Path) -> None:
    shutil.copy(tmp_path / "corpus" / "a.txt", tmp_path / "corpus" / "again.txt")
    with (tmp_path / "corpus" / "c.jsonl").open("a") as file:
        file.write(json.dumps({"text": texts(1, seed=1)[0]}) + "\n")
    counts = prepare(settings, QUIET).manifest["counts"]
    assert (counts["documents"], counts["duplicates_dropped"]) == (95, 41)
    kept = prepare(changed(settings, keep_duplicates=True, output=tmp_path / "all"), QUIET).manifest["counts"]
    assert (kept["documents"], kept["duplicates_dropped"]) == (136, 0)


def test_documents_without_a_token_are_dropped_and_counted(settings: PrepareSettings, tmp_path: Path) -> None:
    (tmp_path / "corpus" / "c.jsonl").write_text('{"text": "a b."}\n{"text": "\\u200b"}\n{"text": "c d."}\n')
    store = prepare(settings, QUIET)
    assert store.num_documents == 67
    assert store.manifest["counts"]["empty_dropped"] <= 1


def test_unknown_tokens_are_counted_and_warned_of(
    settings: PrepareSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "corpus" / "c.jsonl").write_text(json.dumps({"text": "한국어 " * 500}) + "\n")
    store = prepare(settings, QUIET)
    assert store.manifest["counts"]["unknown_tokens"] == 500 == store.token_counts[1]
    assert "the vocabulary does not fit this text" in capsys.readouterr().err


def test_result_names_the_next_command(settings: PrepareSettings, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(settings)
    said = capsys.readouterr().err
    assert "95 documents" in said
    assert "0 exact duplicates" in said
    assert "characters per token" in said
    assert f"Next: bertsmith pretrain {settings.output} --size auto --budget 20m -o RUN" in said


def test_auto_rule_is_chosen_for_each_file(settings: PrepareSettings, tmp_path: Path) -> None:
    paragraphs = "\n\n".join(" ".join(f"The {w} was there. It was a {w} day." for w in t.split()[:9]) for t in texts(9))
    (tmp_path / "corpus" / "c.jsonl").unlink()
    (tmp_path / "corpus" / "d.txt").write_text(paragraphs)
    store = prepare(changed(settings, sentences="auto"), QUIET)
    assert store.manifest["sources"][-1]["sentences"] == "rules"


def interrupted(settings: PrepareSettings, shards: int) -> None:
    """Run the stage and press Ctrl-C when it writes the shard of this number."""

    def stop(path: Path, documents: Any) -> None:
        if path.name == shard_name(shards):
            raise KeyboardInterrupt
        write_shard(path, documents)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partial, "write_shard", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(settings)


@pytest.mark.parametrize("shards", [0, 1, 3])
def test_interrupted_run_goes_on_to_the_same_bytes(
    settings: PrepareSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    shards: int,
) -> None:
    (tmp_path / "corpus" / "d.txt").write_text("\n\n".join(texts(45)))  # 40 of them are in a.txt too
    expected = content(prepare(changed(settings, output=tmp_path / "whole"), QUIET).path)
    interrupted(settings, shards)
    assert "Run the same command again" in capsys.readouterr().err
    assert not settings.output.exists()
    assert (tmp_path / "store.partial").exists() == (shards > 0)

    written: list[str] = []
    monkeypatch.setattr(partial, "write_shard", lambda path, d: (written.append(path.name), write_shard(path, d)))
    monkeypatch.setattr(corpus, "BATCH_CHARACTERS", 700)
    prepare(settings)
    assert content(settings.output) == expected
    assert shard_name(0) in written or shards > 0
    assert len(written) == len([n for n in expected if n.startswith("shard-")]) - shards


def test_disk_that_fills_at_the_very_end_loses_nothing(
    settings: PrepareSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(directory: Path, leave_out: Any = ()) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(files, "seal", full)
        with pytest.raises(InputError, match="the disk is full"):
            prepare(settings)
    assert not settings.output.exists()
    store = prepare(settings)
    number = len(store.manifest["shards"])
    assert f"Going on after {number} finished shard(s)" in capsys.readouterr().err
    assert {p.name for p in store.path.iterdir()} == {
        *(shard["file"] for shard in store.manifest["shards"]),
        *("manifest.json", "token_counts.npy", "tokenizer", "config.yaml", "checksums.json"),
    }


def test_changed_setting_starts_anew(
    settings: PrepareSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = changed(settings, keep_duplicates=True)
    expected = content(prepare(changed(other, output=tmp_path / "whole"), QUIET).path)
    interrupted(settings, 2)
    prepare(other)
    assert "starting anew" in capsys.readouterr().err
    assert content(settings.output) == expected


@pytest.mark.parametrize(("name", "kept"), [("a.txt", False), ("c.jsonl", True)])
def test_changed_source_keeps_only_what_came_before_it(
    settings: PrepareSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    kept: bool,
) -> None:
    interrupted(settings, 1)
    file = tmp_path / "corpus" / name
    file.write_bytes(file.read_bytes().replace(b"a", b"b"))
    capsys.readouterr()
    prepare(settings)
    said = capsys.readouterr().err
    assert ("Going on after 1 finished" in said) == kept
    assert ("starting anew" in said) != kept
    assert content(settings.output) == content(prepare(changed(settings, output=tmp_path / "whole"), QUIET).path)


def test_damaged_shard_of_an_interrupted_run_is_made_again(
    settings: PrepareSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(settings, 3)
    shard = tmp_path / "store.partial" / "shard-00001.arrow"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    prepare(settings, QUIET)
    assert content(settings.output) == content(prepare(changed(settings, output=tmp_path / "whole"), QUIET).path)


def test_documents_are_not_left_out_by_a_damaged_journal(
    settings: PrepareSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted(settings, 3)
    journal = tmp_path / "store.partial" / "journal.json"
    written = json.loads(journal.read_text())
    written["shards"][-1]["documents_read"] ^= 16
    journal.write_text(json.dumps(written))
    prepare(settings)
    said = " ".join(capsys.readouterr().err.split())
    assert "does not match its own checksum: it was changed on disk. Starting anew" in said
    assert "Going on" not in said
    assert content(settings.output) == content(prepare(changed(settings, output=tmp_path / "whole"), QUIET).path)


def test_store_that_is_there_is_returned(
    settings: PrepareSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(settings)
    before = (settings.output / "manifest.json").stat().st_mtime_ns
    # Where the sources lie and how many workers read them does not matter.
    (tmp_path / "corpus").rename(tmp_path / "moved")
    store = prepare(changed(settings, corpus=[tmp_path / "moved"], workers=2))
    assert store.num_documents == 95
    assert "already holds this token store" in capsys.readouterr().err
    assert (settings.output / "manifest.json").stat().st_mtime_ns == before


def test_output_that_is_taken(settings: PrepareSettings, tmp_path: Path) -> None:
    prepare(settings, QUIET)
    before = content(settings.output)
    for change in ({"shard_tokens": 1001}, {"quoting": "none"}, {"documents": "line"}):
        with pytest.raises(InputError, match="other settings"):
            prepare(changed(settings, **change), QUIET)
    assert content(settings.output) == before
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").touch()
    for name in ("file", "full"):
        with pytest.raises(InputError, match="is not a token store"):
            prepare(changed(settings, output=tmp_path / name), QUIET)
    (tmp_path / "empty").mkdir()
    prepare(changed(settings, output=tmp_path / "empty"), QUIET)


def test_directory_of_someone_else_is_not_removed(settings: PrepareSettings, tmp_path: Path) -> None:
    (tmp_path / "store.partial").mkdir()
    (tmp_path / "store.partial" / "thesis.doc").touch()
    with pytest.raises(InputError, match="holds something else"):
        prepare(settings, QUIET)
    assert (tmp_path / "store.partial" / "thesis.doc").exists()


def test_output_inside_of_the_corpus_is_not_read(settings: PrepareSettings, tmp_path: Path) -> None:
    inside = changed(settings, output=tmp_path / "corpus" / "store")
    assert prepare(inside, QUIET).num_documents == prepare(inside, QUIET).num_documents == 95


@pytest.mark.parametrize("text", ["", "\n\n \n", "\u200b\n"])
def test_empty_corpus(settings: PrepareSettings, tmp_path: Path, text: str) -> None:
    (tmp_path / "empty.txt").write_text(text)
    with pytest.raises(InputError, match=r"empty|no text"):
        prepare(changed(settings, corpus=[tmp_path / "empty.txt"]), QUIET)
    assert not settings.output.exists()
    assert not (tmp_path / "store.partial").exists()


def test_too_little_disk(settings: PrepareSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    with pytest.raises(InputError, match=r"needs about 1\d MB and 1 kB are free"):
        prepare(settings, QUIET)
    assert not (tmp_path / "store.partial").exists()


def test_disk_that_fills_keeps_finished_shards(
    settings: PrepareSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync
    calls = 0

    def failing(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 25:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(InputError, match=r"the disk is full \(.*B needed, .*B free\); finished shards stay"):
            prepare(settings, QUIET)
    assert not settings.output.exists()
    assert (tmp_path / "store.partial" / "shard-00000.arrow").exists()
    prepare(settings, QUIET)
    assert content(settings.output) == content(prepare(changed(settings, output=tmp_path / "whole"), QUIET).path)


def test_vocabulary_that_is_missing_or_contradicted(settings: PrepareSettings, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError):
        prepare(changed(settings, vocab=tmp_path / "nothing"), QUIET)
    with pytest.raises(InputError):
        prepare(changed(settings, vocab=tmp_path / "missing"), QUIET)
    with pytest.raises(InputError, match="was made with lowercase=False"):
        prepare(changed(settings, lowercase=True), QUIET)
    bare = changed(settings, vocab=tmp_path / "plain.txt", lowercase=True)
    assert prepare(bare, QUIET).tokenizer.lowercase


def test_source_that_cannot_be_read(settings: PrepareSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(files, "sha256", refused)
    with pytest.raises(InputError, match=r"a\.txt: cannot be read: Permission denied"):
        prepare(settings, QUIET)


def test_seen_texts_tell_new_from_old() -> None:
    seen = SeenTexts()
    numbers = [str(n % 3000).encode() for n in range(9000)]
    assert [seen.add(n) for n in numbers] == [True] * 3000 + [False] * 6000


def test_importing_the_stage_does_not_import_torch() -> None:
    # Every worker process imports it.
    code = "import sys, bertsmith.text.prepare; print(sorted({'torch', 'transformers', 'sklearn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


SCRIPT = """
    import sys
    from pathlib import Path
    from bertsmith.config import PrepareSettings
    from bertsmith.text.prepare import prepare
    corpus, vocab, output, workers = sys.argv[1:]
    {guard}prepare(PrepareSettings(corpus=[corpus], vocab=vocab, output=output, workers=int(workers), sentences="line"))
"""


# Stops where results of the workers arrive, with more of them under way.
SLOW = """
    import time
    from bertsmith.text.partial import PartialStore
    add = PartialStore.add
    def slow(self, *arguments):
        add(self, *arguments)
        print("under way", flush=True)
        time.sleep(60)
    PartialStore.add = slow
"""


def test_script_without_guard_gets_an_answer(settings: PrepareSettings, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT.format(guard="")))
    arguments = [sys.executable, "script.py", "corpus", "vocab", "out", "2"]
    result = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode != 0
    assert "if __name__" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_stopped_run_leaves_no_output_and_no_process(settings: PrepareSettings, tmp_path: Path, sent: int) -> None:
    several = "\n\n".join(texts(200, seed=5))
    (tmp_path / "corpus" / "long.txt").write_text("\n\n".join(f"{several} {i}." for i in range(40)))
    script = textwrap.dedent(SLOW) + textwrap.dedent(SCRIPT.format(guard="if __name__ == '__main__': "))
    (tmp_path / "script.py").write_text(script)
    arguments = [sys.executable, "script.py", "corpus", "vocab", "out", "2"]
    process = subprocess.Popen(
        arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    assert process.stdout is not None
    assert process.stdout.readline() == "under way\n"
    assert len(_group(process.pid)) >= 3
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)  # as Ctrl-C does
    else:
        process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    assert process.returncode != 0
    while time.monotonic() < deadline and _group(process.pid):
        time.sleep(0.05)
    assert _group(process.pid) == []
    assert not (tmp_path / "out").exists()
    if sent == signal.SIGINT:
        assert "Run the same command again" in err
        assert err.count("Traceback") == 1, "only the script's own"
    store = prepare(changed(settings, output=tmp_path / "out"), QUIET)
    assert TokenStore.open(store.path).num_documents > 95


def _group(group: int) -> list[str]:
    """Return the command lines of the processes of a group."""
    found = subprocess.run(["ps", "-A", "-o", "pgid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in found.splitlines()]
    return [args for pgid, state, args in rows if int(pgid) == group and not state.startswith("Z")]
