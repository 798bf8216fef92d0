"""Every English text of the source that a user may read, as templates: what a catalogue must have."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import click

import bertsmith
from bertsmith.cli import _COMPARISONS, _TASKS, cli

SOURCE = Path(bertsmith.__file__).parent


def templates(source: Path = SOURCE) -> dict[str, str]:
    """Return what is said, warned of and shown beside bars: template -> where it stands."""
    found: dict[str, str] = {}
    for path in sorted(source.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("say", "warn", "progress")
                and node.args
            ):
                for template in _of(node.args[0]):
                    found.setdefault(template, f"{path.relative_to(source)}:{node.lineno}")
    return found


def _of(node: ast.expr) -> Iterator[str]:
    """Yield the template of a text or f-string, of both sides of a condition; none of what is made elsewhere."""
    if isinstance(node, ast.IfExp):
        yield from _of(node.body)
        yield from _of(node.orelse)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        parts, holes = [], 0
        for part in node.values:
            if isinstance(part, ast.Constant):
                parts.append(str(part.value))
            else:
                holes += 1
                parts.append(f"{{{holes}}}")
        text = "".join(parts)
        if any(
            letter.isalpha() for part in node.values if isinstance(part, ast.Constant) for letter in str(part.value)
        ):
            yield text


def help_texts() -> list[str]:
    """Return the paragraphs of the help of all commands, and the help of their options and arguments, in English."""
    found: list[str] = []
    commands = [cli, *(cli.get_command(click.Context(cli), name) for name in cli.list_commands(click.Context(cli)))]
    for command in commands:
        assert command is not None
        inner = [command]
        if isinstance(command, click.Group) and command is not cli:
            context = click.Context(command)
            inner += [c for name in command.list_commands(context) if (c := command.get_command(context, name))]
        for each in inner:
            found += (each.help or "").split("\n\n")
            found += [p.help for p in each.params if isinstance(p, click.Option) and p.help]
    found += [summary for summary, _, _ in (*_TASKS.values(), *_COMPARISONS.values())]
    return list(dict.fromkeys(text.strip() for text in found if text.strip()))
