"""A stage with a large result, in a module that other processes import quickly."""

from __future__ import annotations

from dataclasses import dataclass

from bertsmith.console import Log


@dataclass(frozen=True)
class Devices:
    devices: int


def large_result(settings: Devices, log: Log) -> bytes:
    return bytes(1_000_000)
