"""Ranks, devices and collectives: the only module that knows whether there is more than one process."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import distributed as dist

from cmal.errors import CmalError, in_one_line

TIMEOUT_S = 1800
SIGN_IN_S = 3.0  # how long survivors of a lost process wait for each other's sign
Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True)
class DistributedContext:
    """This process's rank, the number of processes, and the device it computes on."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        """True for rank 0, which writes files and reports."""
        return self.rank == 0


@contextlib.contextmanager
def distributed_context(device: str | None = None) -> Iterator[DistributedContext]:
    """Joins the process group that torchrun (or SLURM) started; rank 0 of 1 in a process that was started alone.

    Args:
        device: "cpu" or "cuda"; None takes CUDA if it is available.

    Raises:
        CmalError: another process was lost while the block ran.
    """
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    here = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(here)
    if "RANK" not in os.environ or "MASTER_ADDR" not in os.environ:
        yield DistributedContext(device=here)
        return
    backend = "nccl" if kind == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=datetime.timedelta(seconds=TIMEOUT_S))
    context = DistributedContext(dist.get_rank(), dist.get_world_size(), here)
    try:
        yield context
    except RuntimeError as error:
        if not _LOST.search(str(error)):
            raise
        raise CmalError(
            f"process {context.rank} of {context.world_size} cannot continue: it has lost {_lost_processes(context)}",
            in_one_line(error),
            "see their messages; the last checkpoint is good, run the same command again to resume",
        ) from error
    finally:
        dist.destroy_process_group()


_LOST = re.compile(r"closed by peer|Connection reset|Broken pipe|Timed out|timed out|timeout|gloo|NCCL", re.I)


def _lost_processes(context: DistributedContext) -> str:
    """Every survivor writes its rank to the rendezvous store; the ranks that are missing after SIGN_IN_S are lost."""
    others = [rank for rank in range(context.world_size) if rank != context.rank]
    try:
        store = dist.distributed_c10d._get_default_store()
        store.set(f"survivor/{context.rank}", "here")
        time.sleep(SIGN_IN_S)
        lost = [rank for rank in others if not store.check([f"survivor/{rank}"])]
    except RuntimeError:
        lost = [0]  # rank 0 hosts the store
    return "process " + " and ".join(map(str, lost or others))


def all_reduce_mean(values: torch.Tensor) -> torch.Tensor:
    """The mean of a tensor over all processes, the same on each."""
    if is_distributed():
        values = values.clone()
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return values


def all_reduce_max(value: float, device: torch.device) -> float:
    """The largest value of all processes, the same on each."""
    if not is_distributed():
        return value
    largest = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest.item()


def all_reduce_any(flag: bool, device: torch.device) -> bool:
    """True on every process if `flag` is true on any."""
    return bool(all_reduce_max(float(flag), device))


def is_distributed() -> bool:
    """True in one of several processes."""
    return dist.is_initialized() and dist.get_world_size() > 1


def barrier() -> None:
    """Returns when every process has called it."""
    if dist.is_initialized():
        dist.barrier()


def gather_by_id(values: dict[Key, Value]) -> dict[Key, Value]:
    """The union of every process's dictionary, the same on each; a key that two processes hold appears once."""
    if not is_distributed():
        return values
    parts: list[dict[Key, Value]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, values)
    return {key: value for part in parts for key, value in part.items()}
