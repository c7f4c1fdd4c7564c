"""`--dry-run`: what a training will take, from a few real steps, without leaving anything behind.

The steps are those of the run itself: its loader, its loop, its processes. They are chosen so that their lengths stand for
the whole run, and the longest come first, for the memory. One checkpoint is written beside the run folder, timed, weighed
and removed.
"""

from __future__ import annotations

import contextlib
import math
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from cmal.data.batch import Batch
from cmal.data.micro_batches import MicroBatch, MicroBatchPlan, MicroBatchSequence, load_micro_batches
from cmal.errors import CmalError
from cmal.model.cpu.kernels import ONEDNN_LINEAR
from cmal.runs.assembly import parameters_by_part
from cmal.runs.finetune import finetuning_setup
from cmal.runs.folder import checkpoint_to_resume_from
from cmal.runs.pretrain import pretraining_setup
from cmal.runs.recipe.reader import FinetuneRecipe, PretrainRecipe
from cmal.runs.train import TrainingSetup, loader_workers, make_fit, micro_batch_plan
from cmal.training.checkpoint import load_progress, save_checkpoint
from cmal.training.distributed import DistributedContext, join_processes
from cmal.training.loop import Fit, StepReport, fit
from cmal.training.sharding import full_state_dict

UNTIMED_STEPS = 2  # of each round: processor caches and loader processes warm up
TIMED_STEPS, MAX_ROUNDS = 8, 10
WANTED_S = 20.0
COUNTED_STEPS = 4


@dataclass(frozen=True)
class Estimate:
    """What a training will take.

    Attributes:
        parameters: by part, and "total".
        steps: still to do; examples and tokens (word pieces and regions, without padding) of one step, over all processes.
        flops: of one step's matrix products, forward and backward, over all processes.
        step_s: mean of `timed_steps` steps; start_s, save_s, validate_s: once.
        peak_memory_bytes: of one process: device memory on a GPU, resident memory on a CPU.
        checkpoint_bytes: of one; kept_bytes: of the run folder at the end; most_bytes: while a checkpoint is being written.
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


@dataclass
class Stopwatch:
    """Seconds of every step, from the loop's reports."""

    seconds: list[float] = field(default_factory=list)
    examples: int = 0

    def __call__(self, report: StepReport) -> None:
        self.seconds.append(self.examples / report.examples_per_s)


def estimate_training(
    recipe: PretrainRecipe | FinetuneRecipe, start: str = "auto", device: str | None = None
) -> tuple[Estimate, DistributedContext]:
    """Checks everything a training would check, runs a few of its steps, and says what all of them will take.

    Raises:
        CmalError: what the training itself would raise; or the disk cannot hold its checkpoints.
    """
    run = Path(recipe.out)
    with join_processes(device) as context:
        began = time.perf_counter()
        checkpoint = checkpoint_to_resume_from(run, recipe, start)
        make_setup = pretraining_setup if isinstance(recipe, PretrainRecipe) else finetuning_setup
        setup = make_setup(recipe, checkpoint, context)
        start_s = time.perf_counter() - began
        return _estimate(setup, context, checkpoint, start_s), context


def _estimate(setup: TrainingSetup, context: DistributedContext, checkpoint: Path | None, start_s: float) -> Estimate:
    made = replace(make_fit(setup, context, checkpoint), report_every=1, save_every=2**62, validate_every=0)
    done = load_progress(checkpoint).step if checkpoint else 0
    left = setup.train.steps - done
    plan = micro_batch_plan(setup)
    by_length = steps_by_length(plan, done + 1, setup.train.steps)

    _run_steps(made, setup, plan, by_length[-1:])
    counted = spread_over(by_length, COUNTED_STEPS)
    with count_flops() as counter:
        _run_steps(made, setup, plan, counted)
    seconds = time_steps(made, setup, plan, by_length)
    step_s = float(np.mean(seconds))

    free, checkpoint_bytes, save_s = trial_checkpoint(setup, made, context)
    validate_s = _seconds_of(lambda: setup.validate(0))
    validations = _times(left, setup.train.validate_every)
    saves = max(_times(left, setup.train.save_every), validations)
    kept = min(saves, setup.train.keep_checkpoints) * checkpoint_bytes
    most = min(saves, setup.train.keep_checkpoints + 1) * checkpoint_bytes
    _check_disk(setup.run, most, free)
    return Estimate(
        parameters=parameters_by_part(setup.model),
        processes=context.world_size,
        steps=left,
        examples=setup.train.batch_size,
        tokens=mean_tokens(setup, plan, spread_over(by_length, 4 * COUNTED_STEPS)),
        flops=counter.get_total_flops() * context.world_size / len(counted),
        timed_steps=len(seconds),
        step_s=step_s,
        start_s=start_s,
        save_s=save_s,
        validate_s=validate_s,
        peak_memory_bytes=peak_memory_bytes(context),
        checkpoint_bytes=checkpoint_bytes,
        kept_bytes=kept,
        most_bytes=most,
        free_bytes=free,
        total_s=start_s + left * step_s + saves * save_s + validations * validate_s,
    )


def steps_by_length(plan: MicroBatchPlan, first: int, last: int) -> list[int]:
    """The steps of one epoch (or of the run, where that is shorter), those with the shortest sequences first."""
    epoch = max(1, plan.micro_batches_per_epoch // plan.micro_batches_per_step)
    steps = range(first, min(last, first + epoch - 1) + 1)
    lengths = {
        step: sum(int(plan.lengths[list(g.indices)].sum()) for g in plan.step_micro_batches(step)) for step in steps
    }
    return sorted(steps, key=lengths.__getitem__)


def spread_over(steps: Sequence[int], count: int) -> list[int]:
    """`count` steps from the middles of as many equal parts: short and long ones as often as in all of them."""
    places = (np.arange(count) + 0.5) / count * len(steps)
    return [steps[int(context)] for context in places]


class StepList(Sequence[MicroBatch]):
    """This process's groups of some steps, as a sampler."""

    def __init__(self, plan: MicroBatchPlan, steps: Sequence[int], context: DistributedContext):
        self.micro_batches = [
            g for step in steps for g in MicroBatchSequence(plan, step, step, context.rank, context.world_size)
        ]

    def __len__(self) -> int:
        return len(self.micro_batches)

    def __getitem__(self, number: int) -> MicroBatch:
        return self.micro_batches[number]


def _run_steps(made: Fit, setup: TrainingSetup, plan: MicroBatchPlan, steps: Sequence[int]) -> Stopwatch:
    """Trains on the groups of some steps; the learning rate schedule stands still."""
    watch = Stopwatch(examples=setup.train.batch_size)
    workers = loader_workers(setup.workers, made.context.device)
    micro_batches = load_micro_batches(setup.data, StepList(plan, steps, made.context), workers)
    last = made.progress.step + len(steps)
    fit(replace(made, micro_batches=micro_batches, steps=last, report=watch))
    return watch


def time_steps(made: Fit, setup: TrainingSetup, plan: MicroBatchPlan, by_length: Sequence[int]) -> list[float]:
    """Seconds of steps of all lengths, in rounds, until enough time has gone by."""
    seconds: list[float] = []
    for _ in range(MAX_ROUNDS):
        steps = by_length[-1:] * UNTIMED_STEPS + spread_over(by_length, TIMED_STEPS)
        seconds += _run_steps(made, setup, plan, steps).seconds[UNTIMED_STEPS:]
        if all_reduce_max(int(sum(seconds)), made.context) >= WANTED_S:
            break
    return seconds


def mean_tokens(setup: TrainingSetup, plan: MicroBatchPlan, steps: Sequence[int]) -> float:
    """Word pieces and regions of a step, padding not counted, as a mean over some steps."""
    return sum(real_tokens(setup.data[g][1]) for step in steps for g in plan.step_micro_batches(step)) / len(steps)


def real_tokens(batch: Batch) -> int:
    """Word pieces and regions of a batch, padding not counted."""
    return int(batch.token_mask.sum() + batch.region_mask.sum())


@contextlib.contextmanager
def count_flops() -> Iterator[FlopCounterMode]:
    """Counts the matrix products within the block; torch's own table lacks two of the CPU's kernels."""
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


def trial_checkpoint(setup: TrainingSetup, made: Fit, context: DistributedContext) -> tuple[int, int, float]:
    """Writes one checkpoint beside the run folder and removes it: free bytes before, its bytes, its seconds."""
    there = next(folder for folder in (setup.run, *setup.run.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    states = full_state_dict(setup.model.state_dict()), full_state_dict(made.optimizer.state_dict())
    if not context.is_first:
        return free, 0, 0.0
    with tempfile.TemporaryDirectory(prefix=".cmal-dry-run-", dir=there) as folder:
        trial = Path(folder)
        seconds = _seconds_of(lambda: save_checkpoint(trial, made.progress, *states, setup.add_files, keep=1))
        size = sum(file.stat().st_size for file in trial.glob("checkpoints/*/*"))
    return free, size, seconds


def peak_memory_bytes(context: DistributedContext) -> int:
    """The most memory this process has used so far: of its GPU, or resident."""
    if context.device.type == "cuda":
        used = torch.cuda.max_memory_reserved(context.device)
    else:
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return all_reduce_max(used, context)


def all_reduce_max(value: int, context: DistributedContext) -> int:
    """The largest over all processes."""
    if context.world_size == 1:
        return value
    largest: Tensor = torch.tensor(value, dtype=torch.int64, device=context.device)
    torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
    return int(largest)


def _check_disk(run: Path, needed: int, free: int) -> None:
    if needed > free:
        raise CmalError(
            f"the disk of {run} cannot hold this run's checkpoints",
            f"they need {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free",
            "free some space, choose another place (--set out=FOLDER) or keep fewer (--set train.keep_checkpoints=1)",
        )


def _times(steps: int, every: int) -> int:
    """How often something is done that is done every so many steps (0: never before the end) and at the end."""
    return -(-steps // every) if every else 1


def _seconds_of(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
