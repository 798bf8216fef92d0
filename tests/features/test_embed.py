"""Files of vectors: the same in every format, the same after a kill, and what is refused."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from safetensors.numpy import load_file

from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.feature_config import EmbedSettings
from bertsmith.features import embed as embed_module
from bertsmith.features import formats
from bertsmith.features.embed import embed
from bertsmith.features.encoder import Encoder
from bertsmith.features.spool import Spool, begin, refuse_foreign, work_directory
from bertsmith.training.processes import Processes
from tests.features.small import POSITIONS, save, some_texts

QUIET = Log(quiet=True)
FORMATS = ("parquet", "npy", "safetensors")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return some_texts(1301, seed=3)


@pytest.fixture
def lines(tmp_path: Path, texts: list[str]) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def settings(model: Path, given: Path, output: Path, **more: object) -> EmbedSettings:
    return EmbedSettings.parse({"model": model, "input": given, "output": output, "threads": 2} | more)


def vectors_of(path: Path) -> np.ndarray:
    if path.suffix == ".parquet":
        return np.stack(pq.read_table(path).column("vector").to_numpy())
    return np.load(path) if path.suffix == ".npy" else load_file(path)["vectors"]


def about(path: Path) -> dict[str, object]:
    if path.suffix == ".parquet":
        return json.loads(pq.read_schema(path).metadata[b"bertsmith"])
    if path.suffix == ".npy":
        return json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return json.loads(header["__metadata__"]["bertsmith"])


@pytest.mark.parametrize("kind", FORMATS)
def test_row_n_is_text_n(
    tmp_path: Path, model: Path, lines: Path, texts: list[str], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "_GROUP_BYTES", 7 * 4 * 40)
    output = tmp_path / f"out.{kind}"
    given = settings(model, lines, output, layers="-1,0", pooling="max")
    assert embed(given, QUIET) == output
    encoder = Encoder.load(model, layers="-1,0", pooling="max")
    np.testing.assert_array_equal(vectors_of(output), encoder.encode(texts))
    said = about(output)
    assert (said["layers"], said["pooling"], said["model"]) == ([5, 0], "max", encoder.checksum)
    assert not work_directory(output).exists()
    extra = {"out.npy.json"} if kind == "npy" else set()
    assert {p.name for p in tmp_path.iterdir()} == {"texts.txt", output.name, *extra}


@pytest.mark.parametrize("kind", FORMATS)
def test_tokens(tmp_path: Path, model: Path, lines: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "_GROUP_BYTES", 97 * 4 * 20)
    monkeypatch.setattr(formats, "_LENGTHS_AT_ONCE", 101)
    output = tmp_path / f"out.{kind}"
    embed(settings(model, lines, output, tokens=True), QUIET)
    texts = lines.read_text(encoding="utf-8").splitlines()
    parts = list(Encoder.load(model, tokens=True).stream(texts, tokens=True))
    vectors, ids, lengths = (
        np.concatenate([getattr(p, name) for p in parts]) for name in ("vectors", "token_ids", "lengths")
    )
    starts = np.concatenate([[0], np.cumsum(lengths)])
    if kind == "parquet":
        table = pq.read_table(output).combine_chunks()
        assert table.column("token_ids").to_pylist() == [list(part) for part in np.split(ids, starts[1:-1])]
        found = np.array(table.column("vectors").chunk(0).flatten().flatten()).reshape(vectors.shape)
    elif kind == "npy":
        found = np.load(output)
        np.testing.assert_array_equal(np.load(f"{output}.starts.npy"), starts)
        np.testing.assert_array_equal(np.load(f"{output}.token_ids.npy"), ids)
    else:
        tensors = load_file(output)
        found = tensors["vectors"]
        np.testing.assert_array_equal(tensors["starts"], starts)
        np.testing.assert_array_equal(tensors["token_ids"], ids)
    np.testing.assert_array_equal(found, vectors)


@pytest.mark.parametrize("kind", FORMATS)
def test_memory_does_not_grow_with_the_number_of_texts(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "_GROUP_BYTES", 1 << 16)
    monkeypatch.setattr(formats, "_LENGTHS_AT_ONCE", 1 << 10)
    texts = 300_000
    np.full(texts, 2, dtype="<i8").tofile(tmp_path / "lengths.bin")
    np.zeros(2 * texts, dtype="<i4").tofile(tmp_path / "token_ids.bin")
    np.zeros(2 * texts, dtype="<f4").tofile(tmp_path / "vectors.bin")
    finished = formats.Finished(tmp_path, texts, 2 * texts, 1, {})
    tracemalloc.start()
    formats.write_output(finished, tmp_path / f"out.{kind}", kind)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # pyarrow's own memory is not counted, a chunk that is copied is.
    assert peak < 8 * texts, "as much as one number a text"


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_stopped_run_goes_on_to_the_same_bytes(
    tmp_path: Path, model: Path, lines: Path, kind: str, tokens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, output = tmp_path / f"whole.{kind}", tmp_path / f"out.{kind}"
    embed(settings(model, lines, whole, tokens=tokens), QUIET)
    monkeypatch.setattr(embed_module, "_COMMIT_SECONDS", 0.0)
    adding, added = Spool.add, []

    def interrupted(self: Spool, vectors: object) -> None:
        adding(self, vectors)  # type: ignore[arg-type]
        added.append(1)
        if len(added) == 2:
            raise KeyboardInterrupt  # written, and not yet counted

    monkeypatch.setattr(Spool, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embed(settings(model, lines, output, tokens=tokens), QUIET)
    assert not output.exists()
    progress = json.loads((work_directory(output) / "progress.json").read_text(encoding="utf-8"))
    assert 0 < progress["texts"] < 1301
    log = io.StringIO()
    monkeypatch.setattr("bertsmith.console._console", lambda: Console(file=log, width=200))
    embed(settings(model, lines, output, tokens=tokens, threads=1))
    assert f"goes on after {progress['texts']:,} texts" in log.getvalue()
    assert output.read_bytes() == whole.read_bytes()


def test_a_full_disk_keeps_what_is_done(
    tmp_path: Path, model: Path, lines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, output = tmp_path / "whole.npy", tmp_path / "out.npy"
    embed(settings(model, lines, whole), QUIET)
    monkeypatch.setattr(embed_module, "_COMMIT_SECONDS", 0.0)
    adding, added = Spool.add, []

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full_later(self: Spool, vectors: object) -> None:
        adding(self, vectors)  # type: ignore[arg-type]
        added.append(1)
        if len(added) == 2:
            full()

    for place, name, action in ((Spool, "add", full_later), (embed_module, "write_output", full)):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, action)
            with pytest.raises(InputError, match=r"disk is full \(104 kB of vectors are written twice, .*B free\)"):
                embed(settings(model, lines, output), QUIET)
        assert not output.exists()
        assert json.loads((work_directory(output) / "progress.json").read_text(encoding="utf-8"))["texts"] >= 512
    embed(settings(model, lines, output), QUIET)
    assert output.read_bytes() == whole.read_bytes()


def test_two_processes_go_on_to_the_same_bytes(
    tmp_path: Path, model: Path, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stretches of 512 texts: one is done alone, three are shared, so that one process has one more than the other."""
    lines, whole, output = tmp_path / "many.txt", tmp_path / "whole.npy", tmp_path / "out.npy"
    lines.write_text("\n".join((texts * 2)[:2000]) + "\n", encoding="utf-8")
    embed(settings(model, lines, whole, tokens=True), QUIET)
    adding, added = Spool.add, []

    def interrupted(self: Spool, vectors: object) -> None:
        if added:
            raise KeyboardInterrupt
        added.append(1)
        adding(self, vectors)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(embed_module, "_COMMIT_SECONDS", 0.0)
        patch.setattr(Spool, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            embed(settings(model, lines, output, tokens=True), QUIET)
    progress = json.loads((work_directory(output) / "progress.json").read_text(encoding="utf-8"))
    assert progress["texts"] == 512
    embed(settings(model, lines, output, tokens=True, threads=1, devices=2), QUIET)
    for name in ("", ".starts.npy", ".token_ids.npy"):
        assert Path(f"{output}{name}").read_bytes() == Path(f"{whole}{name}").read_bytes()


def test_one_process_chooses_the_arithmetic(
    tmp_path: Path, model: Path, lines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What auto found is asked for by name: the encoder has nothing left to measure."""
    shared: list[object] = []
    monkeypatch.setattr(embed_module, "usable_precision", lambda *_: "bfloat16")
    monkeypatch.setattr(Processes, "share", lambda self, value: shared.append(value) or value)
    output = tmp_path / "out.parquet"
    embed(settings(model, lines, output, precision="auto"), QUIET)
    assert shared[0] == "bfloat16"
    assert about(output)["precision"] == "bfloat16"


def test_several_processes_cannot_share_standard_input(tmp_path: Path, model: Path) -> None:
    with pytest.raises(InputError, match="one process, not by 2"):
        embed(settings(model, Path("-"), tmp_path / "out.npy", devices=2), QUIET)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_killed_process_goes_on_to_the_same_bytes(tmp_path: Path, model: Path, texts: list[str], kind: str) -> None:
    lines, whole, output = tmp_path / "many.txt", tmp_path / f"whole.{kind}", tmp_path / f"out.{kind}"
    lines.write_text("\n".join(texts * 5) + "\n", encoding="utf-8")
    code = (
        "import sys; from bertsmith.features import embed; embed._COMMIT_SECONDS = 0\n"
        "from bertsmith.__main__ import main; main()"
    )
    command = ["embed", str(model), "--input", str(lines), "--threads", "1", "-o"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *command, str(output)],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    progress = work_directory(output) / "progress.json"
    end = time.monotonic() + 60
    while not progress.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not output.exists()
    assert json.loads(progress.read_text(encoding="utf-8"))["texts"] < len(texts) * 20
    embed(settings(model, lines, output), QUIET)
    embed(settings(model, lines, whole), QUIET)
    assert output.read_bytes() == whole.read_bytes()


def unfinished(model: Path, lines: Path, output: Path, monkeypatch: pytest.MonkeyPatch, **more: object) -> None:
    """Stop a run after its first texts."""
    monkeypatch.setattr(embed_module, "_COMMIT_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(embed_module, "write_output", interrupt)
        with pytest.raises(KeyboardInterrupt):
            embed(settings(model, lines, output, **more), QUIET)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_unfinished_work_of_others_is_refused(
    tmp_path: Path, model: Path, lines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.npy"
    unfinished(model, lines, output, monkeypatch)
    other = save(tmp_path / "other", seed=6)
    with pytest.raises(InputError, match=r"out\.npy\.partial: holds unfinished vectors made with another model"):
        embed(settings(other, lines, output), QUIET)
    with pytest.raises(InputError, match="made with pooling 'mean', not 'cls'"):
        embed(settings(model, lines, output, pooling="cls"), QUIET)
    changed = tmp_path / "changed.txt"
    changed.write_text("a\n", encoding="utf-8")
    with pytest.raises(InputError, match="made with another input"):
        embed(settings(model, changed, output), QUIET)
    embed(settings(model, changed, output, overwrite=True), QUIET)
    assert np.load(output).shape == (1, 20)


@pytest.mark.parametrize("name", ["notes.txt", "vectors.bin", "job.json"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_somebody_else_is_left_alone(
    tmp_path: Path, model: Path, lines: Path, name: str, overwrite: bool
) -> None:
    theirs = work_directory(tmp_path / "out.npy") / name
    theirs.parent.mkdir()
    theirs.write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=rf"out\.npy\.partial: holds {name}; expected nothing but unfinished"):
        embed(settings(model, lines, tmp_path / "out.npy", overwrite=overwrite), QUIET)
    assert [path.read_text(encoding="utf-8") for path in theirs.parent.iterdir()] == ["{}"]


def test_what_is_put_beside_unfinished_work_stays(
    tmp_path: Path, model: Path, lines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.npy"
    unfinished(model, lines, output, monkeypatch)
    work = work_directory(output)
    (work / ".progress.json.ab_1cd2e").touch()
    writing = embed_module.write_output

    def disturbed(*arguments: object) -> None:
        (work / "notes.txt").write_text("mine", encoding="utf-8")
        writing(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(embed_module, "write_output", disturbed)
    embed(settings(model, lines, output), QUIET)
    assert np.load(output).shape == (1301, 20)
    assert [path.name for path in work.iterdir()] == ["notes.txt"]
    assert not list(tmp_path.glob(".*"))


def test_standard_input_goes_on_only_with_the_same_texts(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.npy"

    def give(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    give("a b\nc\n")
    unfinished(model, Path("-"), output, monkeypatch)
    give("a c\nc\nd\n")
    with pytest.raises(InputError, match="standard input: does not begin with the 2 texts that are done"):
        embed(settings(model, Path("-"), output), QUIET)
    give("a b\nc\nd\n")
    embed(settings(model, Path("-"), output), QUIET)
    np.testing.assert_allclose(np.load(output), Encoder.load(model).encode(["a b", "c", "d"]), atol=1e-5)


def test_damaged_work_is_named(tmp_path: Path, model: Path, lines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out.npy"
    unfinished(model, lines, output, monkeypatch)
    raw = work_directory(output) / "vectors.bin"
    os.truncate(raw, 99)
    with pytest.raises(InputError, match=r"vectors\.bin: is shorter than the 104,080 bytes"):
        embed(settings(model, lines, output), QUIET)


@pytest.mark.parametrize("name", ["vectors.bin", "lengths.bin", "token_ids.bin", "progress.json", "job.json"])
def test_a_flipped_bit_of_unfinished_work_is_found(
    tmp_path: Path, model: Path, lines: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, whole = tmp_path / "out.npy", tmp_path / "whole.npy"
    embed(settings(model, lines, whole, tokens=True), QUIET)
    # Of two runs, the second of which has nothing to add.
    for _ in range(2):
        unfinished(model, lines, output, monkeypatch, tokens=True)
    work = work_directory(output)
    job = json.loads((work / "job.json").read_text(encoding="utf-8"))
    del job["sha256"]
    written = (work / name).read_bytes()
    rng = np.random.default_rng(4)
    for at in rng.integers(0, len(written), 99 if name.endswith("json") else 7).tolist():
        (work / name).write_bytes(written[:at] + bytes([written[at] ^ 1 << int(rng.integers(8))]) + written[at + 1 :])
        said = why_not(work, job)
        # A job that cannot be read may be somebody else's; one that is the same needs no checksum.
        expected = rf"{name}: .*--overwrite begins anew|partial: holds job\.json, .*move the folder"
        assert re.search(expected, said) or (name == "job.json" and not said and at > written.index(b'"sha256'))
    if name == "job.json":
        (work / name).write_bytes(written)
    assert name == "job.json" or why_not(work, job)
    embed(settings(model, lines, output, tokens=True, overwrite=True), QUIET)
    assert output.read_bytes() == whole.read_bytes()


def why_not(work: Path, job: dict[str, object]) -> str:
    """Return why unfinished work cannot go on."""
    try:
        refuse_foreign(work)
        begin(work, job, overwrite=False)
    except InputError as error:
        return str(error)
    return ""


def test_the_progress_of_unfinished_work_cannot_be_wrong(
    tmp_path: Path, model: Path, lines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.npy"
    unfinished(model, lines, output, monkeypatch)
    for file, name in (("progress.json", "tokens"), ("job.json", "pooling")):
        path = work_directory(output) / file
        whole = path.read_text(encoding="utf-8")
        changed = json.loads(whole) | {name: 5}
        path.write_text(json.dumps(changed), encoding="utf-8")
        with pytest.raises(InputError, match=rf"{file}: does not match its checksum: it was changed on disk; --over"):
            embed(settings(model, lines, output), QUIET)
        path.write_text(whole, encoding="utf-8")
    embed(settings(model, lines, output), QUIET)
    assert np.load(output).shape == (1301, 20)


def test_an_output_that_exists(tmp_path: Path, model: Path, lines: Path) -> None:
    output = tmp_path / "out.npy"
    for taken in (output, Path(f"{output}.json")):
        taken.write_text("mine", encoding="utf-8")
        with pytest.raises(InputError, match="exists; choose another output, or give --overwrite"):
            embed(settings(model, lines, output), QUIET)
        assert taken.read_text(encoding="utf-8") == "mine"
        taken.unlink()
    output.write_text("mine", encoding="utf-8")
    embed(settings(model, lines, output, overwrite=True), QUIET)
    assert np.load(output).shape == (1301, 20)
    with pytest.raises(InputError, match="is the input itself"):
        embed(settings(model, lines, lines, format="npy", overwrite=True), QUIET)
    with pytest.raises(InputError, match="is a directory"):
        embed(settings(model, lines, tmp_path, format="npy"), QUIET)
    with pytest.raises(InputError, match="does not say what to write"):
        embed(settings(model, lines, tmp_path / "out.vec"), QUIET)


def test_tables_and_pairs(tmp_path: Path, model: Path) -> None:
    rows = [("a b", "c", "d e"), ("f", "", "g"), ("h i", "j", "k")]
    table = tmp_path / "rows.csv"
    table.write_text("title,body,other\n" + "".join(",".join(row) + "\n" for row in rows), encoding="utf-8")
    pq.write_table(
        pa.table(dict(zip(("title", "body", "other"), zip(*rows, strict=True), strict=True))), tmp_path / "rows.parquet"
    )
    wanted = Encoder.load(model).encode([("a b c", "d e"), ("f", "g"), ("h i j", "k")])
    for name in ("rows.csv", "rows.parquet"):
        output = tmp_path / f"{name}.safetensors"
        embed(settings(model, tmp_path / name, output, text="title,body", text_b="other"), QUIET)
        np.testing.assert_allclose(vectors_of(output), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "content", "more", "message"),
    [
        ("a.csv", "text\n", {}, "holds no text"),
        ("a.txt", "", {}, "holds no text"),
        ("a.txt", "a\n \nb\n", {}, r"a\.txt:2: the text is empty"),
        ("a.csv", "text,b\nx,y\n,z\n", {}, r"a\.csv:3: column 'text' is empty"),
        ("a.csv", "text,b\nx,y\n", {"text": "txt"}, "has no column 'txt'. Did you mean 'text'"),
        ("a.jsonl", '{"a": "b"}\n', {}, "has no field 'text'"),
        ("a.txt", "a\n", {"text_b": "b"}, "is plain text; expected a table"),
        ("a.txt", "a\n", {"layers": "9"}, "layer 9: the model has 5"),
    ],
)
def test_inputs_that_cannot_be_used(
    tmp_path: Path, model: Path, name: str, content: str, more: dict[str, object], message: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        embed(settings(model, tmp_path / name, tmp_path / "out.npy", **more), QUIET)
    assert {p.name for p in tmp_path.iterdir()} == {name}


def test_nothing_on_standard_input(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(InputError, match="standard input: holds no text"):
        embed(settings(model, Path("-"), tmp_path / "out.npy"), QUIET)
    assert not list(tmp_path.iterdir())


def test_long_texts_are_counted_and_the_next_step_is_said(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = io.StringIO()
    monkeypatch.setattr("bertsmith.console._console", lambda: Console(file=log, width=300))
    given, output = tmp_path / "a.txt", tmp_path / "out.npy"
    given.write_text("a" * 100_000 + "\n" + "b c " * 25_000 + "\nd\n", encoding="utf-8")
    embed(settings(model, given, output))
    assert f"1 of 3 texts were longer than {POSITIONS} tokens and were cut" in log.getvalue()
    assert f"3 vectors of 20 numbers from 3 texts: {output}" in log.getvalue()
    assert f'numpy.load("{output}", mmap_mode="r")' in log.getvalue()
