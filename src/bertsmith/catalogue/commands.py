"""The help of commands in the language of messages."""

from __future__ import annotations

import copy
import re
from typing import TypeVar

import click

from bertsmith.catalogue.translate import language, phrase, translated

Command = TypeVar("Command", bound=click.Command)

_SUFFIX = re.compile(r"(.*?)(?:  \[(?:(required)|default: (.*))\])?", re.DOTALL)
_ARGUMENT = re.compile(r"([A-Z_]+): (.*)", re.DOTALL)
_EXAMPLE, _REQUIRED, _DEFAULT = "Example: {1}", "[required]", "[default: {1}]"
_DOING = ("Fine-tune", "Compare")


def in_language(command: Command) -> Command:
    """Return a command whose help is in the language of messages; in English the command itself."""
    if language() == "en":
        return command
    changed = copy.copy(command)
    changed.help = "\n\n".join(paragraph(part) for part in (command.help or "").split("\n\n"))
    if command.epilog:
        changed.epilog = phrase(_EXAMPLE, command.epilog.removeprefix("Example: "))
    changed.params = [_option(parameter) for parameter in command.params]
    return changed


def paragraph(text: str) -> str:
    """Return a paragraph of a command's help: a sentence, an argument and its sentence, or what is done with a task."""
    text = " ".join(text.split())
    match = _ARGUMENT.fullmatch(text)
    if match is not None:
        return f"{match[1]}: {translated(match[2])}"
    doing, _, rest = text.partition(": ")
    return phrase(f"{doing}: {{1}}", translated(rest)) if doing in _DOING else translated(text)


def option_help(text: str) -> str:
    """Return an option's help, with what it says of its default."""
    match = _SUFFIX.fullmatch(text)
    assert match is not None  # it fits any text
    about = translated(match[1])
    if match[2]:
        return f"{about}  {phrase(_REQUIRED)}"
    return about if match[3] is None else f"{about}  {phrase(_DEFAULT, match[3])}"


def _option(parameter: click.Parameter) -> click.Parameter:
    if not isinstance(parameter, click.Option) or not parameter.help:
        return parameter
    changed = copy.copy(parameter)
    changed.help = option_help(parameter.help)
    return changed
