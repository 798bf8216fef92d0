"""Finding the template of a message, and saying it in another language."""

from __future__ import annotations

import json
import os
import re
from functools import lru_cache
from importlib import resources

VARIABLE = "BERTSMITH_LANG"
LANGUAGES = ("en", "ko")
_LOCALE = ("LC_ALL", "LC_MESSAGES", "LANG")
_HOLE = re.compile(r"\{(\d)\}")
# A template of fewer letters fits too much; its values but the last must be single words.
_FEW_LETTERS = 8


def language() -> str:
    """Return the language of messages: that of BERTSMITH_LANG, else Korean under a Korean locale, else English."""
    wish = os.environ.get(VARIABLE) or next((value for name in _LOCALE if (value := os.environ.get(name))), "")
    found = re.split(r"[_.@-]", wish.lower())[0]
    return found if found in LANGUAGES else "en"


def translated(message: str, wanted: str | None = None) -> str:
    """Return a message in the ``wanted`` language, by default that of :func:`language`; as it is if it is not known.

    The values in it stay as they are.
    """
    texts, patterns = _catalogue(wanted or language())
    if message in texts:
        return texts[message]
    for pattern, template in patterns:
        match = pattern.fullmatch(message)
        if match is not None:
            return _filled(template, match.groups())
    return message


def phrase(template: str, *values: str) -> str:
    """Return a template of the catalogue with its values, in the language of messages."""
    return _filled(_catalogue(language())[0].get(template, template), values)


def _filled(template: str, values: tuple[str, ...]) -> str:
    return _HOLE.sub(lambda hole: values[int(hole[1]) - 1], template)


@lru_cache
def _catalogue(name: str) -> tuple[dict[str, str], tuple[tuple[re.Pattern[str], str], ...]]:
    """Return a language's texts, and those with values as patterns, the most telling first."""
    if name == "en":
        return {}, ()
    source = resources.files("bertsmith.catalogue").joinpath(f"{name}.json").read_text(encoding="utf-8")
    texts: dict[str, str] = json.loads(source)
    with_values = sorted((text for text in texts if _HOLE.search(text)), key=lambda text: -len(_HOLE.sub("", text)))
    return texts, tuple((_pattern(text), texts[text]) for text in with_values)


def _pattern(template: str) -> re.Pattern[str]:
    parts = _HOLE.split(template)[::2]
    few = sum(letter.isalpha() for part in parts for letter in part) < _FEW_LETTERS
    hole = r"(\S*?)" if few else r"(.*?)"
    return re.compile(hole.join(map(re.escape, parts[:-1])) + r"(.*)" + re.escape(parts[-1]), re.DOTALL)
