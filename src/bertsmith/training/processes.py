"""Several processes that train one model: who this one is, and what they tell each other.

torchrun, accelerate and ``--devices`` start the processes and say in the environment who each one is; torch.distributed
does the talking, by gloo between CPUs and by NCCL between GPUs.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from bertsmith.batch import Batch
from bertsmith.console import Log
from bertsmith.errors import InputError, LostProcessError

if TYPE_CHECKING:
    from torch.nn.parallel import DistributedDataParallel

    from bertsmith.training.loop import Objective

Value = TypeVar("Value")

# A process waits so long for another one that is silent but alive: the first may be waiting for room on a disk.
_PATIENCE = timedelta(hours=2)
# Processes of one run start within less; after that a user wonders what happens.
_SILENT_SECONDS = 10.0
# How gloo and NCCL word the end of a process at the other side.
_LOST = ("Connection closed", "Connection reset", "Broken pipe", "Connection refused", "Timed out", "NCCL", "gloo")


@dataclass(frozen=True)
class Processes:
    """The processes of a run, seen from one of them.

    Attributes:
        rank: this one's number, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that speaks, and writes files."""
        return self.rank == 0

    def in_short(self, threads: int) -> str:
        """Return what computes, for the first line of a run."""
        return f"{self.size} processes of {threads} threads" if self.size > 1 else f"{threads} threads"

    def sums(self, values: Sequence[float]) -> list[float]:
        """Return each value summed over all processes (in float64); every process must ask."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        torch.distributed.all_reduce(total)
        found: list[float] = total.tolist()
        return found

    def any(self, flag: bool) -> bool:
        """Tell whether the flag is set in any process; every process must ask."""
        return self.sums([float(flag)])[0] > 0

    def share(self, value: Value | None) -> Value:
        """Return the first process's value; the others' is not looked at."""
        if self.size > 1:
            held = [value]
            torch.distributed.broadcast_object_list(held)
            value = held[0]
        return value  # type: ignore[return-value]

    def gathered(self, value: Value) -> list[Value]:
        """Return the values of all processes, by rank; every process must ask."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(found, value)
        return found

    def collected(self, value: Value) -> list[Value]:
        """Return the values of all processes, by rank, in the first one, and nothing in the others; all must ask."""
        if self.size == 1:
            return [value]
        found: list[Any] | None = [None] * self.size if self.is_first else None
        torch.distributed.gather_object(value, found)
        return found or []

    def dealt(self, items: Sequence[Value], *, evenly: bool) -> list[tuple[Value, bool]]:
        """Return this process's share of ``items``, and whether each counts.

        With ``evenly`` every process gets as many, some the first item once more, which then does not count: where all
        have to take part in each of them.
        """
        own = [(item, True) for item in items[self.rank :: self.size]]
        missing = -(-len(items) // self.size) - len(own) if evenly else 0
        return own + [(items[0], False)] * missing

    def parts(self, wanted: int) -> int:
        """Return into how many micro-batches a step is cut: at least ``wanted``, and equally many a process."""
        return self.size * -(-wanted // self.size)

    def own(self, parts: int) -> range:
        """Return which of ``parts`` micro-batches are this process's; the sums of :meth:`parts` divide evenly."""
        each = parts // self.size
        return range(self.rank * each, (self.rank + 1) * each)


ALONE = Processes()


@contextlib.contextmanager
def joined() -> Iterator[Processes]:
    """Join the other processes of this run, if whoever started this one says in the environment that there are any.

    Raises:
        InputError: what the environment says makes no sense.
        LostProcessError: another one ended before the run did.
    """
    size = _number("WORLD_SIZE", 1, default=1)
    if size == 1:
        yield ALONE
        return
    _check_environment(size)
    rank = _number("RANK", 0, size - 1)
    try:
        _meet(rank, size)
        yield Processes(rank, size)
    except RuntimeError as error:
        # The libraries below have no type of their own for it.
        if not any(sign in str(error) for sign in _LOST):
            raise
        raise LostProcessError(
            f"another of the {size} processes of this run ended, so this one does too; its own message says why. "
            f"What was written before is whole ({str(error).splitlines()[0][:160]})"
        ) from error
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _meet(rank: int, size: int) -> None:
    """Wait for the other processes, and say so when that takes a while."""
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    failures: list[BaseException] = []

    def meet() -> None:
        try:
            store, _, _ = next(rendezvous("env://", timeout=_PATIENCE))
            # torchrun keeps one store over its restarts: addresses of processes that are gone would be read again.
            attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            store = PrefixStore(f"attempt {attempt}", store)
            torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=_PATIENCE)
        except BaseException as error:
            failures.append(error)

    # torch's own waiting hears no Ctrl-C.
    thread = threading.Thread(target=meet, daemon=True)
    thread.start()
    thread.join(_SILENT_SECONDS)
    if thread.is_alive():
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        Log().warn(
            f"process {rank} of {size} (RANK, WORLD_SIZE) waits for the other {size - 1} at {place} "
            "(MASTER_ADDR:MASTER_PORT)"
        )
        thread.join()
    if failures:
        raise failures[0]


def _check_environment(size: int) -> None:
    """Refuse an environment that does not say who this one of several processes is, and where they meet.

    Raises:
        InputError: a variable is missing, or is no number where one is needed.
    """
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise InputError(
            f"the environment says that this is one of {size} processes (WORLD_SIZE), but not {', '.join(missing)}: "
            "torchrun and accelerate set all of them, and --devices needs none; unset WORLD_SIZE to run alone"
        )
    _number("MASTER_PORT", 1, 65_535)
    _number("LOCAL_RANK", 0, size - 1, default=0)
    _number("LOCAL_WORLD_SIZE", 1, size, default=1)


def _number(name: str, least: int, most: int | None = None, default: int | None = None) -> int:
    """Return the number that an environment variable holds.

    Raises:
        InputError: it holds none, or one outside of ``least`` to ``most``.
    """
    value = os.environ.get(name, "" if default is None else str(default))
    limits = f"from {least}" if most is None else f"from {least} to {most}"
    number = int(value) if value.strip().isdecimal() else -1
    if number < least or (most is not None and number > most):
        raise InputError(
            f"environment variable {name} is {value!r}: expected a whole number {limits}, as torchrun and accelerate "
            "set it; unset WORLD_SIZE to run alone"
        )
    return number


class SummedLosses(nn.Module):
    """A model whose output is a batch's summed losses: the form in which DistributedDataParallel can watch it."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model = model
        self.objective = objective

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the losses' sums by name."""
        return self.objective.sums(self.model, batch)


def in_parallel(
    model: nn.Module, objective: Objective, processes: Processes, sample: Batch
) -> DistributedDataParallel | None:
    """Return the model as one that adds up its gradients over all processes; None where it does so itself or is alone.

    All processes have the first one's weights from here on. Whether the objective leaves parameters out (a pooler that
    nobody asks for), for which the engine must look in every step, is found out with ``sample``, a batch on the
    model's device.

    Raises:
        InputError: there is no engine for this kind of device.
    """
    if processes.size == 1 or hasattr(model, "reshard"):
        return None
    from torch.nn.parallel import DistributedDataParallel

    if sample.token_ids.device.type not in ("cpu", "cuda"):
        raise InputError(f"several processes work on cuda and cpu, not on {sample.token_ids.device.type}")
    torch.stack(list(objective.sums(model, sample).values())).sum().backward()  # type: ignore[no-untyped-call]
    leaves_some_out = any(p.requires_grad and p.grad is None for p in model.parameters())
    model.zero_grad(set_to_none=True)
    return DistributedDataParallel(
        SummedLosses(model, objective), find_unused_parameters=leaves_some_out, gradient_as_bucket_view=True
    )


def refuse_standard_input(path: Path, size: int) -> None:
    """Refuse to share what only one process can read.

    Raises:
        InputError: ``path`` is ``-``, and there are several processes.
    """
    if size > 1 and str(path) == "-":
        raise InputError(f"standard input is read by one process, not by {size}; give a file")


def local_share(available: int) -> int:
    """Return how many of ``available`` CPUs are this process's among those of the run on this machine."""
    return max(1, available // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def local_gpu() -> int:
    """Return the number of this process's GPU on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def environment_of(rank: int, size: int, port: int) -> dict[str, Any]:
    """Return what torch.distributed reads about process ``rank`` of ``size`` on one machine."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
