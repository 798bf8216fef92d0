"""The page in a real browser: curves appear, grow with the log, and begin anew with a new one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bertsmith.watching.server import served
from tests.browser import texts, until
from tests.watching.test_watching import eval_line, train_line


def last_step(browser: Any) -> int:
    state = texts(browser, "#state")[0]
    return int(state.split("step ")[1].split()[0].replace(",", "")) if "step " in state and "first" not in state else 0


def points(browser: Any) -> list[int]:
    script = "return [...document.querySelectorAll('polyline')].map(c => c.getAttribute('points').split(' ').length)"
    return list(browser.execute_script(script))


def test_curves_grow_with_the_log(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with served(tmp_path, 0) as address:
        browser.get(address)
        assert texts(browser, "#state") == ["waiting for the first step"]
        path.write_text(eval_line(0) + "".join(map(train_line, range(1, 51))), encoding="utf-8")
        until(lambda: last_step(browser) == 50)
        assert texts(browser, "h2")[:5] == [
            "Loss (nats)",
            "Held-out accuracy",
            "Learning rate",
            "Tokens a second",
            "Gradient norm",
        ]
        assert "unigram: frequencies alone 7.5" in texts(browser, ".legend span")
        before = points(browser)
        assert max(before) == 50
        half = train_line(52)
        with path.open("a", encoding="utf-8") as file:
            file.write(eval_line(50) + train_line(51) + half[:-10])
        until(lambda: last_step(browser) == 51)
        assert texts(browser, ".blank b") == ["man"]
        assert "<b>a</b> dog" in texts(browser, ".blank")[0]  # text, not markup
        assert texts(browser, ".guesses .right") == ["man 70%"]
        with path.open("a", encoding="utf-8") as file:
            file.write(half[-10:] + "".join(map(train_line, range(53, 3001))) + train_line(3001, loss=float("nan")))
        until(lambda: last_step(browser) == 3001)
        assert 50 < max(points(browser)) <= 1201
        other = tmp_path / "other"
        other.write_text("".join(map(train_line, range(1, 8))), encoding="utf-8")
        other.replace(path)
        until(lambda: last_step(browser) == 7)
        (tmp_path / "model").mkdir()
        until(lambda: "finished" in texts(browser, "#state")[0])
        assert browser.get_log("browser") == []
    until(lambda: "nobody answers" in texts(browser, "#state")[0])


def test_a_fine_tuning_run_has_a_curve_a_seed(browser: Any, tmp_path: Path) -> None:
    lines = [train_line(step, seed=seed) for seed in (0, 1) for step in range(1, 20)]
    lines += [eval_line(19, seed=seed, epoch=1.0, macro_f1=0.4 + seed / 10, blanks=[]) for seed in (0, 1)]
    (tmp_path / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    with served(tmp_path, 0) as address:
        browser.get(address)
        until(lambda: last_step(browser) == 19)
        legend = texts(browser, ".legend span")
        assert {"macro f1, seed 0 0.4", "macro f1, seed 1 0.5"} <= set(legend)
        assert "On dev rows" in texts(browser, "h2")
        assert not browser.execute_script("return document.querySelector('#blanks').checkVisibility()")
        assert browser.get_log("browser") == []
