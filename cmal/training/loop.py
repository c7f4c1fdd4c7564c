"""The one training loop: something with a loss, groups of examples in, reports and checkpoints out.

Pre-training and every task use it. A step works on a fixed number of groups whatever the number of devices; each group is
one forward with a random state of its own (dropout), so that who computes it does not matter.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from cmal.data.micro_batches import MicroBatch
from cmal.errors import CmalError
from cmal.io.signals import stop_at_once, stop_noted
from cmal.training.checkpoint import Progress
from cmal.training.distributed import DistributedContext, all_reduce_any, all_reduce_mean
from cmal.training.optimizer import clipped_step, gradient_norm_noted
from cmal.training.sharding import without_sync

MAX_SKIPPED_IN_A_ROW = 20


@dataclass(frozen=True)
class StepReport:
    """What one step did: losses by name (means over groups), gradient norm before clipping, and speed."""

    step: int
    steps: int
    losses: Mapping[str, float]
    grad_norm: float
    lr: float
    examples_per_s: float
    skipped: int = 0


@dataclass
class Fit:
    """Everything one run of the loop needs.

    Attributes:
        model: called with a batch, gives something with `.total` and `.parts`.
        groups: pairs of group and batch, step by step, this device's part.
        micro_batches_per_step: of this device.
        save: called with the progress, writes a checkpoint; validate: gives measures to report; tick: called with the steps
            done and wanted, before the first one and after each.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler
    micro_batches: Iterable[tuple[MicroBatch, object]]
    micro_batches_per_step: int
    steps: int
    seed: int
    clip_norm: float
    context: DistributedContext
    report: Callable[[StepReport], None] = lambda report: None
    save: Callable[[Progress], None] = lambda progress: None
    validate: Callable[[int], None] = lambda step: None
    tick: Callable[[int, int], None] = lambda done, wanted: None
    report_every: int = 10
    save_every: int = 1000
    validate_every: int = 0
    precision: str = "float32"
    progress: Progress = field(default_factory=Progress)


def fit(run: Fit) -> Progress:
    """Trains from `run.progress` to `run.steps`.

    Raises:
        CmalError: twenty steps in a row had a loss or gradient that was not finite, or the process was asked to stop
            (SIGTERM, SIGUSR1); a checkpoint is written first.
    """
    batches, progress, skipped_in_a_row = iter(run.micro_batches), run.progress, 0
    started, examples = time.perf_counter(), 0
    if run.progress.step and is_validated(run, run.progress.step):
        run.validate(run.progress.step)  # where the run was killed between a checkpoint and its validation
    run.model.train()
    run.tick(progress.step, run.steps)
    is_alone = run.context.world_size == 1
    with stop_noted() as is_stopping, gradient_norm_noted(run.model, is_alone) as gradient_norm:
        for step in range(run.progress.step + 1, run.steps + 1):
            losses, count = accumulate_gradients(run, batches)
            grad_norm = gradient_norm()
            is_finite = bool(torch.isfinite(grad_norm)) and all(torch.isfinite(v) for v in losses.values())
            if not all_reduce_any(not is_finite, run.context.device):
                clipped_step(run.optimizer, grad_norm, run.clip_norm)
                skipped_in_a_row = 0
            else:
                skipped_in_a_row += 1
            run.scheduler.step()
            run.optimizer.zero_grad(set_to_none=True)
            progress = Progress(step, progress.skipped + bool(skipped_in_a_row))
            examples += count * run.context.world_size
            if step % run.report_every == 0 or step == run.steps:
                rate, started, examples = examples / (time.perf_counter() - started), time.perf_counter(), 0
                means = mean_losses(losses)
                lr = run.scheduler.get_last_lr()[0]
                run.report(StepReport(step, run.steps, means, float(grad_norm), lr, rate, progress.skipped))
            run.tick(step, run.steps)
            stop = all_reduce_any(is_stopping(), run.context.device)
            validates = is_validated(run, step)
            if step % run.save_every == 0 or validates or stop:
                run.save(progress)
            if validates:
                with stop_at_once():  # the checkpoint is written, and validation can be done again
                    run.validate(step)
                run.model.train()
            if stop and step < run.steps:
                raise CmalError(
                    f"stopped at step {step} of {run.steps}",
                    "the process was asked to stop; a checkpoint is written",
                    "run the same command again to go on",
                )
            if skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
                raise CmalError(
                    f"stopped at step {step} of {run.steps}",
                    f"{MAX_SKIPPED_IN_A_ROW} steps in a row had a loss or gradient that is not a finite number",
                    "the last checkpoint is good; lower optimizer.lr and run again",
                )
    return progress


def is_validated(run: Fit, step: int) -> bool:
    """Validation follows the last step and every `validate_every`; a checkpoint is written before it."""
    return step == run.steps or bool(run.validate_every and step % run.validate_every == 0)


def accumulate_gradients(run: Fit, batches: Iterator[tuple[MicroBatch, object]]) -> tuple[dict[str, Tensor], int]:
    """Gradients of one step's groups, averaged; returns the mean losses by name and the examples seen."""
    totals: dict[str, list[Tensor]] = {}
    examples = 0
    for turn in range(run.micro_batches_per_step):
        micro_batch, batch = next(batches)
        batch = batch.to(run.context.device)
        is_last = turn == run.micro_batches_per_step - 1
        with without_sync(run.model, unless=is_last), autocast(run.context.device, run.precision):
            torch.manual_seed(micro_batch_seed(run.seed, micro_batch.number))
            losses = run.model(batch)
            (losses.total.float() / run.micro_batches_per_step).backward()
        totals.setdefault("loss", []).append(losses.total.detach())
        for name, value in losses.parts.items():
            totals.setdefault(name, []).append(value.detach())
        examples += len(batch)
    return {name: torch.stack(values).mean() for name, values in totals.items()}, examples


def mean_losses(losses: Mapping[str, Tensor]) -> dict[str, float]:
    """Over all processes, as numbers."""
    names = sorted(losses)
    means = all_reduce_mean(torch.stack([losses[name].float() for name in names]))
    return dict(zip(names, means.tolist()))


def micro_batch_seed(seed: int, number: int) -> int:
    """The torch seed of one group's dropout."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> 1)


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """bfloat16 autocast where it is wanted; on a CPU only when asked for by name (it is two hundred times slower)."""
    wanted = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16) if wanted else contextlib.nullcontext()
