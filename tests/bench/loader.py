"""Does reading limit training? `python -m tests.bench.loader --json FILE`.

A generated world: 1,000 images of 36 regions of 2,048 numbers (147 kB an image, more than the processor's caches hold, and
in the page cache as on a machine that trains for its second epoch), five captions of about 20 word pieces an image that
name tags of the regions, so that anchors are found, masked and swapped. The model is `recipes/small.yaml`'s with fresh
weights, its objectives, batch 32, dropout 0.1. The loop is the program's own, `training/loop.py`; it is given the real
loader (as the recipe asks: on a CPU in the training process; `--workers 2`: two processes), or one batch again and again.
They take turns; a turn of the loader begins when its queue is full, so that every step costs the making of one batch.

    ratio         seconds a step with the loader over seconds with the batch in memory, median over turns
    work_ratio    processor time of a step and of making its batch over that of the step alone: what `ratio` comes to where
                  every core is busy, and what a machine shared with other work cannot blur
    batch_s       processor seconds that making a batch takes; step_s, memory_step_s: medians
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from cmal.data.micro_batches import MicroBatchSequence, load_micro_batches
from cmal.data.records import ImageTextRecord, record_line
from cmal.regions.store.layout import StoreHeader
from cmal.regions.store.shards import StoreWriter
from cmal.regions.types import Regions
from cmal.runs.pretrain import pretraining_setup
from cmal.runs.recipe import PretrainRecipe, load_recipe
from cmal.runs.train import build_loop, loader_workers
from cmal.training.distributed import DistributedContext, distributed_context
from cmal.training.loop import StepReport, TrainingLoop, fit
from tests.bench.timing import machine, options_of, write_figures

IMAGES, REGIONS, FEATURES, CAPTIONS = 1000, 36, 2048, 5
THINGS = "dog cat tree car house boat cup chair umbrella kite clock bench horse truck bottle table lamp bird".split()
COLOURS = ["red", "white", "black", "blue", "green"]
UNTIMED, TIMED, BATCH = 2, 4, 32  # steps of a turn, and pairs of a step
STEPS = 10_000  # of the plan; a turn takes a few of them
ROOT = Path(__file__).resolve().parents[2]


def write_world(folder: Path) -> None:
    """A store and records of images whose captions name four of their tags."""
    generator = np.random.default_rng(0)
    lines = []
    with StoreWriter(folder / "regions", StoreHeader("bench", "", FEATURES, tuple(THINGS), tuple(COLOURS))) as writer:
        for number in range(IMAGES):
            found = make_regions(generator)
            writer.add(f"bench:{number}", found)
            for turn in range(CAPTIONS):
                seen = generator.choice(REGIONS, 4, replace=False)
                names = [f"{COLOURS[found.attribute_ids[r]]} {THINGS[found.object_ids[r]]}" for r in seen]
                caption = "a {} is standing next to the {} in front of a {} and one {}".format(*names)
                lines.append(record_line(ImageTextRecord(f"{number}-{turn}", f"bench:{number}", caption)))
    (folder / "train.jsonl").write_text("".join(lines))


def make_regions(generator: np.random.Generator) -> Regions:
    corners = generator.random((REGIONS, 2), np.float32) * 300
    ids, colours = generator.integers(len(THINGS), size=REGIONS), generator.integers(len(COLOURS), size=REGIONS)
    top_ids = np.argsort(generator.random((REGIONS, len(THINGS))), axis=1)[:, :10]
    return Regions(
        features=generator.random((REGIONS, FEATURES), np.float32).astype(np.float16),
        boxes_xyxy_px=np.hstack([corners, corners + 10 + 150 * generator.random((REGIONS, 2), np.float32)]),
        object_ids=ids.astype(np.int16),
        object_conf=generator.random(REGIONS).astype(np.float16),
        attribute_ids=colours.astype(np.int16),
        attribute_conf=generator.random(REGIONS).astype(np.float16),
        class_top_ids=top_ids.astype(np.int16),
        class_top_probs=generator.dirichlet(np.ones(10), REGIONS).astype(np.float16),
        image_wh_px=(500, 500),
    )


def recipe_for(folder: Path) -> PretrainRecipe:
    """`small`, with a vocabulary of the captions' own instead of MiniLM's."""
    changed = (
        *(f"out={folder}/run", f"data.records=[{folder}/train.jsonl]", f"data.regions={folder}/regions"),
        *("data.validation=", "model.text_checkpoint=", "model.vocabulary_size=1000", f"train.steps={STEPS}"),
        *(f"train.batch_size={BATCH}", f"train.micro_batch_size={BATCH}", "train.report_every=1"),
    )
    return load_recipe(PretrainRecipe, ROOT / "recipes/small.yaml", changed)


def step_seconds(loop: TrainingLoop, micro_batches: Iterable) -> list[float]:
    """Seconds of each timed step."""
    seconds: list[float] = []
    last = loop.progress.step + UNTIMED + TIMED

    def report(step: StepReport) -> None:
        seconds.append(BATCH / step.examples_per_s)

    fit(replace(loop, micro_batches=micro_batches, steps=last, report=report))
    return seconds[UNTIMED:]


def compare(folder: Path, context: DistributedContext, repeats: int, workers: int) -> dict[str, object]:
    """All turns; the first one warms up."""
    setup = pretraining_setup(recipe_for(folder), None, context)
    loop = replace(build_loop(setup, context, None), save_every=2**62)
    plan = setup.micro_batch_plan()
    kept = next(iter(MicroBatchSequence(plan, 1, 1)))
    in_memory = setup.data[kept]
    turns, step_work = [], []
    for turn in range(repeats + 1):
        first = 1 + turn * 4 * (UNTIMED + TIMED)
        loader = load_micro_batches(
            setup.data, MicroBatchSequence(plan, first, STEPS), loader_workers(workers, context.device)
        )
        with_loader, began = step_seconds(loop, loader), time.process_time()
        turns.append((with_loader, step_seconds(loop, itertools.repeat((kept, in_memory[1])))))
        step_work.append((time.process_time() - began) / (UNTIMED + TIMED))
    loaded, held = (np.array(side) for side in zip(*turns[1:]))  # (repeats, TIMED) each
    ratios = loaded.mean(axis=1) / held.mean(axis=1)
    began = time.process_time()
    unseen = [setup.data[one] for one in MicroBatchSequence(plan, STEPS // 2, STEPS // 2 + 9)]
    batch_work = (time.process_time() - began) / len(unseen)
    return {
        "ratio": round(float(np.median(ratios)), 3),
        "ratio_all": np.sort(ratios).round(3).tolist(),
        "step_s": round(float(np.median(loaded)), 3),
        "memory_step_s": round(float(np.median(held)), 3),
        "work_ratio": round(1 + batch_work / float(np.median(step_work)), 3),
        "batch_s": round(batch_work, 3),
        "workers": workers,
    }


def main() -> None:
    parser = options_of(__doc__, repeats=5)
    parser.add_argument("--workers", type=int, default=-1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, distributed_context("cpu") as context:
        write_world(Path(name))
        figures = compare(Path(name), context, options.repeats, options.workers)
    write_figures(machine() | figures, options.json)


if __name__ == "__main__":
    main()
