from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from bertsmith import files
from bertsmith.errors import InputError


def _names(directory: Path) -> list[str]:
    return sorted(p.name for p in directory.iterdir())


def test_write_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    files.write_text(path, "first, longer")
    files.write_text(path, "둘째")
    assert path.read_text(encoding="utf-8") == "둘째"
    assert _names(path.parent) == ["a.txt"]


def test_write_that_fails_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_text(path, "new")
    assert path.read_text() == "old"
    assert _names(tmp_path) == ["a.txt"]


def test_written_file_is_readable_by_others_as_umask_allows(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "x")
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_files_of_a_directory_are_readable_by_others_as_umask_allows(tmp_path: Path) -> None:
    with files.new_directory(tmp_path / "model") as directory:
        (directory / "weights").touch(mode=0o600)
    (tmp_path / "plain").touch()
    assert (tmp_path / "model" / "weights").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_directory_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    for path in (tmp_path / "plain" / "model", tmp_path / "plain" / "deep" / "model"):
        with pytest.raises(InputError, match="is a file or in one"), files.new_directory(path):
            pass


def test_json_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"한": [1, 2.5, None]})
    assert files.read_json(path, what="numbers") == {"한": [1, 2.5, None]}
    assert "한" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "not found; expected a list"), (b"[1]", "JSON list, expected an object"), (b'{"a": ', "not readable as")],
)
def test_bad_json_says_what_was_expected(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        files.read_json(path, what="a list of things")
    assert str(path) in str(caught.value)


def test_json_below_a_file_and_a_directory_as_json(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="not found"):
        files.read_json(tmp_path / "file" / "a.json", what="a thing")
    with pytest.raises(InputError, match="cannot be read"):
        files.read_json(tmp_path, what="a thing")


def test_new_directory_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with files.new_directory(target) as directory:
        (directory / "old").write_text("1")
    with files.new_directory(target) as directory:
        (directory / "sub").mkdir()
        (directory / "sub" / "new").write_text("2")
        assert _names(target) == ["checksums.json", "old"]
    assert _names(target) == ["checksums.json", "sub"]
    assert _names(tmp_path) == ["out"]
    files.check_directory(target, what="the directory")


def test_new_directory_keeps_the_old_one_when_the_block_fails(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with files.new_directory(target) as directory:
        (directory / "old").write_text("1")
    with pytest.raises(FileNotFoundError), files.new_directory(target) as directory:
        (directory / "sub" / "new").write_text("2")
    assert _names(target) == ["checksums.json", "old"]
    assert _names(tmp_path) == ["out"]


def test_new_directory_puts_the_old_one_back_when_the_last_rename_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    with files.new_directory(target) as directory:
        (directory / "old").write_text("1")
    replace = Path.replace

    def failing(self: Path, other: Path) -> Path:
        if other == target and (self / "new").exists():
            raise OSError(5, "Input/output error")
        return replace(self, other)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(OSError, match="Input/output"), files.new_directory(target) as directory:
        (directory / "new").write_text("2")
    assert _names(target) == ["checksums.json", "old"]
    assert _names(tmp_path) == ["out"]


@pytest.mark.parametrize("name", ["a.bin", "sub/b.bin"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_check_directory_names_the_damaged_file(tmp_path: Path, name: str, damage: str) -> None:
    target = tmp_path / "out"
    with files.new_directory(target) as directory:
        (directory / "sub").mkdir()
        (directory / "a.bin").write_bytes(bytes(99))
        (directory / "sub" / "b.bin").write_bytes(bytes(13))
    file = target / name
    if damage == "flip":
        file.write_bytes(b"\x01" + file.read_bytes()[1:])
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        file.unlink()
    with pytest.raises(InputError, match=name):
        files.check_directory(target, what="the directory")


def test_check_directory_without_checksums(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected the checksums of a model"):
        files.check_directory(tmp_path, what="a model")


def test_seal_covers_all_files_but_its_own(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_text("x")
    files.seal(tmp_path)
    (tmp_path / "b").write_text("y")
    files.seal(tmp_path)
    sums = json.loads((tmp_path / files.CHECKSUMS).read_text())
    assert sums.pop(files.CHECKSUMS)
    assert sums == {"b": files.sha256(tmp_path / "b"), "sub/a": files.sha256(tmp_path / "sub" / "a")}
    # As earlier versions wrote it.
    (tmp_path / files.CHECKSUMS).write_text(json.dumps(sums))
    files.check_directory(tmp_path, what="the directory")


def _try_to_write(directory: str, queue: multiprocessing.Queue[str]) -> None:
    try:
        with files.only_writer(Path(directory)):
            queue.put("in")
    except InputError as error:
        queue.put(str(error))


def test_only_one_process_writes(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[str] = context.Queue()
    directory = tmp_path / "new"
    with files.only_writer(directory):
        other = context.Process(target=_try_to_write, args=(str(directory), queue))
        other.start()
        assert "another process is writing here" in queue.get(timeout=60)
        other.join()
    _try_to_write(str(directory), queue)
    assert queue.get(timeout=60) == "in"


def test_only_writer_where_a_file_stands(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be made as a directory"), files.only_writer(tmp_path / "file"):
        pass


def test_tidy_after_a_kill(tmp_path: Path) -> None:
    """Temporary names go; a directory that had stepped aside comes back only where the new one is not there."""
    (tmp_path / ".model.abc_1234").mkdir()
    (tmp_path / ".model.abc_1234" / "half").write_text("x", encoding="utf-8")
    (tmp_path / ".config.yaml.zzzz9999").write_text("half", encoding="utf-8")
    for name in ("best", "last"):
        (tmp_path / f".{name}.old.abcd1234" / name).mkdir(parents=True)
        (tmp_path / f".{name}.old.abcd1234" / name / "weights").write_text("old", encoding="utf-8")
    (tmp_path / "last").mkdir()
    (tmp_path / "last" / "weights").write_text("new", encoding="utf-8")
    (tmp_path / ".lock").touch()
    theirs = [".backup.20240101", ".env.template", ".mine"]
    for name in theirs:
        (tmp_path / name).write_text("somebody's", encoding="utf-8")
    files.tidy(tmp_path, r"config\.yaml|model|best|last")
    assert sorted(p.name for p in tmp_path.iterdir()) == [*theirs[:2], ".lock", ".mine", "best", "last"]
    assert (tmp_path / "best" / "weights").read_text(encoding="utf-8") == "old"
    assert (tmp_path / "last" / "weights").read_text(encoding="utf-8") == "new"
