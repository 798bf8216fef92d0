"""Settings models as command-line parameters: every field an option, its sentence the help."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import click
from pydantic import BeforeValidator

from bertsmith.configuration import Configuration, read_yaml

Settings = TypeVar("Settings", bound=Configuration)


def parameters(model: type[Configuration]) -> list[click.Parameter]:
    """Return the arguments and options of a settings model, and ``--config``.

    No default is set here: only what was typed is passed on, so that a configuration file can fill the rest.
    """
    found: list[click.Parameter] = []
    for name in _in_order(model):
        field = model.model_fields[name]
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        if extra.get("hidden"):
            continue
        kind, several = _plain(field.annotation)
        if any(isinstance(rule, BeforeValidator) for rule in field.metadata):
            kind = str  # written in a way of its own, such as 3.3B
        if extra.get("argument"):
            found.append(click.Argument([name], type=_type(kind), nargs=-1 if several else 1, required=False))
            continue
        flag = "--" + name.replace("_", "-")
        names = [str(extra["flag"]), flag] if "flag" in extra else [flag]
        about = field.description or ""
        if field.is_required():
            about += "  [required]"
        elif field.default is not None and kind is not bool:
            about += f"  [default: {field.default}]"
        if kind is bool:
            names = [str(extra.get("option", f"{flag}/--no-{name.replace('_', '-')}"))]
        is_flag = True if "option" in extra else None
        option = click.Option(
            [*names, name], type=_type(kind), default=None, multiple=several, help=about, is_flag=is_flag
        )
        found.append(option)
    about = "A YAML file with these settings by name; what is typed here wins."
    found.append(click.Option(["--config", "config"], type=click.Path(path_type=Path), help=about))
    return found


def _in_order(model: type[Configuration]) -> list[str]:
    """Return the fields' names: first what must be given, then a stage's own settings, then what many share."""
    own = [name for kind in model.__mro__ if issubclass(kind, Configuration) for name in kind.__annotations__]
    names = [name for name in dict.fromkeys(own) if name in model.model_fields]
    return sorted(names, key=lambda name: not model.model_fields[name].is_required())


def settings_from(model: type[Settings], typed: dict[str, Any]) -> Settings:
    """Return the settings: what was typed, then the configuration file, then defaults.

    Raises:
        InputError: a setting is unknown, missing or does not fit.
    """
    config = typed.pop("config", None)
    given = {name: value for name, value in typed.items() if value is not None and value != ()}
    return model.parse({**(read_yaml(config) if config else {}), **given})


def _plain(annotation: Any) -> tuple[Any, bool]:
    """Return the type behind ``X | None``, ``Annotated`` and ``list[X]``, and whether it was a list."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return _plain(next(part for part in get_args(annotation) if part is not type(None)))
    if origin is list:
        return _plain(get_args(annotation)[0])[0], True
    if hasattr(annotation, "__metadata__"):  # written in a way of its own, such as 30m
        return str, False
    return annotation, False


def _type(kind: Any) -> Any:
    if get_origin(kind) is Literal:
        return click.Choice([str(value) for value in get_args(kind)], case_sensitive=False)
    if kind is Path:
        return click.Path(path_type=Path)
    return kind
