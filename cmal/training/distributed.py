"""Ranks, devices and gathers: everything that knows there may be more than one process."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import distributed as dist

from cmal.errors import CmalError, in_one_line

TIMEOUT_S = 1800
SIGN_IN_S = 3.0  # after a loss


@dataclass(frozen=True)
class DistributedContext:
    """Where this process stands: rank of world, and the device it computes on."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        return self.rank == 0


@contextlib.contextmanager
def join_processes(device: str | None = None) -> Iterator[DistributedContext]:
    """Joins the processes that torchrun (or SLURM through it) started, or stands alone; leaves at the end.

    Args:
        device: "cpu" or "cuda"; None takes CUDA where there is one.
    """
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    here = torch.device("cuda", local_rank) if kind == "cuda" else torch.device(kind)
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
            f"process {context.rank} of {context.world_size} cannot go on: it has lost {_who_is_lost(context)}",
            in_one_line(error),
            "see their messages; the last checkpoint is good, run the same command again to go on",
        ) from error
    finally:
        dist.destroy_process_group()


_LOST = re.compile(r"closed by peer|Connection reset|Broken pipe|Timed out|timed out|timeout|gloo|NCCL", re.I)


def _who_is_lost(context: DistributedContext) -> str:
    """Every survivor signs in at the meeting place; who has not signed after a while is lost."""
    others = [rank for rank in range(context.world_size) if rank != context.rank]
    try:
        store = dist.distributed_c10d._get_default_store()
        store.set(f"survivor/{context.rank}", "here")
        time.sleep(SIGN_IN_S)
        lost = [rank for rank in others if not store.check([f"survivor/{rank}"])]
    except RuntimeError:
        lost = [0]  # who keeps the meeting place
    return "process " + " and ".join(map(str, lost or others))


def all_reduce_mean(values: torch.Tensor) -> torch.Tensor:
    """The mean of a tensor over all processes, the same on each."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return values


def all_reduce_any(flag: bool, device: torch.device) -> bool:
    """True everywhere if it is true anywhere."""
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return flag
    value = torch.tensor(float(flag), device=device)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return bool(value.item())


def barrier() -> None:
    """Returns when every process has come here."""
    if dist.is_initialized():
        dist.barrier()


def gather_by_id(answers: dict[str, object]) -> dict[str, object]:
    """The union of every process's answers, by id: an example that two processes computed counts once."""
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return answers
    parts: list[dict[str, object]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, answers)
    return {key: value for part in parts for key, value in part.items()}
