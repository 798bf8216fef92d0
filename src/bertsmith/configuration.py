"""What all stages' settings share: kinds of fields, reading them, refusing unknown keys, writing them down.

The command line, a YAML file (``--config``) and the Python API use the same models. Unknown keys are refused with the
nearest valid name, and every stage writes its full configuration beside its output.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from bertsmith import files
from bertsmith.errors import InputError, nearest
from bertsmith.locations import Location, as_location

CONFIG = "config.yaml"
"""Where a stage writes its full configuration, in its output directory."""


def _seconds(value: Any) -> Any:
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|m|h|)\s*", value)
        if match is None:
            raise ValueError(f"expected a duration such as 90s, 30m or 1.5h, got {value!r}")
        return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]
    return value


Duration = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]
"""Seconds, also written as 90s, 30m or 1.5h."""


def _location(value: Any) -> Any:
    """Return a location; what is none is refused here, since a union would say so once for each of its members."""
    found = as_location(value)
    if not isinstance(found, Location):
        raise PydanticCustomError("path_type", "Input is not a valid path for {kind}", {"kind": "a path or URL"})
    return found


AnyPath = Annotated[Location, BeforeValidator(_location), PlainSerializer(str, when_used="json")]
"""A path of this machine, or a URL (s3://, gs://, hf:// and what else fsspec opens)."""


def argument(description: str, **rules: Any) -> Any:
    """Return a required field that the command line takes by position."""
    return Field(description=description, json_schema_extra={"argument": True}, **rules)


def output(description: str) -> Any:
    """Return a required path that the command line takes as ``-o`` / ``--output``."""
    return Field(description=description, json_schema_extra={"flag": "-o"})


def task_name(name: str) -> Any:
    """Return the field that says in a configuration file which task it is for; no option, the command says it."""
    return Field(name, description="The task.", json_schema_extra={"hidden": True})


class Configuration(BaseModel):
    """What all stages' settings share: reading them, refusing unknown keys, writing them down."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @model_validator(mode="after")
    def _writes_here(self) -> Self:
        """Refuse URLs as outputs: as paths they would be folders called ``s3:``."""
        for name, field in type(self).model_fields.items():
            extra = field.json_schema_extra
            is_output = isinstance(extra, dict) and extra.get("flag") == "-o"
            if is_output and re.match(r"[a-z][a-z0-9+.-]+:/", str(getattr(self, name))):
                raise ValueError(f"{name} is a URL; expected a path of this machine, from where it can be copied")
        return self

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        """Check ``values`` and return the configuration.

        Raises:
            InputError: a key is unknown (the nearest valid one is named) or a value does not fit.
        """
        unknown = [key for key in values if key not in cls.model_fields]
        if unknown:
            raise InputError(
                f"unknown setting {unknown[0]!r}.{nearest(unknown[0], cls.model_fields)} "
                f"Valid: {', '.join(cls.model_fields)}"
            )
        try:
            return cls(**values)
        except ValidationError as error:
            raise InputError("; ".join(_explain(e) for e in error.errors())) from None

    @classmethod
    def from_yaml(cls, path: Path, **overrides: Any) -> Self:
        """Read settings from a YAML file; ``overrides`` win.

        Raises:
            InputError: the file is missing or is not a YAML mapping, or as in :meth:`parse`.
        """
        return cls.parse({**read_yaml(path), **overrides})

    def write(self, path: Path) -> None:
        """Write every setting as YAML."""
        files.write_text(path, yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def listed(names: Collection[str], known: Sequence[str]) -> str:
    """Return ``names`` as a setting has them: with commas, in the order of what is ``known``; or all, or none."""
    if len(names) == len(known):
        return "all"
    return ",".join(name for name in known if name in names) or "none"


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        InputError: the file is missing or is not a YAML mapping.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8-sig")) or {}
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path=path) from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"is not valid YAML: {error}", path=path) from None
    if not isinstance(values, dict):
        raise InputError("expected settings as 'name: value' lines", path=path)
    return values


def _explain(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing":
        return f"{name} is missing: give it on the command line or in the configuration file"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "literal_error":
        message = f"expected one of {error['ctx']['expected'].replace(' or ', ', ')}"
    seen = "" if error["type"] == "value_error" else f" (got {error['input']!r})"
    return f"{name}: {message}{seen}" if name else message
