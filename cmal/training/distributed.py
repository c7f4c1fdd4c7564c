"""Ranks, devices and gathers: everything that knows there may be more than one process."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import distributed as dist

TIMEOUT_S = 1800


@dataclass(frozen=True)
class Place:
    """Where this process stands: rank of world, and the device it computes on."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_first(self) -> bool:
        return self.rank == 0


@contextlib.contextmanager
def joined(device: str | None = None) -> Iterator[Place]:
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
        yield Place(device=here)
        return
    backend = "nccl" if kind == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=datetime.timedelta(seconds=TIMEOUT_S))
    try:
        yield Place(dist.get_rank(), dist.get_world_size(), here)
    finally:
        dist.destroy_process_group()


def mean_over_places(values: torch.Tensor) -> torch.Tensor:
    """The mean of a tensor over all processes, the same on each."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return values


def any_place(flag: bool, device: torch.device) -> bool:
    """True everywhere if it is true anywhere."""
    if not (dist.is_initialized() and dist.get_world_size() > 1):
        return flag
    value = torch.tensor(float(flag), device=device)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return bool(value.item())


def wait_for_all() -> None:
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
