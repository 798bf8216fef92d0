"""The help of commands in the language of messages."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable
from typing import TypeVar

import click

from bertsmith.catalogue.translate import language, phrase, translated

# Stands after a letter that takes two columns of a terminal, so that click counts both; it is not printed.
_FILLER = "\u200b"
_WIDE = re.compile("[\u1100-\u115f\u3000-\u303f\uac00-\ud7a3\uff01-\uff60]")
Command = TypeVar("Command", bound=click.Command)

_SUFFIX = re.compile(r"(.*?)(?:  \[(?:(required)|default: (.*))\])?", re.DOTALL)
_ARGUMENT = re.compile(r"([A-Z_]+): (.*)", re.DOTALL)
_EXAMPLE, _REQUIRED, _DEFAULT = "Example: {1}", "[required]", "[default: {1}]"
_DOING = ("Fine-tune", "Compare")


class WideFormatter(click.HelpFormatter):
    """Help in the language of messages, wrapped by the columns that its letters take."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """Write the line of usage."""
        super().write_usage(prog, args, f"{phrase('Usage:')} ")

    def write_heading(self, heading: str) -> None:
        """Write a heading."""
        super().write_heading(phrase(heading))

    def write_text(self, text: str) -> None:
        """Write a paragraph."""
        super().write_text(_filled(text))

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Write names and what they are."""
        super().write_dl([(name, _filled(translated(about))) for name, about in rows], col_max, col_spacing)

    def getvalue(self) -> str:
        """Return what was written."""
        return super().getvalue().replace(_FILLER, "")


class _Context(click.Context):
    formatter_class = WideFormatter


def _filled(text: str) -> str:
    return _WIDE.sub(lambda letter: letter[0] + _FILLER, text)


def show_error(error: click.ClickException) -> None:
    """Print what is wrong with a command line, in the language of messages, to standard error."""
    if language() == "en":
        error.show()
        return
    if isinstance(error, click.UsageError) and error.ctx is not None:
        click.echo(error.ctx.get_usage(), err=True)
        if error.ctx.command.get_help_option(error.ctx) is not None:
            click.echo(phrase("'{1} --help' explains all options.", error.ctx.command_path) + "\n", err=True)
    click.echo(phrase("error: {1}", translated(error.format_message())), err=True)


def in_language(command: Command) -> Command:
    """Return a command whose help is in the language of messages; in English the command itself."""
    if language() == "en":
        return command
    changed = copy.copy(command)
    changed.context_class = _Context
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
