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
from cmal.data.micro_batches import GroupPlan, GroupSequence, load_groups
from cmal.errors import RecipeError
from cmal.io.locks import hold_folder
from cmal.runs.recipe.reader import FinetuneRecipe, OptimizerSection, PretrainRecipe, TrainSection
from cmal.runs.folder import METRICS, MetricsFile, open_run
from cmal.training.checkpoint import (
    Progress,
    checkpoint_folder,
    fit_weights,
    keep_best,
    load_optimizer,
    load_progress,
    load_weights,
    newest_checkpoint,
    save_checkpoint,
    tidy,
    validation_at,
)
from cmal.training.distributed import Place, any_place, joined, wait_for_all
from cmal.training.loop import Fit, StepReport, fit
from cmal.training.memory import keep_freed_memory
from cmal.training.optimizer import build_optimizer, build_schedule
from cmal.training.sharding import copy_to_all, shard, tune, whole

Report = Callable[[StepReport], None]
Tick = Callable[[int, int], None]  # steps done, steps wanted
WORKERS_OF_A_GPU = 4


@dataclass(frozen=True)
class Work:
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
    make_work: Callable[[Path | None, Place], Work],
    report: Report,
    start: str,
    device: str | None,
    tick: Tick | None = None,
) -> TrainingSummary:
    """Opens the run folder, joins the other processes, and trains from the newest checkpoint or from the start.

    Args:
        make_work: called with the checkpoint to go on from (or None) and this process's place.
        start: "auto", "resume" or "fresh" (see `folder.open_run`).
        tick: called with the steps done and wanted, after every step; `report` only every `report_every`.
    """
    run = Path(recipe.out)
    with joined(device) as place, contextlib.ExitStack() as held:
        if place.is_first:
            held.enter_context(hold_folder(run))
            open_run(run, recipe, start)
            tidy(run, recipe.train.keep_checkpoints)
        wait_for_all()
        checkpoint = newest_checkpoint(run)
        resumed = load_progress(checkpoint).step if checkpoint else 0
        progress = train(make_work(checkpoint, place), place, checkpoint, report, tick)
        return TrainingSummary(run, progress.step, progress.skipped, resumed)


def train(work: Work, place: Place, checkpoint: Path | None, report: Report, tick: Tick | None = None) -> Progress:
    """Runs the loop from a checkpoint or from the start, writing checkpoints and metrics into the run folder."""
    run = make_fit(work, place, checkpoint)
    is_validated = validation_at(checkpoint_folder(work.run, run.progress.step)) is not None
    metrics = MetricsFile(work.run / METRICS, run.progress.step, is_validated) if place.is_first else None

    def write_report(step: StepReport) -> None:
        if metrics:
            metrics.write(asdict(step) | {"time": time.time()})
            report(step)

    def save(at: Progress) -> None:
        states = whole(work.model.state_dict()), whole(run.optimizer.state_dict())
        if place.is_first:
            save_checkpoint(work.run, at, *states, work.add_files, work.train.keep_checkpoints)

    def validate(step: int) -> None:
        if not any_place(place.is_first and validation_at(checkpoint_folder(work.run, step)) is None, place.device):
            return
        measures = work.validate(step)
        if metrics and measures:
            metrics.write({"step": step, "validation": dict(measures)})
            keep_best(work.run, step, measures, work.train.keep_checkpoints)

    watched = {"tick": tick} if tick and place.is_first else {}
    return fit(replace(run, report=write_report, save=save, validate=validate, **watched))


def loader_workers(asked: int, device: torch.device) -> int:
    """How many loader processes a device has; asked: -1 = whatever is best there.

    A CPU computes with all its cores, which loader processes would take from it: a step of `small` on two cores lasts 3%
    longer than with its batch in memory when the process loads by itself, 6% with two loader processes.
    """
    if asked >= 0:
        return asked
    return 0 if device.type == "cpu" else WORKERS_OF_A_GPU


def make_fit(work: Work, place: Place, checkpoint: Path | None) -> Fit:
    """What the loop needs to go on from a checkpoint or to start; it reports, saves and validates nothing yet.

    Raises:
        RecipeError: the groups of a step cannot be dealt evenly to the processes.
    """
    keep_freed_memory()
    section, settings = work.train, work.optimizer
    groups_per_step = section.batch_size // section.group_size
    check_even(groups_per_step, place.world, section)
    model = work.model.to(place.device)
    if checkpoint is not None:
        fit_weights(model, load_weights(checkpoint), checkpoint)
    tune(model, section.compile, section.checkpoint_activations)
    is_sharded = section.strategy == "fsdp" and place.world > 1
    if is_sharded:
        shard(model, place)
    optimizer = build_optimizer(
        model,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        betas=tuple(settings.betas),
        head_names=work.head_names,
        head_lr_factor=settings.head_lr_factor,
    )
    progress = Progress()
    if checkpoint is not None:
        load_optimizer(checkpoint, optimizer)
        progress = load_progress(checkpoint)
    sequence = GroupSequence(group_plan(work), progress.step + 1, section.steps, place.rank, place.world)
    return Fit(
        model=model if is_sharded else copy_to_all(model, place),
        optimizer=optimizer,
        scheduler=build_schedule(optimizer, settings.warmup_steps, section.steps, progress.step),
        groups=load_groups(work.data, sequence, loader_workers(work.workers, place.device)),
        groups_per_step=groups_per_step // place.world,
        steps=section.steps,
        seed=section.seed,
        clip_norm=settings.clip_norm,
        place=place,
        report_every=section.report_every,
        save_every=section.save_every,
        validate_every=section.validate_every,
        precision=section.precision,
        progress=progress,
    )


def group_plan(work: Work) -> GroupPlan:
    """All groups of the run."""
    section = work.train
    return GroupPlan(work.data.lengths(), section.group_size, section.batch_size // section.group_size, section.seed)


def check_even(groups_per_step: int, world: int, section: TrainSection) -> None:
    """Raises RecipeError when a step's groups cannot be dealt evenly."""
    if groups_per_step % world:
        raise RecipeError(
            f"cannot share a step among {world} processes",
            f"train.batch_size {section.batch_size} makes {groups_per_step} groups of {section.group_size} a step",
            f"choose a batch_size and group_size whose quotient is a multiple of {world}",
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
