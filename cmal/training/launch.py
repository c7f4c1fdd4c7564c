"""Starts the processes of one training on this machine, by torchrun's own elastic launcher, or runs it right here."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from cmal.errors import CmalError, as_user_error
from cmal.io.signals import Stopped, stop_at_once


@dataclass(frozen=True)
class Launch:
    """How many processes, where. `device`: "cpu", "cuda" or None to take what is there."""

    processes: int = 1
    nodes: int = 1
    node_rank: int = 0
    rendezvous: str = ""
    device: str | None = None

    @classmethod
    def of(
        cls, gpus: int | None, cpu_procs: int | None, nodes: int, node_rank: int, rendezvous: str, device: str | None
    ) -> Launch:
        """From the command line's options.

        Raises:
            CmalError: more GPUs than there are, both kinds at once, or several machines without a meeting place.
        """
        if gpus and cpu_procs:
            raise CmalError("cannot start the training", "both --gpus and --cpu-procs were given", "give one of them")
        if gpus and gpus > torch.cuda.device_count():
            raise CmalError(
                f"cannot start the training on {gpus} GPUs",
                f"this machine has {torch.cuda.device_count()}",
                "ask for fewer, or use --cpu-procs",
            )
        if nodes > 1 and not rendezvous:
            raise CmalError(
                f"cannot start the training on {nodes} machines",
                "no meeting place was given",
                "add --rendezvous HOST:PORT",
            )
        kind = "cuda" if gpus else "cpu" if cpu_procs else device
        return cls(gpus or cpu_procs or 1, nodes, node_rank, rendezvous, kind)


def is_launched() -> bool:
    """True where torchrun or the like has already started this process as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def launch(wanted: Launch, setup: Callable[..., None], *arguments: Any) -> None:
    """Runs `work(*arguments)` in every process.

    Raises:
        CmalError: `work` raised one, or a process died; the message names its rank.
    """
    _take_slurm_environment()
    if is_launched() or (wanted.processes == 1 and wanted.nodes == 1):
        setup(*arguments)
        return
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    threads = max(1, (os.cpu_count() or 1) // wanted.processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    config = LaunchConfig(
        min_nodes=wanted.nodes,
        max_nodes=wanted.nodes,
        nproc_per_node=wanted.processes,
        run_id=os.environ.get("CMAL_RUN_ID", uuid.uuid4().hex if wanted.nodes == 1 else "cmal"),
        rdzv_backend="c10d",
        rdzv_endpoint=wanted.rendezvous or "localhost:0",
        rdzv_configs={"rank": wanted.node_rank},
        max_restarts=0,
        monitor_interval=0.5,
        start_method="spawn",
    )
    try:
        elastic_launch(config, _run_quietly)(setup, arguments)
    except SignalException as error:
        raise CmalError(
            f"stopped with its {wanted.processes * wanted.nodes} processes",
            f"the process was asked to stop ({error.sigval.name})",
            "run the same command again: it goes on from its last checkpoint",
        ) from None
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise CmalError(
            f"process {rank} of {wanted.processes * wanted.nodes} ended early",
            failure.message
            if isinstance(failure.message, str)
            else str(failure.message.get("message", failure.message)),
            "see its message above; the last checkpoint is good, run the same command again to go on",
        ) from None


def _run_quietly(setup: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """In a child: what the user can put right is printed as its three lines and ends the process with status 1."""
    import sys

    try:
        with stop_at_once():
            setup(*arguments)
    except Stopped:
        os._exit(1)  # the launcher tells of it, once for all
    except Exception as error:
        if (message := as_user_error(error)) is None:
            raise
        print(f"Error: {message}", file=sys.stderr, flush=True)
        os._exit(1)


def _take_slurm_environment() -> None:
    """Under `srun`, tells torch what SLURM says of ranks; the batch script sets MASTER_ADDR and MASTER_PORT."""
    if "RANK" in os.environ or "SLURM_PROCID" not in os.environ or "MASTER_ADDR" not in os.environ:
        return
    os.environ["RANK"] = os.environ["SLURM_PROCID"]
    os.environ["WORLD_SIZE"] = os.environ["SLURM_NTASKS"]
    os.environ["LOCAL_RANK"] = os.environ.get("SLURM_LOCALID", "0")
