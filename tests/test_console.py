from __future__ import annotations

import pytest

from bertsmith import console
from bertsmith.console import Log, clock, human


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (0, "0"),
        (0.1234, "0.123"),
        (12.34, "12.3"),
        (999, "999"),
        (999.4, "999"),
        (999.7, "1 k"),
        (1000, "1 k"),
        (1234, "1.23 k"),
        (999_400, "999 k"),
        (999_999, "1 M"),
        (1_234_567, "1.23 M"),
        (-2500, "-2.5 k"),
        (2e12, "2000 G"),
    ],
)
def test_human(number: float, expected: str) -> None:
    assert human(number) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (3599.6, "1:00:00"), (36_061, "10:01:01")]
)
def test_clock(seconds: float, expected: str) -> None:
    assert clock(seconds) == expected


def test_lines_go_to_standard_error_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    Log().say("[bold]" + "긴 줄 " * 60 + "[/x]")
    Log().warn("cut [3] texts")
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0] == "[bold]" + "긴 줄 " * 60 + "[/x]"
    assert lines[1] == "warning: cut [3] texts"


def test_quiet_still_warns(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log(quiet=True)
    log.say("hello")
    log.warn("careful")
    with log.progress("work", 10, "rows") as advance:
        advance(10, loss="1.0")
    assert capsys.readouterr().err == "warning: careful\n"


def test_progress_without_a_terminal_prints_lines_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with Log().progress("reading", 100, "rows") as advance:
        now = 10.0
        advance(10)
        now = 20.0
        advance(30, loss="2.5")
        now = 25.0
        advance(60)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["reading  40%  2 rows/s  loss 2.5  0:30 left", "reading 100%  4 rows/s  loss 2.5  0:00 left"]


def test_progress_past_its_total_is_whole_and_has_no_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    with Log().progress("reading", 10, "rows") as advance:
        advance(12)
    said = capsys.readouterr().err
    assert said.startswith("reading 100%  ")
    assert "0:00 left" in said


def test_progress_on_a_terminal_shows_fields(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with Log().progress("reading", 3, "rows") as advance:
        advance(3, loss="2.5")
    assert "loss 2.5" in capsys.readouterr().err


def test_progress_towards_an_unknown_end_counts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with Log().progress("predicting", None, "texts") as advance:
        advance(1)
        now = 20.0
        advance(2999)
    assert capsys.readouterr().err.splitlines()[0].rstrip() == "predicting 3 k  150 texts/s"


def test_a_total_that_was_a_guess_is_corrected(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with Log().progress("reading", 100, "rows") as advance:
        now = 20.0
        advance(10, total=20)
        advance(10)
    assert capsys.readouterr().err.splitlines() == [
        "reading  50%  0.5 rows/s    0:20 left",
        "reading 100%  1 rows/s    0:00 left",
    ]
