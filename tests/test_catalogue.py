"""Messages in Korean: the catalogue is complete, says the same values, and is used where the user asks for it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from bertsmith.catalogue.commands import option_help, paragraph
from bertsmith.catalogue.translate import language, phrase, translated
from bertsmith.console import Log
from tests.messages import help_texts, templates

KOREAN: dict[str, str] = json.loads(
    resources.files("bertsmith.catalogue").joinpath("ko.json").read_text(encoding="utf-8")
)
# What is the same in every language: commands, and names with a sign between.
SAME = ("  bertsmith ", "      bertsmith ", "{1} from {2}")


def holes(text: str) -> list[str]:
    return sorted(re.findall(r"\{\d\}", text))


def has_hangul(text: str) -> bool:
    return re.search("[가-힣]", text) is not None


def test_every_message_of_the_source_is_there() -> None:
    found = templates()
    assert len(found) > 80
    missing = {template: place for template, place in found.items() if template not in KOREAN}
    assert not missing, "\n".join(
        f"{place}: {template!r} is not in catalogue/ko.json" for template, place in missing.items()
    )


def test_a_message_without_an_entry_is_found(tmp_path: Path) -> None:
    lines = [
        'log.say(f"{len(rows):,} new rows")',
        'log.warn("odd" if a else f"odd {b}")',
        "log.say(scores.text())",
        'run.log.progress("sorting", 3, "rows")',
        'log.say(f"{a}: {b}")',
    ]
    (tmp_path / "new.py").write_text("\n".join(lines), encoding="utf-8")
    assert list(templates(tmp_path)) == ["{1} new rows", "odd", "odd {1}", "sorting"]


def test_every_help_text_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = help_texts()
    assert len(texts) > 200
    monkeypatch.setenv("BERTSMITH_LANG", "ko")
    left = [text for text in texts if not has_hangul(paragraph(text)) and not has_hangul(option_help(text))]
    assert not left, "not in catalogue/ko.json:\n" + "\n".join(left)
    # A default alone is no translation.
    plain = [re.sub(r"  \[.*\]$", "", text) for text in texts]
    assert all(has_hangul(paragraph(text)) or has_hangul(option_help(text)) for text in plain)


def test_an_entry_says_the_same_values() -> None:
    assert [english for english in KOREAN if holes(KOREAN[english]) != holes(english)] == []
    untouched = [english for english in KOREAN if not has_hangul(KOREAN[english])]
    assert all(english.startswith(SAME) and KOREAN[english].strip() == english.strip() for english in untouched)


def test_values_stay_as_they_are() -> None:
    command = "bertsmith pretrain --config preparing/config.yaml --resume"
    seen = translated("stopped after step 1,234; the checkpoint is whole. Go on with:", "ko")
    assert seen == "1,234스텝 뒤에 중단했습니다. 체크포인트는 온전합니다. 이어서 하려면:"
    assert translated(f"stopped; the checkpoint is whole. Go on with:\n  {command}", "ko").endswith(f"\n  {command}")
    assert translated("Token store: preparing", "ko") == "토큰 저장소: preparing"
    assert translated("step 40: MLM loss 3.1", "ko") == "스텝 40: MLM loss 3.1"
    assert translated("{1} documents", "ko") == "{1} documents"


@pytest.mark.parametrize("message", ["nothing like it", "7 dev rows stand in the training rows: {odd}", "", "[a] {2}"])
def test_what_is_not_known_stays_english(message: str) -> None:
    assert translated(message, "ko") == message
    assert translated("preparing", "en") == "preparing"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "en"),
        ({"LANG": "ko_KR.UTF-8"}, "ko"),
        ({"LANG": "ko_KR.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "de_DE", "BERTSMITH_LANG": "ko"}, "ko"),
        ({"LANG": "ko_KR", "BERTSMITH_LANG": "en"}, "en"),
        ({"LC_MESSAGES": "ko", "LANG": "C"}, "ko"),
        ({"LANG": "kok_IN"}, "en"),
        ({"BERTSMITH_LANG": "tlh"}, "en"),
    ],
)
def test_which_language(environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BERTSMITH_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert language() == expected


def test_the_log_speaks_korean(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTSMITH_LANG", "ko")
    log = Log()
    log.say("going on after step 3 of 9")
    log.warn("nothing to resume in run; starting a new run")
    with log.progress("counting words", 2, "words") as advance:
        advance(2)
    seen = capsys.readouterr().err
    assert "전체 9스텝 중 3스텝 다음부터 이어서 학습합니다" in seen
    assert "경고: run: 이어서 할 실행이 없어 새로 시작합니다" in seen
    assert "단어 세는 중 100%" in seen
    assert phrase("error: {1}", "x") == "오류: x"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--lang", "ko", "--help"], ["명령:", "텍스트에서 WordPiece 어휘 사전을"]),
        (["--lang", "ko", "pretrain", "--help"], ["[기본값: mini]", "예: bertsmith pretrain", "STORE: 'bertsmith"]),
        (["--lang", "ko", "finetune", "--help"], ["과제:", "텍스트 또는 텍스트 쌍에 레이블 하나"]),
        (["--lang", "ko", "finetune", "tag", "--help"], ["미세 조정: 단어나", "[필수]"]),
        (["--lang", "ko", "fill", "--help"], ["보여 줄 토큰 수"]),
        (["--lang", "ko", "fill", "nowhere", "x"], ["오류: nowhere: 디렉터리가 없습니다."]),
    ],
)
def test_the_command_line_speaks_korean(arguments: list[str], words: list[str]) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "bertsmith", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env={**os.environ, "COLUMNS": "120"},
        timeout=60,
    )
    seen = " ".join((result.stdout + result.stderr).split())
    assert all(word in seen for word in words), seen
    assert "Traceback" not in seen
