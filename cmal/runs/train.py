"""What pre-training and fine-tuning share around the loop: distribution, resuming, saving, metrics."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cmal.data.loaders import PretrainingData, TaskData
from cmal.data.micro_batches import MicroBatchPlan, MicroBatchSequence, load_micro_batches
from cmal.errors import RecipeError
from cmal.io.locks import hold_folder
from cmal.runs.folder import METRICS, MetricsFile, open_run
from cmal.runs.recipe.reader import FinetuneRecipe, OptimizerSection, PretrainRecipe, TrainSection
from cmal.training.checkpoint import (
    Progress,
    checkpoint_folder,
    fit_weights,
    keep_best,
    load_optimizer,
    load_progress,
    load_weights,
    newest_checkpoint,
    recover_run_folder,
    save_checkpoint,
    validation_at,
)
from cmal.training.distributed import DistributedContext, all_reduce_any, barrier, join_processes
from cmal.training.loop import Fit, StepReport, fit
from cmal.training.memory import keep_freed_memory
from cmal.training.optimizer import build_optimizer, build_schedule
from cmal.training.sharding import configure_layers, full_state_dict, shard, wrap_ddp

Report = Callable[[StepReport], None]
Tick = Callable[[int, int], None]  # steps done, steps wanted
WORKERS_OF_A_GPU = 4


@dataclass(frozen=True)
class TrainingSetup:
    """One training: what to train, on what, and where it goes.

    Attributes:
        add_files: puts into a checkpoint folder what it needs beside the weights.
        validate: called with the step in every process, gives measures to write down, the same in each; the checkpoint
            with the highest "main" becomes `best`.
        head_names: prefixes of parameters that learn at `head_lr_factor`.
    """

    run: Path
    model: nn.Module
    data: PretrainingData | TaskData
    train: TrainSection
    optimizer: OptimizerSection
    workers: int
    add_files: Callable[[Path], None]
    validate: Callable[[int], Mapping[str, float]]
    head_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainingSummary:
    """What a training ended with, and the step it went on from."""

    run: Path
    steps: int
    skipped: int
    resumed_from: int


def run_training(
    recipe: PretrainRecipe | FinetuneRecipe,
    make_setup: Callable[[Path | None, DistributedContext], TrainingSetup],
    report: Report,
    start: str,
    device: str | None,
    tick: Tick | None = None,
) -> TrainingSummary:
    """Opens the run folder, joins the other processes, and trains from the newest checkpoint or from the start.

    Args:
        make_setup: called with the checkpoint to go on from (or None) and this process's place.
        start: "auto", "resume" or "fresh" (see `folder.open_run`).
        tick: called with the steps done and wanted, after every step; `report` only every `report_every`.
    """
    run = Path(recipe.out)
    with join_processes(device) as context, contextlib.ExitStack() as held:
        if context.is_first:
            held.enter_context(hold_folder(run))
            open_run(run, recipe, start)
            recover_run_folder(run, recipe.train.keep_checkpoints)
        barrier()
        checkpoint = newest_checkpoint(run)
        resumed = load_progress(checkpoint).step if checkpoint else 0
        progress = train(make_setup(checkpoint, context), context, checkpoint, report, tick)
        return TrainingSummary(run, progress.step, progress.skipped, resumed)


def train(
    setup: TrainingSetup, context: DistributedContext, checkpoint: Path | None, report: Report, tick: Tick | None = None
) -> Progress:
    """Runs the loop from a checkpoint or from the start, writing checkpoints and metrics into the run folder."""
    run = make_fit(setup, context, checkpoint)
    is_validated = validation_at(checkpoint_folder(setup.run, run.progress.step)) is not None
    metrics = MetricsFile(setup.run / METRICS, run.progress.step, is_validated) if context.is_first else None

    def write_report(step: StepReport) -> None:
        if metrics:
            metrics.write(asdict(step) | {"time": time.time()})
            report(step)

    def save(at: Progress) -> None:
        states = full_state_dict(setup.model.state_dict()), full_state_dict(run.optimizer.state_dict())
        if context.is_first:
            save_checkpoint(setup.run, at, *states, setup.add_files, setup.train.keep_checkpoints)

    def validate(step: int) -> None:
        if not all_reduce_any(
            context.is_first and validation_at(checkpoint_folder(setup.run, step)) is None, context.device
        ):
            return
        measures = setup.validate(step)
        if metrics and measures:
            metrics.write({"step": step, "validation": dict(measures)})
            keep_best(setup.run, step, measures, setup.train.keep_checkpoints)

    watched = {"tick": tick} if tick and context.is_first else {}
    return fit(replace(run, report=write_report, save=save, validate=validate, **watched))


def loader_workers(asked: int, device: torch.device) -> int:
    """How many loader processes a device has; asked: -1 = whatever is best there.

    A CPU computes with all its cores, which loader processes would take from it: a step of `small` on two cores lasts 3%
    longer than with its batch in memory when the process loads by itself, 6% with two loader processes.
    """
    if asked >= 0:
        return asked
    return 0 if device.type == "cpu" else WORKERS_OF_A_GPU


def make_fit(setup: TrainingSetup, context: DistributedContext, checkpoint: Path | None) -> Fit:
    """What the loop needs to go on from a checkpoint or to start; it reports, saves and validates nothing yet.

    Raises:
        RecipeError: the groups of a step cannot be dealt evenly to the processes.
    """
    keep_freed_memory()
    section, settings = setup.train, setup.optimizer
    micro_batches_per_step = section.batch_size // section.micro_batch_size
    check_even(micro_batches_per_step, context.world_size, section)
    model = setup.model.to(context.device)
    if checkpoint is not None:
        fit_weights(model, load_weights(checkpoint), checkpoint)
    configure_layers(model, section.compile, section.checkpoint_activations)
    is_sharded = section.strategy == "fsdp" and context.world_size > 1
    if is_sharded:
        shard(model, context)
    optimizer = build_optimizer(
        model,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        betas=tuple(settings.betas),
        head_names=setup.head_names,
        head_lr_factor=settings.head_lr_factor,
    )
    progress = Progress()
    if checkpoint is not None:
        load_optimizer(checkpoint, optimizer)
        progress = load_progress(checkpoint)
    sequence = MicroBatchSequence(
        micro_batch_plan(setup), progress.step + 1, section.steps, context.rank, context.world_size
    )
    return Fit(
        model=model if is_sharded else wrap_ddp(model, context),
        optimizer=optimizer,
        scheduler=build_schedule(optimizer, settings.warmup_steps, section.steps, progress.step),
        micro_batches=load_micro_batches(setup.data, sequence, loader_workers(setup.workers, context.device)),
        micro_batches_per_step=micro_batches_per_step // context.world_size,
        steps=section.steps,
        seed=section.seed,
        clip_norm=settings.clip_norm,
        context=context,
        report_every=section.report_every,
        save_every=section.save_every,
        validate_every=section.validate_every,
        precision=section.precision,
        progress=progress,
    )


def micro_batch_plan(setup: TrainingSetup) -> MicroBatchPlan:
    """All groups of the run."""
    section = setup.train
    return MicroBatchPlan(
        setup.data.lengths(), section.micro_batch_size, section.batch_size // section.micro_batch_size, section.seed
    )


def check_even(micro_batches_per_step: int, world_size: int, section: TrainSection) -> None:
    """Raises RecipeError when a step's groups cannot be dealt evenly."""
    if micro_batches_per_step % world_size:
        raise RecipeError(
            f"cannot share a step among {world_size} processes",
            f"batch_size {section.batch_size} makes {micro_batches_per_step} micro-batches of {section.micro_batch_size}",
            f"choose a batch_size and micro_batch_size whose quotient is a multiple of {world_size}",
        )


@torch.no_grad()
def mean_parts(model: nn.Module, batches: Any, device: torch.device) -> dict[str, float]:
    """Mean of every loss part over some batches, in evaluation mode."""
    model.eval()
    totals: dict[str, list[float]] = {}
    for _, batch in batches:
        losses = model(batch.to(device))
        for name, value in ({"loss": losses.total} | dict(losses.parts)).items():
            totals.setdefault(name, []).append(float(value))
    return {name: sum(values) / len(values) for name, values in totals.items()}
