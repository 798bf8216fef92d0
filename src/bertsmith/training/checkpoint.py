"""Checkpoints and the metrics log: nothing half-written is ever used, nothing whole is ever lost."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from io import RawIOBase
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from bertsmith import files
from bertsmith.configuration import CONFIG, Configuration, read_yaml
from bertsmith.console import Log
from bertsmith.errors import InputError
from bertsmith.training.disk import Disk
from bertsmith.training.sharding import gathered_tensors, spread

CHECKPOINTS = "checkpoints"
METRICS = "metrics.jsonl"
OPTIMIZER = "optimizer.safetensors"
FREE = (
    *("resume", "quiet", "threads", "output", "devices", "sharding", "compile", "bad_steps", "spike", "when_full"),
    *("watch", "tensorboard", "cache", "cache_gb", "max_epochs"),
)
"""Settings that may differ between the first session of a run and its continuation."""

CHOSEN = ("size", "precision", "learning_rate")
"""Settings that a run chooses where they are left open, and writes down."""

INPUTS = "inputs.json"
"""What the files that a directory's runs read held when the first of them began, by path."""

_KEPT = 2
# What stands in a run's directory under a temporary name while it is written.
_NAMES = r"(?:config\.yaml|metrics\.jsonl|inputs\.json|scores\.json|report\.html|model|best)"

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
# Kinds of entries of which every step has one.
_OF_STEPS = ("train", "refused", "skipped")


def begun_with(settings: Configuration, directory: Path) -> dict[str, Any]:
    """Return what the run in a directory, if there is one, has chosen for settings that are left open here.

    Raises:
        InputError: its config.yaml cannot be read.
    """
    if not (directory / CONFIG).exists():
        return {}
    begun = _settings_of(type(settings), directory)
    return {name: getattr(begun, name) for name in CHOSEN if _is_open(name, getattr(settings, name, ""))}


def _settings_of(stage: type[Configuration], directory: Path) -> Configuration:
    try:
        return stage.from_yaml(directory / CONFIG)
    except InputError as error:
        if error.path is not None:
            raise
        raise InputError(str(error), path=directory / CONFIG) from None


def _is_open(name: str, value: Any) -> bool:
    return name in CHOSEN and value in (None, "auto")


def refuse_other_settings(settings: Configuration, free: Collection[str], directory: Path) -> None:
    """Refuse to go on in a directory whose config.yaml differs in more than the settings named ``free``.

    What its config.yaml leaves open is no difference: releases before this one did not write down what they chose.

    Raises:
        InputError: it does; the message names what was and what is.
    """
    before = _settings_of(type(settings), directory).model_dump(exclude=set(free))
    now = settings.model_dump(exclude=set(free))

    def differs(name: str) -> bool:
        return bool(before[name] != now[name]) and not _is_open(name, before[name])

    changed = [f"{name} was {before[name]}, now {now[name]}" for name in now if differs(name)]
    if changed:
        raise InputError(
            f"holds a run with another configuration: {'; '.join(changed)}. "
            "Choose another output directory, or the same settings",
            path=directory,
        )


def refuse_changed_files(read: Iterable[Path], directory: Path) -> None:
    """Write down the checksums of what is read, or refuse to go on if a file is not what it was.

    Raises:
        InputError: one is not; the message names it.
    """
    path = directory / INPUTS
    before = files.read_json(path, what="the checksums of what was read") if path.exists() else {}
    now = {str(file): files.sha256(file) for file in read}
    for file, sum_now in now.items():
        if before.get(file, sum_now) != sum_now:
            raise InputError(
                f"has changed since {directory} was begun; choose another output directory", path=Path(file)
            )
    if before != before | now:
        files.write_json(path, before | now)


def refuse_other_files(directory: Path) -> None:
    """Refuse to start a run among files of somebody else.

    Raises:
        InputError: the directory is not empty.
    """
    # A kill may have come before config.yaml had its name.
    others = sorted(p.name for p in directory.iterdir() if not re.fullmatch(r"\.lock|\.config\.yaml\.\w{8}", p.name))
    if others:
        raise InputError(f"holds other files ({', '.join(others[:3])}); choose a new directory", path=directory)


def refuse_other_directory(settings: Configuration, directory: Path) -> None:
    """Refuse an output directory that is not one of this stage's, before anything in it is touched.

    Raises:
        InputError: it holds files of somebody else, or the run of another stage.
    """
    if not (directory / CONFIG).exists():
        if directory.is_dir():
            refuse_other_files(directory)
        return
    unknown = [name for name in read_yaml(directory / CONFIG) if name not in type(settings).model_fields]
    if unknown:
        raise InputError(
            f"holds what another command wrote (its {CONFIG} sets {unknown[0]!r}); choose another output directory",
            path=directory,
        )


def save_checkpoint(run: Path, step: int, write: Callable[[Path], None]) -> Path:
    """Write ``run/checkpoints/step-00000500`` with ``write(directory)``, then delete all but the newest two.

    Two, since one may turn out damaged. When writing fails, on a full disk for one, the checkpoints from before are
    whole and stay.
    """
    path = run / CHECKPOINTS / f"step-{step:08d}"
    with files.new_directory(path) as temporary:
        write(temporary)
    _keep_newest(run)
    return path


def tidy_run(run: Path) -> None:
    """Put right what a killed process left half-done in a run's directory; this process must hold it."""
    files.tidy(run, _NAMES)
    if (run / CHECKPOINTS).is_dir():
        files.tidy(run / CHECKPOINTS, r"step-\d+")
        _keep_newest(run)


def _keep_newest(run: Path) -> None:
    for old in _checkpoints(run)[_KEPT:]:
        # Under a temporary name first: a kill must not leave half a checkpoint.
        aside = old.with_name(f".{old.name}.obsolete")
        old.replace(aside)
        shutil.rmtree(aside)


def last_checkpoint(run: Path, log: Log) -> Path | None:
    """Return the newest whole checkpoint, or None if there never was one.

    A damaged one is reported and the one before it is taken.

    Raises:
        InputError: there are checkpoints, and all are damaged.
    """
    found = _checkpoints(run)
    for path in found:
        try:
            files.check_directory(path, what="the checkpoint")
        except InputError as error:
            log.warn(f"{error}; looking for an earlier checkpoint")
        else:
            return path
    if found:
        raise InputError("every checkpoint is damaged; start the run again in a new directory", path=run / CHECKPOINTS)
    return None


def _checkpoints(run: Path) -> list[Path]:
    return sorted((run / CHECKPOINTS).glob("step-*"), reverse=True)


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer, *, keep: bool = True) -> dict[str, Tensor]:
    """Return AdamW's moments on the CPU, under the parameters' names; as bertsmith.training.sharding.gathered."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        state = optimizer.state[parameter]
        tensors |= {f"{moment}:{name}": torch.as_tensor(state[moment]) for moment in _MOMENTS if moment in state}
    return gathered_tensors(tensors, keep=keep)


def save_optimizer(directory: Path, tensors: dict[str, Tensor]) -> None:
    """Write what :func:`optimizer_tensors` returned as safetensors."""
    save_file(tensors, directory / OPTIMIZER)


def load_optimizer(directory: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Give AdamW the moments that :func:`save_optimizer` wrote; with a sharded model every process must ask.

    Raises:
        InputError: the file is damaged or of another model.
    """
    path = directory / OPTIMIZER
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            for name, parameter in model.named_parameters():
                if not any(f"{moment}:{name}" in names for moment in _MOMENTS):
                    continue  # frozen, or without a gradient so far
                state = {}
                for moment in _MOMENTS:
                    tensor = file.get_tensor(f"{moment}:{name}") if f"{moment}:{name}" in names else None
                    if tensor is None or (moment != "step" and tensor.shape != parameter.shape):
                        raise InputError(f"has no {moment} of the right shape for {name}", path=path)
                    state[moment] = tensor.to(parameter.device) if moment == "step" else spread(tensor, parameter)
                optimizer.state[parameter] = state
    except (SafetensorError, OSError) as error:
        raise InputError(f"is not a readable state of the optimiser: {error}", path=path) from None


class MetricsLog:
    """metrics.jsonl: a JSON object a line, each step once.

    Args:
        path: the file.
        keep: when a run goes on, which entries of before stay; the others will come again. By default none.
        disk: what happens when it is full; by default the error of the system comes through.

    Raises:
        InputError: a line of the file is no entry.
    """

    def __init__(
        self, path: Path, keep: Callable[[dict[str, Any]], bool] = lambda entry: False, disk: Disk | None = None
    ) -> None:
        self._path = path
        self._disk = disk
        self._pending = b""
        self._steps: Counter[int | None] = Counter()
        if path.exists():
            self._rewrite(keep)
        self._file: RawIOBase = path.open("ab", buffering=0)
        files.sync_directory(path.parent)

    def write(self, entry: dict[str, Any]) -> None:
        """Append one entry; it must have a step."""
        self._pending += _line(entry).encode()
        self._do(self._flush)

    def sync(self) -> None:
        """Bring what was written to disk: a checkpoint must not be there without the entries of the steps before it."""
        self._do(lambda: os.fsync(self._file.fileno()))

    def warn_of_gaps(self, done: Mapping[int | None, int], log: Log) -> None:
        """Say that entries of before are missing where a run goes on; the run itself needs none of them.

        Args:
            done: the steps up to the checkpoint, by seed; those of a run that has one seed only under None.
            log: what says it.
        """
        missing = sum(max(0, steps - self._steps[seed]) for seed, steps in done.items())
        if missing:
            log.warn(
                f"{self._path} lacks {missing:,} of the {sum(done.values()):,} steps before the checkpoint: "
                "curves will have a gap"
            )

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Drop the entries that are not ``wanted``: their steps will come again."""
        self._file.close()
        self._rewrite(wanted)
        self._file = self._path.open("ab", buffering=0)

    def _rewrite(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        self._steps.clear()
        with files.new_file(self._path) as temporary, temporary.open("w", encoding="utf-8") as file:
            for line, entry in _entries(self._path):
                if wanted(entry):
                    file.write(f"{line}\n")
                    if entry.get("kind") in _OF_STEPS:
                        self._steps[entry.get("seed")] += 1

    def _do(self, action: Callable[[], None]) -> None:
        if self._disk is None:
            action()
        else:
            self._disk.write(self._path.name, action)

    def _flush(self) -> None:
        # A disk takes what it has room for; the rest stays for the next attempt.
        while self._pending:
            self._pending = self._pending[self._file.write(self._pending) :]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return all whole entries of a metrics log; a line that a kill cut short is left out.

    Raises:
        InputError: a line is an object whose step is no number.
    """
    return [entry for _, entry in _entries(path)]


def _entries(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each whole entry of a metrics log, with its line."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            if not isinstance(entry, dict) or "step" not in entry:
                continue
            if type(entry["step"]) is not int:
                raise InputError(
                    f"is no entry of a run: its step is {entry['step']!r}, expected a whole number; remove the line",
                    path=path,
                    line=number,
                )
            yield line.strip(), entry
