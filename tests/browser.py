"""A headless Chromium for the tests of pages, and what they ask of it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ARTEFACTS = Path(__file__).parent.parent / "test-artefacts"
"""Screenshots, for people to look at."""


def start_browser() -> Any:
    """Start a browser; without one the test is skipped."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium with its chromedriver here")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


def made_new(browser: Any) -> Any:
    """Return a browser as it was at its start: a large light window, English, nothing stored, an empty console."""
    browser.get("about:blank")
    browser.get_log("browser")
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
    set_window(browser, 1200, 1500)
    set_language(browser, "en-US")
    set_dark(browser, False)
    return browser


def set_window(browser: Any, width: int, height: int) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def set_language(browser: Any, tag: str) -> None:
    """Make ``navigator.language`` of the pages that are opened next this one."""
    agent = browser.execute_cdp_cmd("Browser.getVersion", {})["userAgent"]
    browser.execute_cdp_cmd("Emulation.setUserAgentOverride", {"userAgent": agent, "acceptLanguage": tag})


def set_dark(browser: Any, dark: bool) -> None:
    wish = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [wish]})


def until(condition: Callable[[], Any], seconds: float = 20) -> Any:
    """Wait for a condition, and return its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "the page did not get there in time"
        time.sleep(0.05)
    return value


def texts(browser: Any, selector: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map(found => found.textContent)"
    return list(browser.execute_script(script, selector))


def keep_picture(browser: Any, name: str, width: int = 1200) -> None:
    """Write a picture of the whole page for people to look at."""
    ARTEFACTS.mkdir(exist_ok=True)
    height = browser.execute_script("return Math.max(document.documentElement.scrollHeight, 500)")
    set_window(browser, width, min(height, 4000))
    browser.save_screenshot(str(ARTEFACTS / f"{name}.png"))
    set_window(browser, width, 1500)
