"""The command line as a user meets it, in processes of its own where that matters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from bertsmith import config
from bertsmith.cli import _STAGES, _SUMMARIES, _TASKS, cli, settings_model

COMMANDS = list(_SUMMARIES)


def bertsmith(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bertsmith", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, **environment},
        timeout=120,
    )


def test_version_and_help_start_without_heavy_modules() -> None:
    code = (
        "import sys; from bertsmith.cli import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'pydantic', 'pyarrow', 'sklearn', 'tokenizers', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert all(name in result.stdout for name in COMMANDS)
    assert bertsmith("--version").stdout.startswith("bertsmith, version 0.")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_complete_help_with_an_example(name: str) -> None:
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0
    assert f"Example: bertsmith {name}" in " ".join(result.output.split())
    if name in _STAGES:
        _assert_complete(settings_model(_STAGES[name][0]), result.output)


@pytest.mark.parametrize("name", _TASKS)
def test_every_task_has_complete_help_with_an_example(name: str) -> None:
    result = CliRunner().invoke(cli, ["finetune", name, "--help"])
    assert result.exit_code == 0
    assert f"Example: bertsmith finetune {name}" in " ".join(result.output.split())
    _assert_complete(settings_model(_TASKS[name][1]), result.output)


def _assert_complete(settings: type[config.Configuration], output: str) -> None:
    for name in set(settings.model_fields) - {"task"}:
        extra = settings.model_fields[name].json_schema_extra
        option = extra.get("option", name.replace("_", "-")) if isinstance(extra, dict) else name.replace("_", "-")
        assert str(option) in output.lower() or name.upper() in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrain", "nowhere", "--steps", "3", "-o", "out"], "nowhere"),
        (["pretrain", "s", "--stepz", "3"], "No such option"),
        (["pretrian"], "No such command"),
        (["vocab", "-o", "v"], "corpus is missing"),
        (["vocab", "nothing-here", "-o", "v"], "no such file or folder"),
        (["fill", "nowhere", "[MASK]"], "no such directory"),
        (["finetune", "juggle", "m"], "juggle"),
        (["pretrain", "s", "--steps", "many", "-o", "r"], "many"),
        (["pretrain", "s", "--budget", "soon", "-o", "r"], "30m"),
        (["prepare", "x", "--config", "none.yaml"], "none.yaml"),
    ],
)
def test_mistakes_end_with_a_sentence_and_code_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "bertsmith", *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=120
    )
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_file_of_settings_and_what_is_typed_over_it(corpus_file: Path, tmp_path: Path) -> None:
    settings = tmp_path / "vocab.yaml"
    settings.write_text(f"corpus: [{corpus_file}]\nsize: 120\nlowercase: true\n", encoding="utf-8")
    result = bertsmith("vocab", "--config", str(settings), "--size", "99", "-o", str(tmp_path / "v"))
    assert result.returncode == 0, result.stderr
    written = config.VocabularySettings.from_yaml(tmp_path / "v" / "config.yaml")
    assert (written.size, written.lowercase) == (99, True)
    settings.write_text("sizes: 120\n", encoding="utf-8")
    result = bertsmith("vocab", str(corpus_file), "--config", str(settings), "-o", str(tmp_path / "w"))
    assert result.returncode == 2
    assert "Did you mean 'size'?" in result.stderr


def test_korean_prints_under_any_locale(run: Path) -> None:
    result = bertsmith("show", str(run), "우리 고양이는", LC_ALL="C", PYTHONUTF8="0", PYTHONIOENCODING="")
    assert result.returncode == 0
    assert "우리" in result.stdout


def test_json_for_programs(run: Path) -> None:
    blanks = json.loads(bertsmith("fill", str(run), "the [MASK]", "--json", "--top-k", "2").stdout)
    assert len(blanks) == 1
    assert len(blanks[0]) == 2
    assert 0 < json.loads(bertsmith("next", str(run), "the cat.", "a dog.", "--json").stdout)["is_next"] < 1
    assert json.loads(bertsmith("show", str(run), "the cat", "--json").stdout)[0]["token"] == "[CLS]"


def test_from_text_to_predictions(corpus_file: Path, tmp_path: Path) -> None:
    """The README's path, with sizes that take seconds."""
    rows = "text,label\n" + "".join(f"the cat sees {n},a\na dog finds {n},b\n" for n in range(12))
    (tmp_path / "rows.csv").write_text(rows, encoding="utf-8-sig")
    here = tmp_path.as_posix()
    tiny = "--layers 1 --hidden-size 16 --heads 2 --max-length 32 --max-positions 32 --batch-size 8 --steps 4"
    for line in (
        f"vocab {corpus_file} --size 130 -o {here}/vocab",
        f"prepare {corpus_file} --vocab {here}/vocab -o {here}/store --workers 2",
        f"pretrain {here}/store {tiny} --held-out 0.1 --threads 1 -o {here}/run",
        f"finetune classify {here}/run --train {here}/rows.csv --dev {here}/rows.csv --max-length 20 --threads 1 "
        f"-o {here}/tuned",
        f"predict {here}/tuned --input {here}/rows.csv -o {here}/out.jsonl",
    ):
        result = bertsmith(*line.split())
        assert result.returncode == 0, result.stderr
        assert "next: bertsmith" in result.stderr.lower() or line.startswith("predict")
    assert len((tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()) == 24


def test_a_reader_that_leaves_early_is_no_failure(run: Path) -> None:
    command = [sys.executable, "-m", "bertsmith", "show", str(run), "the cat " * 9, "--json"]
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        result = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")
