"""Finding the template of a message, and saying it in another language."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources

VARIABLE = "BERTSMITH_LANG"
LANGUAGES = ("en", "ko")
_LOCALE = ("LC_ALL", "LC_MESSAGES", "LANG")
# A star stands in translations only: that value is a message itself.
_HOLE = re.compile(r"\{(\d)(\*?)\}")
# A template of fewer letters fits too much; its values but the last must be single words.
_FEW_LETTERS = 8


def language() -> str:
    """Return the language of messages: that of BERTSMITH_LANG, else Korean under a Korean locale, else English."""
    wish = os.environ.get(VARIABLE) or next((value for name in _LOCALE if (value := os.environ.get(name))), "")
    found = re.split(r"[_.@-]", wish.lower())[0]
    return found if found in LANGUAGES else "en"


def translated(message: str, wanted: str | None = None) -> str:
    """Return a message in the ``wanted`` language, by default that of :func:`language`; as it is if it is not known.

    The values in it stay as they are, but for those that are messages themselves (``{1*}`` in the catalogue). Lines
    are said each by itself.
    """
    catalogue = _catalogue(wanted or language())
    if catalogue is None:
        return message
    return "\n".join(catalogue.several(line) or line for line in message.split("\n"))


def phrase(template: str, *values: str) -> str:
    """Return a template of the catalogue with its values, in the language of messages."""
    catalogue = _catalogue(language())
    if catalogue is None:
        return _HOLE.sub(lambda hole: values[int(hole[1]) - 1], template)
    return catalogue.filled(template, values)


@dataclass(frozen=True)
class _Template:
    """A message with values: its fixed parts in English."""

    english: str

    @cached_property
    def parts(self) -> list[str]:
        """The texts before, between and after the values."""
        return re.split(r"\{\d\}", self.english)

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        few = sum(letter.isalpha() for part in self.parts for letter in part) < _FEW_LETTERS
        hole = r"(\S*?)" if few else r"(.*?)"
        *before, last = map(re.escape, self.parts)
        return re.compile(hole.join(before) + r"(.*)" + last)

    def values(self, message: str) -> tuple[str, ...] | None:
        """Return the values of a message of this template; None if it is not one."""
        # Most templates are ruled out without a pattern.
        if not (message.startswith(self.parts[0]) and all(part in message for part in self.parts)):
            return None
        match = self.pattern.fullmatch(message)
        return None if match is None else match.groups()


@dataclass(frozen=True)
class _Catalogue:
    """A language's texts by the English ones."""

    texts: Mapping[str, str]

    @cached_property
    def templates(self) -> list[_Template]:
        """The texts with values, the most telling first."""
        with_values = (text for text in self.texts if _HOLE.search(text))
        return [_Template(text) for text in sorted(with_values, key=lambda text: -len(_HOLE.sub("", text)))]

    def several(self, message: str) -> str | None:
        """Return a message, or several with a semicolon or comma between them; None if it is not known."""
        for sign in ("; ", ", "):
            parts = message.split(sign)
            said = list(itertools.takewhile(bool, map(self.one, parts))) if len(parts) > 1 else []
            if len(said) == len(parts):
                return sign.join(map(str, said))
        return self.one(message)

    def one(self, message: str) -> str | None:
        """Return a message, also one that begins with what it is about ("file:3: ..."); None if it is not known."""
        found = self.whole(message)
        if found is None:
            about, sign, rest = message.partition(": ")
            found = self.whole(rest) if sign else None
            return None if found is None else f"{about}: {found}"
        return found

    def whole(self, message: str) -> str | None:
        """Return the translation of a message of a text or template; None if there is none."""
        if message in self.texts:
            return self.texts[message]
        for template in self.templates:
            values = template.values(message)
            if values is not None:
                return self.filled(template.english, values)
        return None

    def filled(self, english: str, values: tuple[str, ...]) -> str:
        """Return the translation of a template with its values."""

        def value(hole: re.Match[str]) -> str:
            text = values[int(hole[1]) - 1]
            return (self.several(text) if hole[2] else None) or text

        return _HOLE.sub(value, self.texts.get(english, english))


@lru_cache
def _catalogue(name: str) -> _Catalogue | None:
    """Return a language's catalogue; None for English, which needs none."""
    if name == "en":
        return None
    source = resources.files("bertsmith.catalogue").joinpath(f"{name}.json").read_text(encoding="utf-8")
    return _Catalogue(json.loads(source))
