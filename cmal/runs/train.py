"""What pre-training and fine-tuning share around the training loop: processes, resuming, checkpoints, metrics."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from cmal.data.loaders import PretrainingData, TaskData
from cmal.data.micro_batches import MicroBatch, MicroBatchPlan, MicroBatchSequence, load_micro_batches
from cmal.data.text import WordPieces
from cmal.errors import RecipeError
from cmal.io.files import write_json
from cmal.io.locks import hold_folder
from cmal.model.inputs import Batch
from cmal.model.text_weights import LoadingReport
from cmal.runs.building import write_beside_weights
from cmal.runs.folder import METRICS, TEXT_ENCODER, MetricsFile, open_run
from cmal.runs.model_config import ModelConfig
from cmal.runs.recipe import FinetuneRecipe, PretrainRecipe
from cmal.runs.recipe.schema import TrainSection
from cmal.training.checkpoint import fit_weights, load_optimizer, load_weights, save_checkpoint
from cmal.training.distributed import DistributedContext, all_reduce_any, barrier, distributed_context
from cmal.training.loop import StepReport, TrainingLoop, fit
from cmal.training.memory import keep_freed_memory
from cmal.training.optimizer import build_optimizer, build_schedule
from cmal.training.retention import checkpoint_folder, keep_best, newest_checkpoint, recover_run_folder
from cmal.training.sharding import configure_layers, full_state_dict, shard, wrap_ddp
from cmal.training.state import Progress, load_progress, validation_at

Report = Callable[[StepReport], None]
Tick = Callable[[int, int], None]  # steps done, steps in total
GPU_LOADER_WORKERS = 4


@dataclass(frozen=True)
class TrainingSetup:
    """One process's part of a training: the model with its data, and what its checkpoints contain beside the weights.

    Attributes:
        validate: called with the step in every process; returns the same measures in each. The checkpoint with the
            highest "main" measure becomes `best`.
        head_names: prefixes of the parameter names that learn at `head_lr_factor`.
        text_encoder: the loading report of a text checkpoint, if one was read.
    """

    recipe: PretrainRecipe | FinetuneRecipe
    model: nn.Module
    data: PretrainingData | TaskData
    config: ModelConfig
    word_pieces: WordPieces
    validate: Callable[[int], Mapping[str, float]]
    head_names: tuple[str, ...] = ()
    text_encoder: LoadingReport | None = None

    @property
    def run(self) -> Path:
        """The run folder."""
        return Path(self.recipe.out)

    def add_files(self, folder: Path) -> None:
        """Writes configuration and vocabulary beside the weights in a checkpoint folder."""
        write_beside_weights(folder, self.config, self.word_pieces)

    def micro_batch_plan(self) -> MicroBatchPlan:
        """The micro-batches of all steps, over all processes."""
        train = self.recipe.train
        micro_batches_per_step = train.batch_size // train.micro_batch_size
        return MicroBatchPlan(self.data.lengths(), train.micro_batch_size, micro_batches_per_step, train.seed)


@dataclass(frozen=True)
class TrainingSummary:
    """How a training ended: its run folder, steps done and skipped, and the step it was resumed from (0: none)."""

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
        make_setup: called with the checkpoint to resume from (or None) and this process's context.
        report: called every `report_every` steps, in the first process only.
        start: "auto", "resume" or "fresh" (see `folder.open_run`).
        tick: called with (steps done, steps in total) after every step, in the first process only.
    """
    run = Path(recipe.out)
    with distributed_context(device) as context, contextlib.ExitStack() as held:
        if context.is_first:
            held.enter_context(hold_folder(run))
            open_run(run, recipe, start)
            recover_run_folder(run, recipe.train.keep_checkpoints)
        barrier()
        checkpoint = newest_checkpoint(run)
        resumed_from = load_progress(checkpoint).step if checkpoint else 0
        progress = train(make_setup(checkpoint, context), context, checkpoint, report, tick)
        return TrainingSummary(run, progress.step, progress.skipped, resumed_from)


def train(
    setup: TrainingSetup, context: DistributedContext, checkpoint: Path | None, report: Report, tick: Tick | None = None
) -> Progress:
    """Runs the loop from a checkpoint or from the start, and writes checkpoints and metrics into the run folder."""
    loop, keep = build_loop(setup, context, checkpoint), setup.recipe.train.keep_checkpoints
    if setup.text_encoder and context.is_first:
        write_json(setup.run / TEXT_ENCODER, setup.text_encoder.as_json())
    is_validated = validation_at(checkpoint_folder(setup.run, loop.progress.step)) is not None
    metrics = MetricsFile(setup.run / METRICS, loop.progress.step, is_validated) if context.is_first else None

    def write_report(step: StepReport) -> None:
        if metrics:
            metrics.write(asdict(step) | {"time": time.time()})
            report(step)

    def save(progress: Progress) -> None:
        states = full_state_dict(setup.model.state_dict()), full_state_dict(loop.optimizer.state_dict())
        if context.is_first:
            save_checkpoint(setup.run, progress, *states, setup.add_files, keep)

    def validate(step: int) -> None:
        is_missing = context.is_first and validation_at(checkpoint_folder(setup.run, step)) is None
        if not all_reduce_any(is_missing, context.device):
            return
        measures = setup.validate(step)
        if metrics and measures:
            metrics.write({"step": step, "validation": dict(measures)})
            keep_best(setup.run, step, measures, keep)

    tick = tick if tick and context.is_first else loop.tick
    return fit(replace(loop, report=write_report, save=save, validate=validate, tick=tick))


def build_loop(setup: TrainingSetup, context: DistributedContext, checkpoint: Path | None) -> TrainingLoop:
    """The loop, ready to resume from a checkpoint or to start. Its callbacks (report, save, ...) are not set yet.

    Raises:
        RecipeError: a step's micro-batches cannot be divided evenly among the processes.
        CheckpointError: the checkpoint is damaged or of another model.
    """
    keep_freed_memory()
    section, settings = setup.recipe.train, setup.recipe.optimizer
    plan = setup.micro_batch_plan()
    _check_even(section, context.world_size)
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
        betas=(settings.betas[0], settings.betas[1]),
        head_names=setup.head_names,
        head_lr_factor=settings.head_lr_factor,
    )
    progress = Progress()
    if checkpoint is not None:
        load_optimizer(checkpoint, optimizer)
        progress = load_progress(checkpoint)
    sequence = MicroBatchSequence(plan, progress.step + 1, section.steps, context.rank, context.world_size)
    return TrainingLoop(
        model=model if is_sharded else wrap_ddp(model, context),
        optimizer=optimizer,
        scheduler=build_schedule(optimizer, settings.warmup_steps, section.steps, progress.step),
        micro_batches=load_micro_batches(
            setup.data, sequence, loader_workers(setup.recipe.data.workers, context.device)
        ),
        micro_batches_per_step=plan.micro_batches_per_step // context.world_size,
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


def loader_workers(setting: int, device: torch.device) -> int:
    """The number of loader processes per device: the recipe's `data.workers`, where -1 = 0 on a CPU and 4 on a GPU.

    On a CPU, loader processes compete with the training for the cores. Measured for `small` on two cores, relative to a
    batch in memory: 3% longer steps when the training process loads, 6% with two loader processes.
    """
    if setting >= 0:
        return setting
    return 0 if device.type == "cpu" else GPU_LOADER_WORKERS


def _check_even(section: TrainSection, world_size: int) -> None:
    count = section.batch_size // section.micro_batch_size
    if count % world_size:
        raise RecipeError(
            f"cannot divide a step among {world_size} processes",
            f"train.batch_size {section.batch_size} is {count} micro-batches of {section.micro_batch_size}",
            f"choose a batch_size and micro_batch_size whose quotient is a multiple of {world_size}",
        )


@torch.no_grad()
def mean_losses_of(
    model: nn.Module, batches: Iterable[tuple[MicroBatch, Batch]], device: torch.device
) -> dict[str, float]:
    """The mean of "loss" and of every part of it over some batches, in evaluation mode."""
    model.eval()
    totals: dict[str, list[float]] = {}
    for _, batch in batches:
        losses = model(batch.to(device))
        for name, value in ({"loss": losses.total} | dict(losses.parts)).items():
            totals.setdefault(name, []).append(float(value))
    return {name: sum(values) / len(values) for name, values in totals.items()}
