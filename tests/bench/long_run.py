"""Does memory grow, do steps get slower? `python -m tests.bench.long_run --json FILE [--minutes 60] [--images 100000]`.

Trains a small model with two loader workers on a generated store, by the ordinary command, and looks at it every ten
seconds from outside: the memory of all its processes (anonymous pages, shared ones once), the processor time they have
used, and the step they are at. Steps are timed over the stretches between looks.

    growth_mb             memory, median of the last tenth over that of the second tenth (the first warms up)
    slowdown              wall seconds a step, median of the last tenth over that of the second tenth, minus 1
    slowdown_cpu          the same of processor seconds, which other work on the machine disturbs less
    slowdown_yardstick    the same of a fixed small work that the watching process does at every look: what the machine alone
                          got slower, as its other users come and go
    slowdown_corrected    slowdown_cpu with the yardstick's taken out
Bars: growth at most 50 MB, slowdown at most 5%.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from cmal.data.records import ImageTextRecord
from cmal.regions.store.layout import StoreHeader
from cmal.regions.store.shards import StoreWriter
from cmal.regions.types import Regions

THINGS = (
    "dog cat tree car boat house cup chair umbrella kite clock horse bird bus train bench book apple cow sheep".split()
)
FEATURES, LOOK_EVERY_S, TICKS = 64, 10.0, os.sysconf("SC_CLK_TCK")
RECIPE = """
out: run
model: {width: 64, heads: 4, inner: 128, text_layers: 1, visual_layers: 1, unified_layers: 1, max_tokens: 30,
  vocabulary_size: 200}
data: {records: [train.jsonl], regions: store, workers: 2}
train: {steps: 100000000, batch_size: 32, micro_batch_size: 32, report_every: 5, save_every: 2000, keep_checkpoints: 2}
"""


@dataclass(frozen=True)
class Look:
    """What was seen at one moment: seconds since the start, the step, megabytes, processor seconds of all processes.

    yardstick_s: processor seconds of the fixed work.
    """

    seconds: float
    step: int
    memory_mb: float
    cpu_seconds: float
    yardstick_s: float = 0.0


def write_world(folder: Path, images: int) -> None:
    """A store of 4-12 regions an image, and a caption of each image that names some of them."""
    rng = np.random.default_rng(0)
    header = StoreHeader("generated", "", FEATURES, tuple(THINGS), ())
    looks = rng.standard_normal((len(THINGS), FEATURES)).astype(np.float32)
    with StoreWriter(folder / "store", header) as writer, (folder / "train.jsonl").open("w") as records:
        for number in range(images):
            count = int(rng.integers(4, 13))
            things = rng.integers(len(THINGS), size=count)
            corners = rng.random((count, 2), np.float32) * 300
            boxes = np.concatenate([corners, corners + 20 + rng.random((count, 2), np.float32) * 150], axis=1)
            nothing = np.full(count, -1), np.zeros(count)
            top_ids = np.concatenate([things[:, None], np.zeros((count, 9), np.int64)], axis=1)
            top_probs = np.concatenate([np.ones((count, 1)), np.zeros((count, 9))], axis=1)
            features = (looks[things] + rng.standard_normal((count, FEATURES))).astype(np.float16)
            one = Regions(features, boxes, things, rng.random(count), *nothing, top_ids, top_probs, (480, 480))
            writer.add(f"generated:{number}", one)
            caption = "a " + " and a ".join(THINGS[thing] for thing in things[: rng.integers(1, count + 1)])
            record = ImageTextRecord(str(number), f"generated:{number}", caption)
            records.write(json.dumps(asdict(record)) + "\n")
    (folder / "recipe.yaml").write_text(RECIPE)


def family(process: int) -> list[int]:
    """A process and all that came of it."""
    found = [process]
    for one in found:
        for tasks in Path(f"/proc/{one}/task").glob("*/children"):
            found += map(int, tasks.read_text().split())
    return found


def memory_mb(process: int) -> float:
    """What the process holds for itself. Pages of files are left out: their share changes as other programs come and go."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:")) / 1024


def cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def yardstick_s(turns: int = 60) -> float:
    """Processor seconds of work of the kinds that a small training step does: products, passes over memory, plain Python."""
    rows, weights = np.ones((600, 64), np.float32), np.full((64, 192), 0.01, np.float32)
    far = np.ones(1 << 20, np.float32)  # 4 MB
    started = time.process_time()
    for _ in range(turns):
        hidden = np.tanh(rows @ weights)
        rows = hidden @ weights.T
        far *= 1.0
        sum(range(5_000))
    return time.process_time() - started


def last_step(metrics: Path) -> int:
    """The step of the last whole line; 0 before the first."""
    if not metrics.is_file():
        return 0
    with metrics.open("rb") as file:
        file.seek(max(0, metrics.stat().st_size - 5000))
        steps = [json.loads(line)["step"] for line in file.read().split(b"\n")[1:-1]]
    return steps[-1] if steps else 0


def watch(command: Sequence[str], folder: Path, minutes: float) -> list[Look]:
    """Runs a command for some minutes, then asks it to stop.

    Raises:
        RuntimeError: it ended by itself.
    """
    started, looks = time.monotonic(), []
    with (folder / "output.txt").open("w") as output:
        running = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        while time.monotonic() - started < 60 * minutes:
            time.sleep(LOOK_EVERY_S)
            if running.poll() is not None:
                raise RuntimeError((folder / "output.txt").read_text()[-2000:])
            everybody = family(running.pid)
            step = last_step(folder / "run" / "metrics.jsonl")
            seen = (sum(map(of, everybody)) for of in (memory_mb, cpu_seconds))
            looks.append(Look(time.monotonic() - started, step, *seen, yardstick_s()))
            print(json.dumps(asdict(looks[-1])), file=sys.stderr, flush=True)
        running.send_signal(signal.SIGTERM)
        running.wait(timeout=120)
    return looks


def tenth(looks: Sequence[Look], number: int) -> Sequence[Look]:
    """The looks of one tenth of the time, 1 to 10, with the one before it."""
    size = len(looks) / 10
    return looks[max(0, int((number - 1) * size) - 1) : int(number * size)]


def a_step(looks: Sequence[Look], of: Callable[[Look], float]) -> float:
    """Median over the stretches between looks of something that grows, for each step."""
    pairs = [(a, b) for a, b in pairwise(looks) if b.step > a.step]
    return statistics.median((of(b) - of(a)) / (b.step - a.step) for a, b in pairs)


def summary(looks: Sequence[Look]) -> dict[str, float]:
    first, last = tenth(looks, 2), tenth(looks, 10)
    memory = [statistics.median(look.memory_mb for look in looks) for looks in (first, last)]
    wall = [a_step(looks, lambda look: look.seconds) for looks in (first, last)]
    cpu = [a_step(looks, lambda look: look.cpu_seconds) for looks in (first, last)]
    yardstick = [statistics.median(look.yardstick_s for look in looks) for looks in (first, last)]
    return {
        "minutes": round(looks[-1].seconds / 60, 1),
        "steps": looks[-1].step,
        "memory_mb": round(memory[1], 1),
        "growth_mb": round(memory[1] - memory[0], 1),
        "slowdown": round(wall[1] / wall[0] - 1, 3),
        "slowdown_cpu": round(cpu[1] / cpu[0] - 1, 3),
        "slowdown_yardstick": round(yardstick[1] / yardstick[0] - 1, 3),
        "slowdown_corrected": round(cpu[1] / cpu[0] * yardstick[0] / yardstick[1] - 1, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--minutes", type=float, default=60, help="at least 4")
    parser.add_argument("--images", type=int, default=100_000)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        write_world(folder, options.images)
        program = [sys.executable, "-c", "from cmal_cli.app import command_line; command_line()"]
        looks = watch([*program, "pretrain", "recipe.yaml", "--quiet", "--device", "cpu"], folder, options.minutes)
    finally:
        shutil.rmtree(folder)
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    result = {"machine": machine, "date": time.strftime("%Y-%m-%d"), "images": options.images} | summary(looks)
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result | {"looks": [asdict(look) for look in looks]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
