"""The page in a real browser against the real service: every view, both languages, keyboard, errors, dark."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import keep_picture, set_dark, set_language, set_window, texts, until
from tests.service.small import service_of
from tests.service.test_serve import running
from tests.serving.page_models import NAME, make_models

VIEWS = ("classify", "multilabel", "regress", "tag", "qa", "choose", "fill", "next", "similarity", "inside")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_models(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def address(models: dict[str, Path]) -> Iterator[str]:
    with running(service_of(models)) as (found, _, _):
        yield f"{found}/"


@pytest.fixture
def quiet(browser: Any, address: str) -> Iterator[Any]:
    """The browser, whose console must stay empty."""
    forget_choices(browser, address)
    yield browser
    assert browser.get_log("browser") == []


def forget_choices(browser: Any, address: str) -> None:
    browser.execute_cdp_cmd(
        "Storage.clearDataForOrigin", {"origin": address.rstrip("/"), "storageTypes": "local_storage"}
    )


def go(browser: Any, address: str, view: str) -> None:
    """Open a view and wait for what its example gives."""
    browser.get("about:blank")
    browser.get(f"{address}#{view}")
    answered(browser)


def answered(browser: Any) -> None:
    until(lambda: texts(browser, ".result .card") and not texts(browser, ".busy, [aria-busy]"))


def is_korean(text: str) -> bool:
    return any("가" <= letter <= "힣" for letter in text)


def shares(browser: Any, selector: str = ".bar") -> list[float]:
    script = "return [...document.querySelectorAll(arguments[0])].map(bar => Number(bar.dataset.share))"
    return list(browser.execute_script(script, selector))


def value(browser: Any, field: str) -> str:
    return str(browser.execute_script("return document.getElementById(arguments[0]).value", field))


def write(browser: Any, field: str, text: str) -> None:
    """Write into a field as a hand would."""
    script = "const field = document.getElementById(arguments[0]); field.focus(); field.select();"
    browser.execute_script(script, field)
    browser.execute_cdp_cmd("Input.insertText", {"text": text})


def press(browser: Any, *keys: str) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    actions = ActionChains(browser)
    *held, last = (getattr(Keys, key, key) for key in keys)
    for key in held:
        actions.key_down(key)
    actions.send_keys(last)
    for key in held:
        actions.key_up(key)
    actions.perform()


def focused(browser: Any) -> str:
    script = "const e = document.activeElement; return e.id || e.dataset.example || e.textContent"
    return str(browser.execute_script(script))


@pytest.mark.parametrize("language", ["en", "ko"])
def test_every_view_opens_with_an_example_and_its_answer(quiet: Any, address: str, language: str) -> None:
    set_language(quiet, {"en": "en-GB", "ko": "ko-KR"}[language])
    titles = set()
    for view in VIEWS:
        go(quiet, address, view)
        assert quiet.execute_script("return document.documentElement.lang") == language
        fields = quiet.execute_script(
            "return [...document.querySelectorAll('.field > :is(textarea, input)')].map(f => f.value)"
        )
        assert all(is_korean(field) == (language == "ko") for field in fields)
        assert {"English", "한국어"} <= set(texts(quiet, ".examples .chip"))
        assert texts(quiet, ".error") == [""] * len(texts(quiet, ".error"))
        titles |= set(texts(quiet, "h1"))
        keep_picture(quiet, f"{view}-{language}")
    assert len(titles) == len(VIEWS)
    assert all(is_korean(title) == (language == "ko") for title in titles)
    loaded = quiet.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert len(loaded) > 10
    assert all(name.startswith(address) for name in loaded)


def test_classification_has_a_bar_a_label_and_a_field_a_text(quiet: Any, address: str) -> None:
    go(quiet, address, "classify")
    assert sorted(texts(quiet, ".bar-name")) == ["bad", "good", "나쁨"]
    assert sum(shares(quiet)) == pytest.approx(1, abs=1e-3)
    assert shares(quiet) == sorted(shares(quiet), reverse=True)
    assert texts(quiet, ".chosen .bar-name") == texts(quiet, ".summary strong")
    assert len(texts(quiet, "textarea")) == 1
    quiet.find_element("css selector", "#classify-model option:nth-child(2)").click()
    answered(quiet)
    until(lambda: len(texts(quiet, "textarea")) == 2)
    answered(quiet)
    assert sorted(texts(quiet, ".bar-name")) == ["other", "same", "unclear"]
    assert focused(quiet) == "classify-model"
    go(quiet, address, "multilabel")
    chosen = [name for name, share in zip(texts(quiet, ".bar-name"), shares(quiet), strict=True) if share >= 0.5]
    assert texts(quiet, ".tag-name") == chosen
    go(quiet, address, "regress")
    assert len(texts(quiet, "textarea")) == 2
    assert re.fullmatch(r"-?\d+\.\d\d", texts(quiet, ".big-number")[0])


def test_a_korean_name_is_coloured_from_its_begin_to_its_end(quiet: Any, address: str) -> None:
    set_language(quiet, "ko")
    go(quiet, address, "tag")
    until(lambda: texts(quiet, ".entity"))
    assert texts(quiet, ".entity:first-child .unit") == list(NAME)
    assert texts(quiet, ".entity:first-child .begin") == [NAME[0]]
    assert texts(quiet, ".entity:first-child .middle") == [NAME[1]]
    assert texts(quiet, ".entity:first-child .end") == [NAME[2]]
    units = "[...document.querySelectorAll('.entity:first-child .unit')]"
    colours = set(quiet.execute_script(f"return {units}.map(unit => getComputedStyle(unit).backgroundColor)"))
    assert len(colours) == 1
    assert "rgba(0, 0, 0, 0)" not in colours
    text = value(quiet, "tag-text")
    assert "".join(texts(quiet, ".tagged")).replace("PER", "") == text
    assert texts(quiet, "tbody td:first-child")[0] == NAME


def test_characters_beyond_the_basic_plane_are_counted_as_one(quiet: Any, address: str) -> None:
    go(quiet, address, "tag")
    script = """
    const done = arguments[1];
    const show = ({ tag }) => tag.show({ predictions: [arguments[0]] }, {}, { labels: ["B-PER"] })[0];
    import("/page/tag.js").then((module) => done(show(module).querySelector(".begin").textContent));
    """
    spans = [{"start": 3, "end": 5, "label": "PER", "score": 0.9, "text": "민준"}]
    assert quiet.execute_async_script(script, {"text": "😀𝒳 민준 갔다", "spans": spans}) == "민"


def test_the_answer_is_marked_in_the_passage(quiet: Any, address: str) -> None:
    set_language(quiet, "ko")
    go(quiet, address, "qa")
    assert value(quiet, "qa-question") == "박지성이 뛴 EPL 클럽은?"
    assert texts(quiet, ".passage") == [value(quiet, "qa-context")]
    assert len(texts(quiet, ".bar-name")) == 7
    assert texts(quiet, ".answer") == [name for name in texts(quiet, ".chosen .bar-name") if name != "답 없음"]
    other = quiet.find_element("css selector", "li:nth-child(2) > .bar")
    other.click()
    names = texts(quiet, ".bar-name")
    assert texts(quiet, ".answer") == ([names[1]] if names[1] != "답 없음" else [])
    assert texts(quiet, ".passage") == [value(quiet, "qa-context")]


def test_no_answer_is_said_and_nothing_marked(quiet: Any, address: str) -> None:
    go(quiet, address, "qa")
    script = """
    const done = arguments[1];
    import("/page/qa.js").then(({ qa }) => {
      document.querySelector(".result").replaceChildren(...qa.show({ predictions: [arguments[0]] }));
      done(null);
    });
    """
    found = {"question": "?", "context": "ab cd", "text": "", "start": 0, "end": 0, "score": 0.7, "impossible": True}
    n_best = [{"text": "cd", "start": 3, "end": 5, "score": 0.3}, {"text": "", "start": 0, "end": 0, "score": 0.7}]
    quiet.execute_async_script(script, found | {"n_best": n_best, "truncated": 0})
    assert texts(quiet, ".summary") == ["no answer 70%"]
    assert texts(quiet, ".answer") == []
    assert texts(quiet, ".chosen .bar-name") == ["no answer"]


def test_blanks_are_filled_with_what_is_chosen(quiet: Any, address: str) -> None:
    go(quiet, address, "fill")
    assert len(texts(quiet, "mark.blank")) == 2
    assert len(shares(quiet)) == 16
    assert len(texts(quiet, ".chosen")) == 2
    third = texts(quiet, ".columns > div:first-child .bar-name")[2]
    quiet.find_element("css selector", ".columns > div:first-child li:nth-child(3) button").click()
    assert texts(quiet, "mark.blank")[0] == third.removeprefix("##")
    write(quiet, "fill-text", "The river ")
    next(b for b in quiet.find_elements("css selector", ".chip") if b.text == "Insert [MASK]").click()
    assert value(quiet, "fill-text") == "The river [MASK]"
    press(quiet, "CONTROL", "ENTER")
    until(lambda: len(texts(quiet, "mark.blank")) == 1)


def test_next_and_choose(quiet: Any, address: str) -> None:
    go(quiet, address, "next")
    assert sum(shares(quiet)) == pytest.approx(1)
    go(quiet, address, "choose")
    assert len(shares(quiet)) == 3
    assert value(quiet, "choose-endings").splitlines() == texts(quiet, ".bar-name")
    assert texts(quiet, ".chosen .bar-name") == texts(quiet, ".summary strong")


def test_similarities_of_lines(quiet: Any, address: str) -> None:
    go(quiet, address, "similarity")
    write(quiet, "similarity-lines", "the river\n\n the town \nthe river")
    press(quiet, "CONTROL", "ENTER")
    until(lambda: len(texts(quiet, ".heat")) == 9)
    numbers = [float(text) for text in texts(quiet, ".heat")]
    assert numbers[0] == numbers[2] == numbers[6] == 1
    assert numbers[1] == numbers[3] == numbers[5] < 1
    assert "lines 1 and 3" in texts(quiet, ".summary")[0]
    quiet.execute_script("document.querySelector('.heat').focus()")
    press(quiet, "ARROW_RIGHT")
    press(quiet, "ARROW_DOWN")
    assert quiet.execute_script("return document.activeElement.getAttribute('aria-label')").startswith("2, 2:")
    assert "2 “the town”" in texts(quiet, ".told")[0]


def test_inside(quiet: Any, address: str) -> None:
    go(quiet, address, "inside")
    tokens = texts(quiet, ".figure2 .input .box")
    assert tokens[0] == "[CLS]"
    assert tokens.count("[SEP]") == 2
    split = tokens.index("[SEP]") + 1
    assert texts(quiet, ".embedding.segment .box") == ["EA"] * split + ["EB"] * (len(tokens) - split)
    assert texts(quiet, ".embedding.token .box") == [f"E{token}" for token in tokens]
    assert texts(quiet, ".embedding.position .box") == [f"E{place}" for place in range(len(tokens))]
    assert len(texts(quiet, ".embedding.sum .box")) == len(tokens)
    # A token's attention is a row of the head's, which sums to 1.
    assert texts(quiet, ".segments [role=radio]") == ["1", "2", "3"]
    assert len(texts(quiet, ".head")) == 5
    quiet.execute_script("document.querySelector('.from li:nth-child(3)').focus()")
    assert f"“{tokens[2]}” attends most to" in texts(quiet, ".drawing .told")[0]
    seen = "return [...document.querySelectorAll('.to li')].map(l => Number(l.style.getPropertyValue('--share')))"
    first = quiet.execute_script(seen)
    assert sum(first) == pytest.approx(1, abs=0.02)
    quiet.find_element("css selector", ".head:nth-child(2)").click()
    quiet.execute_script("document.querySelector('.from li:nth-child(3)').focus()")
    assert quiet.execute_script(seen) != first
    before = texts(quiet, ".lines")
    quiet.execute_script("document.querySelector('.segments [role=radio]').focus()")
    press(quiet, "ARROW_RIGHT")
    press(quiet, "ARROW_RIGHT")
    until(lambda: texts(quiet, ".segments [aria-checked=true]")[-1:] == ["3"] and not texts(quiet, ".heads[aria-busy]"))
    assert texts(quiet, ".lines") == before
    # The masks of the training instance.
    until(lambda: texts(quiet, ".masked .token"))
    assert len(texts(quiet, ".masked .token")) == len(tokens)
    assert len(texts(quiet, ".token.chosen")) == round(0.15 * len(tokens))
    drawn = texts(quiet, ".masked")
    quiet.find_element("id", "masking-again").click()
    until(lambda: texts(quiet, ".masked") != drawn)
    assert value(quiet, "masking-seed") == "1"


def test_a_text_of_markup_stays_text(quiet: Any, address: str) -> None:
    nasty = "<img src=x onerror=alert(1)><b>river</b>"
    for view, field in (("tag", "tag-text"), ("inside", "inside-text"), ("classify", "classify-text")):
        go(quiet, address, view)
        write(quiet, field, nasty)
        press(quiet, "CONTROL", "ENTER")
        answered(quiet)
    go(quiet, address, "similarity")
    write(quiet, "similarity-lines", f"{nasty}\nriver")
    press(quiet, "CONTROL", "ENTER")
    until(lambda: len(texts(quiet, ".heat")) == 4)
    assert nasty in texts(quiet, ".line-text")
    assert texts(quiet, "main img, main b:not(.matrix b)") == []


def test_by_keyboard_alone(quiet: Any, address: str) -> None:
    go(quiet, address, "qa")
    visited = []
    for _ in range(24):
        press(quiet, "TAB")
        visited.append(focused(quiet))
        ring = quiet.execute_script(
            "const s = getComputedStyle(document.activeElement); return [s.outlineStyle, parseFloat(s.outlineWidth)]"
        )
        assert ring[0] != "none"
        assert ring[1] >= 2, visited[-1]
        if visited[-1] == "Run":
            break
    order = [
        "Skip to the content",
        "language-en",
        "theme",
        "Question answering",
        "en",
        "ko",
        "qa-question",
        "qa-context",
        "Run",
    ]
    assert [visit for visit in visited if visit in order] == order
    write(quiet, "qa-question", "Who rowed to the village?")
    press(quiet, "ENTER")
    until(lambda: "Who rowed" in texts(quiet, ".command pre")[0])
    quiet.execute_script("document.querySelector('nav a[href=\"#tag\"]').focus()")
    press(quiet, "ENTER")
    until(lambda: "tag" in quiet.current_url and texts(quiet, ".tagged"))


def test_language_and_light_are_chosen_and_remembered(quiet: Any, address: str) -> None:
    go(quiet, address, "qa")
    write(quiet, "qa-question", "Which river?")
    background = "return getComputedStyle(document.body).backgroundColor"
    light = quiet.execute_script(background)
    quiet.find_element("id", "language-ko").click()
    until(lambda: texts(quiet, "h1") == ["질의응답"])
    assert value(quiet, "qa-question") == "Which river?"
    assert focused(quiet) == "language-ko"
    quiet.find_element("id", "theme").click()
    dark = quiet.execute_script(background)
    assert dark != light
    keep_picture(quiet, "qa-dark")
    go(quiet, address, "inside")
    assert texts(quiet, "h1") == ["BERT 들여다보기"]
    assert quiet.execute_script(background) == dark
    keep_picture(quiet, "inside-dark")
    forget_choices(quiet, address)
    set_dark(quiet, True)
    go(quiet, address, "qa")
    assert texts(quiet, "h1") == ["Question answering"]
    assert quiet.execute_script(background) == dark
    quiet.find_element("id", "theme").click()
    assert quiet.execute_script(background) == light


def test_a_phone_shows_everything_without_scrolling_sideways(quiet: Any, address: str) -> None:
    for view in VIEWS:
        set_window(quiet, 390, 844)
        go(quiet, address, view)
        assert quiet.execute_script("return document.documentElement.scrollWidth") <= 390, view
        keep_picture(quiet, f"{view}-phone", 390)


def test_errors_are_sentences_beside_the_field(browser: Any, address: str) -> None:
    forget_choices(browser, address)
    go(browser, address, "fill")
    write(browser, "fill-text", "nothing to fill")
    press(browser, "CONTROL", "ENTER")
    until(lambda: texts(browser, "#fill-text-error") == ["Write [MASK] where a word is to be filled in."])
    assert focused(browser) == "fill-text"
    assert browser.execute_script("return document.activeElement.getAttribute('aria-invalid')") == "true"
    go(browser, address, "next")
    write(browser, "next-b", " ")
    press(browser, "CONTROL", "ENTER")
    assert texts(browser, "#next-b-error") == ["Write something here first."]
    assert browser.get_log("browser") == []
    go(browser, address, "inside")
    write(browser, "inside-text", "river " * 80)
    press(browser, "CONTROL", "ENTER")
    until(lambda: "tokens" in texts(browser, "#inside-text-error")[0])
    assert "64" in texts(browser, "#inside-text-error")[0]
    keep_picture(browser, "error")
    write(browser, "inside-text", "river")
    assert texts(browser, "#inside-text-error") == [""]


def test_what_the_service_says_is_in_the_readers_language(browser: Any, address: str) -> None:
    forget_choices(browser, address)
    set_language(browser, "ko")
    go(browser, address, "inside")
    write(browser, "inside-text", "강물이 " * 80)
    press(browser, "CONTROL", "ENTER")
    until(lambda: "최대 64개까지 볼 수 있습니다" in texts(browser, "#inside-text-error")[0])
    go(browser, address, "choose")
    write(browser, "choose-endings", "하나\n둘")
    press(browser, "CONTROL", "ENTER")
    until(lambda: "보기 3개가 모두 비어 있지 않아야" in texts(browser, "#choose-context-error")[0])


def test_a_service_with_a_key_asks_for_it(browser: Any, models: dict[str, Path]) -> None:
    with running(service_of({"pretrained": models["pretrained"]}), ("open-sesame",)) as (address, _, _):
        browser.get(address)
        until(lambda: texts(browser, ".error") == ["This service wants an API key."])
        # One look at the page a time: the field can go between two.
        field = "return document.getElementById('key')?.value"
        write(browser, "key", "closed")
        press(browser, "ENTER")
        until(lambda: browser.execute_script(field) == "")
        until(lambda: focused(browser) == "key")
        write(browser, "key", "open-sesame")
        press(browser, "ENTER")
        answered(browser)
        assert '-H "Authorization: Bearer $BERTSMITH_API_KEY"' in texts(browser, ".command pre")[0]
        assert "sesame" not in browser.page_source


def test_nobody_answers(browser: Any, models: dict[str, Path]) -> None:
    with running(service_of({"pretrained": models["pretrained"]})) as (address, _, _):
        go(browser, f"{address}/", "next")
        assert {name.removeprefix("#") for name in links(browser)} == {"fill", "next", "similarity", "inside"}
    press(browser, "CONTROL", "ENTER")
    browser.execute_script("document.querySelector('form').requestSubmit()")
    until(lambda: texts(browser, "#next-a-error") == ["The service does not answer. Is it still running?"])


def links(browser: Any) -> list[str]:
    return list(
        browser.execute_script("return [...document.querySelectorAll('nav a')].map(a => a.getAttribute('href'))")
    )


def test_a_newer_request_cancels_the_older(quiet: Any, address: str) -> None:
    go(quiet, address, "next")
    quiet.execute_script("""
    window.asked = [];
    const real = window.fetch;
    window.fetch = (path, options) => {
      window.asked.push(options);
      return new Promise((resolve, reject) => {
        options.signal.addEventListener("abort", () => reject(new DOMException("", "AbortError")));
        setTimeout(() => resolve(real(path, options)), window.asked.length === 1 ? 60000 : 300);
      });
    };
    """)
    write(quiet, "next-a", "first")
    press(quiet, "CONTROL", "ENTER")
    until(lambda: texts(quiet, ".busy"))
    write(quiet, "next-a", "second")
    press(quiet, "CONTROL", "ENTER")
    answered(quiet)
    asked = quiet.execute_script("return window.asked.map(({ body, signal }) => [body, signal.aborted])")
    assert [(json.loads(body)["a"], aborted) for body, aborted in asked] == [("first", True), ("second", False)]
    assert '"a":"second"' in texts(quiet, ".command pre")[0]
    quiet.execute_script("window.asked.length = 0")
    press(quiet, "CONTROL", "ENTER")
    until(lambda: texts(quiet, ".busy"))
    until(lambda: texts(quiet, ".elapsed") == ["working, 1 s"])
    press(quiet, "ESCAPE")
    assert texts(quiet, ".busy") == []
    assert quiet.execute_script("return window.asked[0].signal.aborted")
