"""Every English text of the source that a user may read, as templates: what a catalogue must have."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import click

import bertsmith
from bertsmith.cli import _COMPARISONS, _TASKS, cli

SOURCE = Path(bertsmith.__file__).parent
# Calls of which some arguments are said (of a bar also the unit that it counts).
SPOKEN = {
    "say": (0,),
    "warn": (0,),
    "progress": (0, 2),
    "InputError": (0,),
    "DivergedError": (0,),
    "LostProcessError": (0,),
    "phrase": (0,),
    "translated": (0,),
    "Section": (0,),
    "write_report": (1,),
    "paragraph": (0,),
    "table": (0, 1),
    "line_chart": (1, 2),
    "ScoreTable": (0, 1, 2),
    "Contender": (1,),
    "Variant": (1,),
}
SETTINGS_ERROR = "ValueError"
# Calls that give on the texts of their arguments.
_PASSED_ON = ("join", "next", "removeprefix", "rstrip", "phrase", "translated")
# Commands, and calls in Python.
_CODE = re.compile(r" *bertsmith |[\w.]+\(")
_DEPTH = 12


@dataclass(frozen=True)
class Message:
    """A text of the source.

    Attributes:
        template: with ``{1}``, ``{2}`` for its values.
        place: file and line.
        is_part: whether it only stands inside of others.
        said_values: numbers of the values that may be messages themselves.
    """

    template: str
    place: str
    is_part: bool
    said_values: frozenset[int] = frozenset()

    @property
    def is_said(self) -> bool:
        """Whether it says something in words; a part that is one word is a name: of a file, a column, a setting."""
        has_words = any(letter.isalpha() for letter in self.template)
        is_name = self.is_part and " " not in self.template.strip()
        return has_words and not is_name and not _CODE.match(self.template)


class Source:
    """The program's files, and where the words of a message may come from: names, functions, arguments of calls."""

    def __init__(self, folder: Path) -> None:
        self.trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.py"))}
        self.folder = folder
        self.parents: dict[ast.AST, ast.AST] = {}
        self.calls: dict[str, list[ast.Call]] = defaultdict(list)
        self.functions: dict[str, list[ast.FunctionDef]] = defaultdict(list)
        self.places: dict[ast.AST, str] = {}
        for path, tree in self.trees.items():
            for node in ast.walk(tree):
                for child in ast.iter_child_nodes(node):
                    self.parents[child] = node
                if isinstance(node, ast.Call):
                    self.calls[_name(node.func)].append(node)
                    self.places[node] = f"{path.relative_to(folder)}:{node.lineno}"
                elif isinstance(node, ast.FunctionDef):
                    self.functions[node.name].append(node)

    def messages(self) -> Iterator[Message]:
        """Yield all that is said, and the parts that messages are put together from."""
        for name, numbers in SPOKEN.items():
            for call in self.calls[name]:
                for number in numbers:
                    if number < len(call.args):
                        yield from self.texts(call.args[number], self.places[call])
        for call in self.calls[SETTINGS_ERROR]:
            if self.places[call].split(":")[0].endswith(("config.py", "configuration.py")):
                yield from self.texts(call.args[0], self.places[call])

    def texts(self, node: ast.expr, place: str, depth: int = 0, is_part: bool = False) -> Iterator[Message]:
        """Yield the messages that an expression may be, and their parts; none of what is made elsewhere."""
        if depth > _DEPTH:
            return
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield Message(node.value, place, is_part)
        elif isinstance(node, ast.JoinedStr) or (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add)):
            template, said, number = "", frozenset[int](), 0
            for part in [*_parts(node), "\n"]:
                if isinstance(part, str):
                    # Every line is a message of its own.
                    *lines, after = part.split("\n")
                    for line in lines:
                        yield Message(template + line, place, is_part, said)
                        template, said, number = "", frozenset[int](), 0
                    template += after
                    continue
                number += 1
                template += f"{{{number}}}"
                inner = list(self.texts(part, place, depth + 1, is_part=True))
                said |= {number} if any(message.is_said for message in inner) else set()
                yield from inner
        else:
            for inner in self._inside(node):
                yield from self.texts(inner, place, depth + 1, is_part)

    def _inside(self, node: ast.expr) -> Iterator[ast.expr]:
        """Yield the expressions that an expression's text comes from."""
        if isinstance(node, ast.IfExp):
            yield from (node.body, node.orelse)
        elif isinstance(node, (ast.BoolOp, ast.Dict)):
            yield from node.values
        elif isinstance(node, ast.Name):
            yield from self.values(node)
        elif isinstance(node, (ast.Subscript, ast.Starred)):
            yield node.value
        elif isinstance(node, (ast.Tuple, ast.List)):
            yield from node.elts
        elif isinstance(node, (ast.GeneratorExp, ast.ListComp)):
            yield node.elt
        elif isinstance(node, ast.Call):
            called = _name(node.func)
            if called in SPOKEN and called not in _PASSED_ON:
                return
            if called in _PASSED_ON:
                yield from node.args
                yield node.func.value if isinstance(node.func, ast.Attribute) else ast.Constant(None)
                return
            for function in self.functions.get(called, []):
                for inner in ast.walk(function):
                    if isinstance(inner, (ast.Return, ast.Yield)) and inner.value is not None:
                        yield inner.value

    def values(self, name: ast.Name) -> Iterator[ast.expr]:
        """Yield what a name may stand for: assignments around it, an argument's values at calls, a constant."""
        scope: ast.AST = name
        while scope in self.parents:
            scope = self.parents[scope]
            if isinstance(scope, (ast.FunctionDef, ast.Module, ast.GeneratorExp, ast.ListComp, ast.Lambda)):
                found = list(_assigned(scope).get(name.id, []))
                yield from found
                if isinstance(scope, ast.FunctionDef):
                    given = list(self._arguments(scope, name.id))
                    yield from given
                    found += given
                if found:
                    return

    def _arguments(self, function: ast.FunctionDef, name: str) -> Iterator[ast.expr]:
        names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
        only = [argument.arg for argument in function.args.kwonlyargs]
        if name not in names + only:
            return
        bound = names[1:] if names and names[0] in ("self", "cls") else names
        for call in self.calls[function.name]:
            yield from (keyword.value for keyword in call.keywords if keyword.arg == name)
            if name in bound and bound.index(name) < len(call.args):
                yield call.args[bound.index(name)]


@cache
def messages(folder: Path = SOURCE) -> list[Message]:
    """Return what is said, warned of, refused and shown beside bars, each template once."""
    found: dict[str, Message] = {}
    for message in Source(folder).messages():
        before = found.setdefault(message.template, message)
        found[message.template] = replace(
            before,
            is_part=before.is_part and message.is_part,
            said_values=before.said_values | message.said_values,
        )
    return [message for message in found.values() if message.is_said]


def _parts(node: ast.expr) -> Iterator[str | ast.expr]:
    """Yield the fixed texts and values of an f-string, or of several added up."""
    if isinstance(node, ast.JoinedStr):
        for part in node.values:
            yield str(part.value) if isinstance(part, ast.Constant) else _value(part)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        yield from _parts(node.left)
        yield from _parts(node.right)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    else:
        yield node


def _value(part: ast.expr) -> ast.expr:
    return part.value if isinstance(part, ast.FormattedValue) and part.conversion == -1 else ast.Constant(None)


@cache
def _assigned(scope: ast.AST) -> dict[str, list[ast.expr]]:
    """Return what is assigned to names in a function, module or comprehension, loops over literals included."""
    found: dict[str, list[ast.expr]] = defaultdict(list)
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign):
            targets, values = node.targets, [node.value]
        elif isinstance(node, (ast.AnnAssign, ast.NamedExpr, ast.AugAssign)):
            targets, values = [node.target], [] if node.value is None else [node.value]
        elif isinstance(node, (ast.For, ast.comprehension)):
            targets, values = [node.target], [node.iter]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "append":
            targets, values = [node.func.value], node.args
        else:
            continue
        names = {inner.id for target in targets for inner in ast.walk(target) if isinstance(inner, ast.Name)}
        for name in names:
            found[name] += values
    return found


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


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
