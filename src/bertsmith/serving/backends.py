"""Which of torch and the exported graphs of a model computes: what is there, what was asked for, or what is faster."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bertsmith import files
from bertsmith.batch import Batch, pack
from bertsmith.console import Log, human
from bertsmith.errors import InputError
from bertsmith.serving.graphs import PACKAGES, Graph, is_installed, open_graph, read_graph, require
from bertsmith.task_config import BackendChoice

FOLDERS = ("onnx", "openvino")
"""Where exports of a model are looked for in its directory."""

_TYPICAL = (8, 12, 16, 24, 32, 48, 64, 96)
_ROUNDS, _MOMENT = 5, 2.0


@dataclass(frozen=True)
class Backend:
    """What computes.

    Attributes:
        name: torch, onnx or openvino.
        model: takes a batch and gives the task's outputs.
        speeds: tokens a second of everything that was tried; empty if there was nothing to choose.
    """

    name: str
    model: nn.Module
    speeds: dict[str, float] = field(default_factory=dict)


def weights_checksum(directory: Path) -> str:
    """Return a checksum of a model directory's weights; empty if it has none."""
    names = sorted(path.name for path in directory.glob("*.safetensors"))
    known = {}
    if (directory / files.CHECKSUMS).is_file():
        known = files.read_json(directory / files.CHECKSUMS, what="the checksums of the model")
    return "-".join(known.get(name) or files.sha256(directory / name) for name in names)


def runs_on_cpu(directory: Path, choice: BackendChoice) -> bool:
    """Return whether a graph will compute, and so the CPU, whatever other devices there are."""
    return choice in PACKAGES or (choice == "auto" and read_graph(directory) is not None)


def open_backend(
    root: Path,
    directory: Path,
    choice: BackendChoice,
    device: torch.device,
    load: Callable[[], nn.Module],
    batches: Callable[[], Sequence[Batch]],
    log: Log,
) -> Backend:
    """Return what shall compute.

    Args:
        root: what the user named: a run, a model directory or an export.
        directory: the model directory there.
        choice: ``auto`` takes the fastest of the model and the graphs made from it.
        device: graphs run on the CPU only.
        load: loads the torch model onto the device.
        batches: what to time candidates on.
        log: is told what was chosen and why.

    Raises:
        InputError: what was asked for is not there or not installed, or runs elsewhere than on ``device``.
    """
    graphs = [] if choice == "torch" else _graphs(root, directory, log)
    is_export = bool(graphs) and graphs[0].directory == directory
    if choice == "torch" or not graphs or (choice == "auto" and device.type != "cpu" and not is_export):
        if choice in ("onnx", "openvino"):
            raise InputError(f"no graph of this model; {_how(choice)}", path=directory)
        return Backend("torch", load())
    if device.type != "cpu":
        raise InputError(f"graphs run on the CPU here; device {device} is for --backend torch")
    threads = torch.get_num_threads()
    if choice != "auto":
        require(choice)
        paths = [path for graph in graphs if (path := graph.file_for(choice))]
        if not paths:
            raise InputError(f"no graph here that {PACKAGES[choice]} reads; {_how(choice)}", path=root)
        return Backend(choice, open_graph(paths[0], choice, threads))
    opens: dict[str, Callable[[], nn.Module]] = {}
    if not is_export:
        opens["torch"] = load
        # Nobody has asked for integers.
        graphs = [graph for graph in graphs if not graph.int8]
    for runtime in PACKAGES:
        path = next((path for graph in graphs if (path := graph.file_for(runtime))), None)
        if path is not None and is_installed(runtime):
            opens[runtime] = partial(open_graph, path, runtime, threads)
    if not opens:
        require("openvino" if graphs[0].file_for("onnx") is None else "onnx")
    return _fastest(opens, batches, log)


def _how(choice: BackendChoice) -> str:
    return f"make one with: bertsmith export MODEL --format {choice} -o MODEL/{choice}"


def _graphs(root: Path, directory: Path, log: Log) -> list[Graph]:
    """Return an export's own graph, or a model's graphs that are made from its weights."""
    own = read_graph(directory)
    if own is not None:
        files.check_directory(directory, what="the export")
        return [own]
    found = []
    for folder in FOLDERS:
        graph = read_graph(root / folder)
        if graph is None:
            continue
        if graph.weights != weights_checksum(directory):
            log.warn(f"{graph.directory} was exported from other weights and is left out")
            continue
        files.check_directory(graph.directory, what="the export")
        found.append(graph)
    return found


def _fastest(opens: dict[str, Callable[[], nn.Module]], batches: Callable[[], Sequence[Batch]], log: Log) -> Backend:
    if len(opens) == 1:
        name, start = next(iter(opens.items()))
        return Backend(name, start())
    models = {name: start() for name, start in opens.items()}
    speeds = time_models(models, batches())
    best = max(speeds, key=speeds.__getitem__)
    shown = ", ".join(f"{name} {human(speed)}" for name, speed in speeds.items())
    log.say(f"computed by {best}, the fastest here (tokens/s: {shown})")
    return Backend(best, models[best], speeds)


@torch.inference_mode()
def time_models(models: dict[str, nn.Module], batches: Sequence[Batch]) -> dict[str, float]:
    """Return the tokens a second of each model: the fastest of a few rounds in turns, after one that does not count."""
    for model in models.values():
        model.eval()(batches[0])
    best = dict.fromkeys(models, float("inf"))
    begun = time.perf_counter()
    for _ in range(_ROUNDS):
        for name, model in models.items():
            start = time.perf_counter()
            for batch in batches:
                model(batch)
            best[name] = min(best[name], time.perf_counter() - start)
        if time.perf_counter() - begun > _MOMENT:
            break
    tokens = sum(batch.num_tokens for batch in batches)
    return {name: tokens / seconds for name, seconds in best.items()}


def typical_batch(vocab_size: int, max_length: int) -> Batch:
    """Return sequences of usual lengths, for want of a user's own."""
    draw = np.random.default_rng(0)
    return pack([draw.integers(0, vocab_size, min(length, max_length)) for length in _TYPICAL * 4])
