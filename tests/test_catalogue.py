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
from bertsmith.config import PretrainSettings
from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.quickstart.run import BLANKS
from tests.messages import help_texts, messages

KOREAN: dict[str, str] = json.loads(
    resources.files("bertsmith.catalogue").joinpath("ko.json").read_text(encoding="utf-8")
)
# What is the same in every language.
SAME = {
    "{1} ({2} to {3})",
    "  A  {1}",
    "  B  {1}",
    "  A: {1}",
    "  B: {1}",
    "A",
    "B",
    "F1",
    "MB",
    "id",
    "pearson",
    "spearman",
}
# What stands beside messages and is none: examples, keys of files, figures.
NOT_SAID = {*BLANKS, "gold", "truncated", "max_length", "{1} s", "$(head -n 1 {1})", ' -H "Authorization: Bearer {1}"'}


def holes(text: str) -> list[str]:
    return sorted(re.findall(r"\{(\d)\*?\}", text))


def has_hangul(text: str) -> bool:
    return re.search("[가-힣]", text) is not None


def test_every_message_of_the_source_is_there() -> None:
    found = messages()
    assert len(found) > 500
    missing = [message for message in found if message.template not in KOREAN and message.template not in NOT_SAID]
    assert not missing, "\n".join(f"{m.place}: {m.template!r} is not in catalogue/ko.json" for m in missing)


def test_messages_inside_of_messages_are_said_too() -> None:
    left = [
        f"{message.place}: {message.template!r}: {{{number}}} may be a message, so {{{number}*}} in catalogue/ko.json"
        for message in messages()
        for number in sorted(message.said_values)
        if message.template in KOREAN and f"{{{number}*}}" not in KOREAN[message.template]
    ]
    assert not left, "\n".join(left)


def test_a_message_without_an_entry_is_found(tmp_path: Path) -> None:
    lines = [
        'log.say(f"{len(rows):,} new rows")',
        'log.warn("odd" if a else f"odd {b}")',
        "log.say(scores.text())",
        'run.log.progress("sorting", 3, "rows")',
        'log.say(f"{a}: {b}")',
        "def refuse(name, kind):",
        "    hint = f' Take {name}.' if name else ''",
        "    raise InputError(f'no {kind} here.{hint}\\nlook elsewhere')",
        "refuse('x', kind='such file' if a else 'csv')",
    ]
    (tmp_path / "new.py").write_text("\n".join(lines), encoding="utf-8")
    found = {message.template: set(message.said_values) for message in messages(tmp_path)}
    whole = {"{1} new rows": set(), "odd": set(), "odd {1}": set(), "sorting": set(), "rows": set()}
    assert found == {
        **whole,
        "no {1} here.{2}": {1, 2},
        "look elsewhere": set(),
        " Take {1}.": set(),
        "such file": set(),
    }


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
    assert set(untouched) <= SAME
    # Of two values side by side nobody knows where the first ends.
    pairs = [pair for english in KOREAN for pair in re.findall(r"\{\d\}\{\d\}", english) if pair not in KOREAN[english]]
    assert pairs == []


# A setting, a value that is none of its, and what is said of it; pydantic's own messages among them.
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"size": "huge"}, "size: 다음 중 하나여야 합니다: 'tiny', 'mini', "),
        ({"steps": 0}, "steps: 1 이상이어야 합니다 (입력: 0)"),
        ({"steps": "many"}, "steps: 정수여야 합니다 (입력: 'many')"),
        ({"learning_rate": []}, "learning_rate: 숫자여야 합니다 (입력: [])"),
        ({"dropout": 1.5, "mask_share": "x"}, "mask_share: 숫자여야 합니다 (입력: 'x'); dropout: "),
        ({"budget": "soon"}, "budget: 90s, 30m, 1.5h와 같은 시간이어야 하는데 'soon' 입니다"),
        ({"mask_mix": "80/20"}, "mask_mix: '80/20' 은(는) 80/10/10처럼 합이 100인"),
        ({"step": 3}, "알 수 없는 설정입니다: 'step'. 혹시 'steps' 인가요? 쓸 수 있는 설정: "),
        ({"store": None}, "store: 올바른 경로가 아닙니다 (입력: None"),
    ],
)
def test_what_is_wrong_with_settings(values: dict[str, object], expected: str) -> None:
    with pytest.raises(InputError) as caught:
        PretrainSettings.parse({"store": "store", "output": "run", **values})
    said = translated(caught.value.message, "ko")
    assert expected in said
    assert "should" not in said
    assert "expected" not in said


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
        (["--lang", "ko", "pretrian"], ["오류: 'pretrian' 명령이 없습니다.", "사용법:"]),
        (["--lang", "ko", "fill", "a", "b", "--top-k", "0"], ["오류: '--top-k' 의 값 0 은(는) 범위"]),
        (["--lang", "ko", "fill"], ["오류: 인자 'MODEL' 이(가) 없습니다.", "옵션 설명: bertsmith fill --help"]),
        (["--lang", "ko", "fill", "nowhere", "x"], ["오류: nowhere: 디렉터리가 없습니다."]),
        (["serve", "--help", "--lang", "ko"], ["사용법: bertsmith serve", "모델을 HTTP로"]),
        (["fill", "nowhere", "x", "--lang=ko"], ["오류: nowhere: 디렉터리가 없습니다."]),
        (["fill", "nowhere", "--lang", "ko", "--", "--lang"], ["오류: nowhere: 디렉터리가 없습니다."]),
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
