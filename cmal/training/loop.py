"""The training loop: takes a model that returns losses and micro-batches of examples, gives reports and checkpoints.

Pre-training and all tasks use it. A step always computes the same micro-batches, whatever the number of devices. Each
micro-batch is one forward pass with its own random state for dropout, so any device may compute it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from cmal.data.micro_batches import MicroBatch
from cmal.errors import CmalError
from cmal.io.signals import stop_at_once, stop_noted
from cmal.training.distributed import DistributedContext, all_reduce_any, all_reduce_mean
from cmal.training.optimizer import clipped_step, gradient_norm_noted
from cmal.training.sharding import without_sync
from cmal.training.state import Progress

MAX_SKIPPED_IN_A_ROW = 20


@dataclass(frozen=True)
class StepReport:
    """What one step did: losses by name (means over micro-batches), gradient norm before clipping, and speed."""

    step: int
    steps: int
    losses: Mapping[str, float]
    grad_norm: float
    lr: float
    examples_per_s: float
    skipped: int = 0


@dataclass
class TrainingLoop:
    """Everything that `fit` needs.

    Attributes:
        model: called with a batch, returns an object with `.total` and `.parts`.
        micro_batches: (micro-batch, batch) pairs of this device, in the order of the steps.
        micro_batches_per_step: of this device.
        save: called with the progress, writes a checkpoint.
        validate: called with the step, after its checkpoint was written.
        tick: called with (steps done, steps in total), before the first step and after each.
        progress: where to start.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: LRScheduler
    micro_batches: Iterable[tuple[MicroBatch, Any]]
    micro_batches_per_step: int
    steps: int
    seed: int
    clip_norm: float
    context: DistributedContext
    report: Callable[[StepReport], None] = lambda report: None
    save: Callable[[Progress], None] = lambda progress: None
    validate: Callable[[int], None] = lambda step: None
    tick: Callable[[int, int], None] = lambda done, total: None
    report_every: int = 10
    save_every: int = 1000
    validate_every: int = 0
    precision: str = "float32"
    progress: Progress = field(default_factory=Progress)


def fit(loop: TrainingLoop) -> Progress:
    """Trains from `loop.progress` to `loop.steps` and returns the progress at the end.

    Raises:
        CmalError: 20 steps in a row had a loss or gradient that was not finite, or the process received SIGTERM or
            SIGUSR1; in the second case a checkpoint is written first.
    """
    batches, progress, skipped_in_a_row = iter(loop.micro_batches), loop.progress, 0
    started, examples, device = time.perf_counter(), 0, loop.context.device
    if progress.step and is_validated(loop, progress.step):
        loop.validate(progress.step)  # in case the run was killed between this checkpoint and its validation
    loop.model.train()
    loop.tick(progress.step, loop.steps)
    is_alone = loop.context.world_size == 1
    with stop_noted() as is_stopping, gradient_norm_noted(loop.model, is_alone) as gradient_norm:
        for step in range(progress.step + 1, loop.steps + 1):
            losses, count = accumulate_gradients(loop, batches)
            grad_norm = gradient_norm()
            is_finite = bool(torch.isfinite(grad_norm)) and all(torch.isfinite(v) for v in losses.values())
            if not all_reduce_any(not is_finite, device):
                clipped_step(loop.optimizer, grad_norm, loop.clip_norm)
                skipped_in_a_row = 0
            else:
                skipped_in_a_row += 1
            loop.scheduler.step()
            loop.optimizer.zero_grad(set_to_none=True)
            progress = Progress(step, progress.skipped + bool(skipped_in_a_row))
            examples += count * loop.context.world_size
            if step % loop.report_every == 0 or step == loop.steps:
                rate, started, examples = examples / (time.perf_counter() - started), time.perf_counter(), 0
                means, lr = mean_losses(losses), float(loop.scheduler.get_last_lr()[0])
                loop.report(StepReport(step, loop.steps, means, float(grad_norm), lr, rate, progress.skipped))
            loop.tick(step, loop.steps)
            stop = all_reduce_any(is_stopping(), device)
            validates = is_validated(loop, step)
            if step % loop.save_every == 0 or validates or stop:
                loop.save(progress)
            if validates:
                with stop_at_once():  # the checkpoint is written, and validation can be repeated
                    loop.validate(step)
                loop.model.train()
            if stop and step < loop.steps:
                raise CmalError(
                    f"stopped at step {step} of {loop.steps}",
                    "the process received a stop signal; a checkpoint is written",
                    "run the same command again to resume",
                )
            if skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
                raise CmalError(
                    f"stopped at step {step} of {loop.steps}",
                    f"{MAX_SKIPPED_IN_A_ROW} steps in a row had a loss or gradient that is not a finite number",
                    "the last checkpoint is good; lower optimizer.lr and run again",
                )
    return progress


def is_validated(loop: TrainingLoop, step: int) -> bool:
    """True for the last step and every `validate_every`th: a checkpoint is written, then validation runs."""
    return step == loop.steps or bool(loop.validate_every and step % loop.validate_every == 0)


def accumulate_gradients(
    loop: TrainingLoop, batches: Iterator[tuple[MicroBatch, Any]]
) -> tuple[dict[str, Tensor], int]:
    """Adds up the mean gradient of one step's micro-batches. Returns the mean losses by name and the number of examples."""
    totals: dict[str, list[Tensor]] = {}
    examples, device = 0, loop.context.device
    for turn in range(loop.micro_batches_per_step):
        micro_batch, batch = next(batches)
        batch = batch.to(device)
        is_last = turn == loop.micro_batches_per_step - 1
        with without_sync(loop.model, unless=is_last), autocast(device, loop.precision):
            torch.manual_seed(micro_batch_seed(loop.seed, micro_batch.number))
            losses = loop.model(batch)
            (losses.total.float() / loop.micro_batches_per_step).backward()
        totals.setdefault("loss", []).append(losses.total.detach())
        for name, value in losses.parts.items():
            totals.setdefault(name, []).append(value.detach())
        examples += len(batch)
    return {name: torch.stack(values).mean() for name, values in totals.items()}, examples


def mean_losses(losses: Mapping[str, Tensor]) -> dict[str, float]:
    """The mean of each loss over all processes."""
    names = sorted(losses)
    means = all_reduce_mean(torch.stack([losses[name].float() for name in names]))
    return dict(zip(names, means.tolist()))


def micro_batch_seed(seed: int, number: int) -> int:
    """The torch seed of one micro-batch's dropout."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> 1)


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """bfloat16 autocast for "bfloat16", and for "auto" on CUDA; otherwise no autocast (on a CPU it is 200 times slower)."""
    if precision == "bfloat16" or (precision == "auto" and device.type == "cuda"):
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()
