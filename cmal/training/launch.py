"""Runs a function in one or more processes on this machine, through torchrun's elastic launcher.

Several machines are started by torchrun itself, which sets RANK and WORLD_SIZE; `launch` then runs the function directly:

    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 --no-python cmal pretrain RECIPE
"""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from cmal.errors import CmalError, as_user_error
from cmal.io.signals import Stopped, stop_at_once


@dataclass(frozen=True)
class Launch:
    """Number of processes, and their device: "cpu", "cuda", or None to use a GPU if there is one."""

    processes: int = 1
    device: str | None = None

    @classmethod
    def of(cls, gpus: int | None, cpu_procs: int | None, device: str | None) -> Launch:
        """A launch from the options of the command line.

        Raises:
            CmalError: more GPUs than this machine has, or both `gpus` and `cpu_procs`.
        """
        if gpus and cpu_procs:
            raise CmalError("cannot start the processes", "both --gpus and --cpu-procs were given", "give one of them")
        available = torch.cuda.device_count()
        if gpus and gpus > available:
            raise CmalError(
                f"cannot use {gpus} GPUs",
                f"this machine has {available}",
                f"give --gpus {available} or fewer" if available else "leave out --gpus",
            )
        return cls(gpus or cpu_procs or 1, "cuda" if gpus else "cpu" if cpu_procs else device)


def is_launched() -> bool:
    """True if torchrun or SLURM started this process as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch(request: Launch, function: Callable[..., None], *arguments: Any) -> None:
    """Runs `function(*arguments)` in every process.

    Raises:
        CmalError: the function raised one, or a process died; the message names its rank.
    """
    _take_slurm_environment()
    if is_launched() or request.processes == 1:
        function(*arguments)
        return
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // request.processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=request.processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        rdzv_configs={"rank": 0},
        max_restarts=0,
        monitor_interval=0.5,
        start_method="spawn",
    )
    try:
        elastic_launch(config, _run_in_child)(function, arguments)
    except SignalException as error:
        raise CmalError(
            f"stopped with its {request.processes} processes",
            f"the process received a stop signal ({error.sigval.name})",
            "run the same command again: it resumes",
        ) from None
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        message = failure.message
        raise CmalError(
            f"process {rank} of {request.processes} ended early",
            message if isinstance(message, str) else str(message.get("message", message)),
            "see its message above; what was saved is intact, run the same command again to resume",
        ) from None


def _run_in_child(function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Runs the function; an error that the user can fix is printed in its three lines and ends the process with status 1."""
    try:
        with stop_at_once():
            function(*arguments)
    except Stopped:
        os._exit(1)  # the launcher reports it once for all processes
    except Exception as error:
        if (message := as_user_error(error)) is None:
            raise
        print(f"Error: {message}", file=sys.stderr, flush=True)
        os._exit(1)


def _take_slurm_environment() -> None:
    """Translates SLURM's variables of a process started by `srun`; the batch script sets MASTER_ADDR and MASTER_PORT."""
    if "RANK" in os.environ or "SLURM_PROCID" not in os.environ or "MASTER_ADDR" not in os.environ:
        return
    os.environ["RANK"] = os.environ["SLURM_PROCID"]
    os.environ["WORLD_SIZE"] = os.environ["SLURM_NTASKS"]
    os.environ["LOCAL_RANK"] = os.environ.get("SLURM_LOCALID", "0")
