"""`--dry-run`: an estimate of a training's time, memory and disk, from a few real steps; leaves no files behind.

The steps use the training's own loader, loop and processes. Their sequence lengths represent the whole run; the longest come
first, to measure the memory. One checkpoint is written beside the run folder, timed, measured and removed.
"""

from __future__ import annotations

import contextlib
import math
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from cmal.data.micro_batches import MicroBatchPlan, MicroBatchSequence, load_micro_batches
from cmal.errors import CmalError
from cmal.model.cpu.kernels import ONEDNN_LINEAR
from cmal.model.inputs import Batch
from cmal.runs.building import parameters_by_part
from cmal.runs.finetune import finetuning_setup
from cmal.runs.folder import checkpoint_to_resume_from
from cmal.runs.pretrain import pretraining_setup
from cmal.runs.recipe import FinetuneRecipe, PretrainRecipe
from cmal.runs.train import TrainingSetup, build_loop, loader_workers
from cmal.training.checkpoint import save_checkpoint
from cmal.training.distributed import DistributedContext, all_reduce_max, distributed_context
from cmal.training.loop import StepReport, TrainingLoop, fit
from cmal.training.sharding import full_state_dict

UNTIMED_STEPS = 2  # per round: processor caches and loader processes warm up
TIMED_STEPS, MAX_ROUNDS = 8, 10
MIN_TIMED_S = 20.0
COUNTED_STEPS = 4


@dataclass(frozen=True)
class Estimate:
    """What a training will take.

    Attributes:
        parameters: per part, and "total".
        steps: still to do; examples and tokens (word pieces and regions, without padding) per step, over all processes.
        flops: of one step's matrix products, forward and backward, over all processes.
        step_s: mean of `timed_steps` steps; start_s, save_s, validate_s: one time each.
        peak_memory_bytes: of one process: device memory on a GPU, resident memory on a CPU.
        checkpoint_bytes: of one; kept_bytes: of all at the end; most_bytes: while one is being written.
        free_bytes: on the run folder's disk.
        total_s: the whole run.
    """

    parameters: Mapping[str, int]
    processes: int
    steps: int
    examples: int
    tokens: float
    flops: float
    timed_steps: int
    step_s: float
    start_s: float
    save_s: float
    validate_s: float
    peak_memory_bytes: int
    checkpoint_bytes: int
    kept_bytes: int
    most_bytes: int
    free_bytes: int
    total_s: float


def estimate_training(
    recipe: PretrainRecipe | FinetuneRecipe, start: str = "auto", device: str | None = None
) -> tuple[Estimate, DistributedContext]:
    """Checks everything that a training checks, runs a few of its steps, and extrapolates to all of them.

    Returns:
        The estimate, the same in every process, and this process's context.

    Raises:
        CmalError: as the training itself; or the disk is too small for its checkpoints.
    """
    with distributed_context(device) as context:
        began = time.perf_counter()
        checkpoint = checkpoint_to_resume_from(Path(recipe.out), recipe, start)
        if isinstance(recipe, PretrainRecipe):
            setup = pretraining_setup(recipe, checkpoint, context)
        else:
            setup = finetuning_setup(recipe, checkpoint, context)
        loop = replace(build_loop(setup, context, checkpoint), report_every=1, save_every=2**62, validate_every=0)
        return _Trial(setup, loop).estimate(time.perf_counter() - began), context


@dataclass(frozen=True)
class _Trial:
    """Runs chosen steps of a training."""

    setup: TrainingSetup
    loop: TrainingLoop

    def estimate(self, start_s: float) -> Estimate:
        setup, train, context = self.setup, self.setup.recipe.train, self.loop.context
        done = self.loop.progress.step
        left = train.steps - done
        plan = setup.micro_batch_plan()
        by_length = steps_by_length(plan, done + 1, train.steps)

        self.run(plan, by_length[-1:])
        counted = spread_over(by_length, COUNTED_STEPS)
        with count_flops() as counter:
            self.run(plan, counted)
        seconds = self.time_steps(plan, by_length)
        step_s = float(np.mean(seconds))
        token_steps = spread_over(by_length, 4 * COUNTED_STEPS)
        tokens = sum(real_tokens(setup.data[m][1]) for step in token_steps for m in plan.step_micro_batches(step))

        free, checkpoint_bytes, save_s = self.trial_checkpoint()
        validate_s = _seconds_of(lambda: setup.validate(0))
        validations = _times(left, train.validate_every)
        saves = max(_times(left, train.save_every), validations)
        most = min(saves, train.keep_checkpoints + 1) * checkpoint_bytes
        _check_disk(setup.run, most, free)
        return Estimate(
            parameters=parameters_by_part(setup.model),
            processes=context.world_size,
            steps=left,
            examples=train.batch_size,
            tokens=tokens / len(token_steps),
            flops=counter.get_total_flops() * context.world_size / len(counted),
            timed_steps=len(seconds),
            step_s=step_s,
            start_s=start_s,
            save_s=save_s,
            validate_s=validate_s,
            peak_memory_bytes=peak_memory_bytes(context),
            checkpoint_bytes=checkpoint_bytes,
            kept_bytes=min(saves, train.keep_checkpoints) * checkpoint_bytes,
            most_bytes=most,
            free_bytes=free,
            total_s=start_s + left * step_s + saves * save_s + validations * validate_s,
        )

    def run(self, plan: MicroBatchPlan, steps: Sequence[int]) -> list[float]:
        """Trains on some steps' micro-batches and returns each step's seconds. The learning rate does not advance."""
        context, seconds = self.loop.context, []
        own = [m for step in steps for m in MicroBatchSequence(plan, step, step, context.rank, context.world_size)]
        batches = load_micro_batches(
            self.setup.data, own, loader_workers(self.setup.recipe.data.workers, context.device)
        )

        def report(step: StepReport) -> None:
            seconds.append(self.setup.recipe.train.batch_size / step.examples_per_s)

        last = self.loop.progress.step + len(steps)
        fit(replace(self.loop, micro_batches=batches, steps=last, report=report))
        return seconds

    def time_steps(self, plan: MicroBatchPlan, by_length: Sequence[int]) -> list[float]:
        """Seconds of steps of all lengths, in rounds, until MIN_TIMED_S have passed."""
        seconds: list[float] = []
        for _ in range(MAX_ROUNDS):
            steps = [by_length[-1]] * UNTIMED_STEPS + spread_over(by_length, TIMED_STEPS)
            seconds += self.run(plan, steps)[UNTIMED_STEPS:]
            if all_reduce_max(sum(seconds), self.loop.context.device) >= MIN_TIMED_S:
                break
        return seconds

    def trial_checkpoint(self) -> tuple[int, int, float]:
        """Writes a checkpoint beside the run folder and removes it.

        Returns:
            The disk's free bytes before, the checkpoint's bytes (0 but in the first process), and the seconds it took.
        """
        setup, loop = self.setup, self.loop
        there = next(folder for folder in (setup.run, *setup.run.absolute().parents) if folder.is_dir())
        free = shutil.disk_usage(there).free
        states = full_state_dict(setup.model.state_dict()), full_state_dict(loop.optimizer.state_dict())
        if not loop.context.is_first:
            return free, 0, 0.0
        with tempfile.TemporaryDirectory(prefix=".cmal-dry-run-", dir=there) as folder:
            trial = Path(folder)
            seconds = _seconds_of(lambda: save_checkpoint(trial, loop.progress, *states, setup.add_files, keep=1))
            size = sum(file.stat().st_size for file in trial.glob("checkpoints/*/*"))
        return free, size, seconds


def steps_by_length(plan: MicroBatchPlan, first: int, last: int) -> list[int]:
    """The steps of one epoch (or of the run, if that is shorter), shortest sequences first."""
    epoch = max(1, plan.micro_batches_per_epoch // plan.micro_batches_per_step)
    steps = range(first, min(last, first + epoch - 1) + 1)
    lengths = {
        step: sum(int(plan.lengths[list(m.indices)].sum()) for m in plan.step_micro_batches(step)) for step in steps
    }
    return sorted(steps, key=lengths.__getitem__)


def spread_over(steps: Sequence[int], count: int) -> list[int]:
    """The middle element of each of `count` equal parts of `steps`."""
    positions = (np.arange(count) + 0.5) / count * len(steps)
    return [steps[int(position)] for position in positions]


def real_tokens(batch: Batch) -> int:
    """Word pieces and regions of a batch, without padding."""
    return int(batch.token_mask.sum() + batch.region_mask.sum())


@contextlib.contextmanager
def count_flops() -> Iterator[FlopCounterMode]:
    """Counts the FLOPs of the block's matrix products; adds two CPU kernels that torch's own table lacks."""
    aten = torch.ops.aten

    def product(rows: Sequence[int], weight: Sequence[int], *_: object, **__: object) -> int:
        return 2 * math.prod(rows) * weight[0]

    def forward(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: object, **__: object) -> int:
        return sdpa_flop_count(query, key, value)

    def backward(
        grad: object, query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: object, **__: object
    ):
        return 5 * sdpa_flop_count(query, key, value) // 2

    table = {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    } | ({ONEDNN_LINEAR: product} if ONEDNN_LINEAR else {})
    with FlopCounterMode(display=False, custom_mapping=table) as counter:
        yield counter


def peak_memory_bytes(context: DistributedContext) -> int:
    """The largest peak memory of all processes so far: of the GPU, or resident."""
    if context.device.type == "cuda":
        used = torch.cuda.max_memory_reserved(context.device)
    else:
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(all_reduce_max(used, context.device))


def _check_disk(run: Path, needed: int, free: int) -> None:
    if needed > free:
        raise CmalError(
            f"the disk of {run} cannot hold this run's checkpoints",
            f"they need {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free",
            "free some space, choose another disk (--set out=FOLDER) or keep fewer (--set train.keep_checkpoints=1)",
        )


def _times(steps: int, every: int) -> int:
    """How often something happens in `steps` steps that happens every `every` (0: never) steps and at the end."""
    return -(-steps // every) if every else 1


def _seconds_of(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
