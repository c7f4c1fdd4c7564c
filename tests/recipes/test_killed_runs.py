"""kill -9 at random moments of a run on `scenes`, again and again: the end is the same, to the last bit and the last mask.

Every process writes down each micro-batch that it loads: the examples, and a hash of their masking. A run that was killed
loads some micro-batches twice; both must be equal.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from safetensors.torch import load_file

pytestmark = pytest.mark.slow  # ten minutes: some fifty starts of the program
ROOT = Path(__file__).resolve().parents[2]
STEPS, KILLS = 200, int(os.environ.get("CMAL_TEST_KILLS", "20"))
SETTINGS = (
    *("model.width=32", "model.heads=2", "model.inner=64", "model.text_layers=1", "model.unified_layers=1"),
    *("model.dropout=0.1", "optimizer.warmup_steps=20", "data.validation=", f"train.steps={STEPS}"),
    *("train.batch_size=16", "train.micro_batch_size=8", "train.save_every=4", "train.report_every=1"),
)
NOTE_MICRO_BATCHES = """
import hashlib, json, os
import cmal.data.loaders as datasets

plain = datasets.PretrainingData.__getitem__

def noted(self, micro_batch):
    micro_batch, batch = plain(self, micro_batch)
    drawn = hashlib.sha256()
    masked, plan = batch.masked, batch.masked.plan
    for part in (masked.token_ids, masked.zeroed_region_mask, plan.example, plan.region, plan.fill,
                 plan.duplicate_region_mask, batch.text_of, batch.is_match):
        drawn.update(part.numpy().tobytes())
    line = json.dumps([micro_batch.number, micro_batch.step, list(batch.ids), drawn.hexdigest()]) + "\\n"
    file = os.open(os.environ["MICRO_BATCHES_FILE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())
    os.close(file)
    return micro_batch, batch

datasets.PretrainingData.__getitem__ = noted
"""


class Runs:
    """Starts a pre-training in a folder; `NAME.micro_batches` beside it is what its processes wrote down."""

    def __init__(self, world: Path, folder: Path):
        self.world, self.folder, self.kills = world, folder, Counter[str]()
        (folder / "notes").mkdir()
        (folder / "notes/sitecustomize.py").write_text(NOTE_MICRO_BATCHES)

    def start(self, name: str, processes: int) -> subprocess.Popen:
        scenes = self.world / "data/scenes"
        paths = (f"out={self.folder / name}", f"data.records=[{scenes}/train.jsonl]", f"data.regions={scenes}/regions")
        sets = [word for value in (*SETTINGS, *paths) for word in ("--set", value)]
        shared = ("--cpu-procs", str(processes)) if processes > 1 else ("--device", "cpu")
        command = [str(Path(sys.executable).with_name("cmal")), "pretrain", str(ROOT / "recipes/scenes.yaml"), *shared]
        environment = os.environ | {
            "PYTHONPATH": f"{self.folder / 'notes'}:{ROOT}",
            "OMP_NUM_THREADS": "1",
            "MICRO_BATCHES_FILE": str(self.folder / f"{name}.micro_batches"),
        }
        log = (self.folder / f"{name}.log").open("a")
        return subprocess.Popen([*command, *sets], env=environment, stdout=log, stderr=log, start_new_session=True)

    def finish(self, name: str, processes: int) -> None:
        assert self.start(name, processes).wait(timeout=900) == 0, (self.folder / f"{name}.log").read_text()[-2000:]

    def kill_at_random(self, name: str, processes: int, draws: random.Random) -> int:
        """Starts or resumes, and kills all its processes at some moment: while it starts, or some steps further on.

        Where the run comes to its end before that moment nothing is killed; `kills` counts those that were.
        """
        before, process = self.steps_done(name), self.start(name, processes)
        target = before + draws.randint(0, STEPS // KILLS)  # steps are fast: more would end the run too soon
        for _ in range(6000):
            if self.steps_done(name) >= target or process.poll() is not None:
                break
            time.sleep(0.02)
        time.sleep(draws.random() * (3 if target == before else 0.1))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            self.kills[name] += 1
        process.wait()
        return self.steps_done(name)

    def steps_done(self, name: str) -> int:
        file = self.folder / name / "metrics.jsonl"
        lines = file.read_text().splitlines() if file.is_file() else []
        steps = [json.loads(line)["step"] for line in lines if line.endswith("}")]
        return max(steps, default=0)

    def weights(self, name: str) -> dict:
        return load_file(self.folder / name / "last/model.safetensors")

    def losses(self, name: str) -> list[float]:
        rows = map(json.loads, (self.folder / name / "metrics.jsonl").read_text().splitlines())
        return [row["losses"]["loss"] for row in rows if "losses" in row]

    def micro_batches(self, name: str) -> dict[int, list]:
        """Number -> content of that micro-batch; loaded twice, it must be the same."""
        found: dict[int, list] = {}
        for line in (self.folder / f"{name}.micro_batches").read_text().splitlines():
            number, *content = json.loads(line)
            assert found.setdefault(number, content) == content, f"micro-batch {number} differs the second time"
        return found


@pytest.fixture(scope="module")
def runs(tiny_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    runs = Runs(tiny_world, tmp_path_factory.mktemp("kills"))
    for processes in (1, 2):
        runs.finish(f"unstopped-{processes}", processes)
    return runs


def same_bits(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def test_two_processes_see_the_examples_and_masks_of_one(runs):
    alone, together = runs.micro_batches("unstopped-1"), runs.micro_batches("unstopped-2")
    assert sorted(alone) == list(range(2 * STEPS)) and alone == together
    assert runs.losses("unstopped-2") == pytest.approx(runs.losses("unstopped-1"), rel=1e-5)


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_again_and_again_it_ends_with_the_same_bits(runs, processes):
    name, draws = f"killed-{processes}", random.Random(processes)
    reached = [runs.kill_at_random(name, processes, draws) for _ in range(KILLS)]
    runs.finish(name, processes)
    print(f"{processes} processes, killed at steps {reached}")
    assert runs.kills[name] >= KILLS * 3 // 4 and max(reached) > STEPS // 4, "most kills fell into work"
    assert runs.micro_batches(name) == runs.micro_batches("unstopped-1")
    assert runs.losses(name) == runs.losses(f"unstopped-{processes}") and len(runs.losses(name)) == STEPS
    assert same_bits(runs.weights(name), runs.weights(f"unstopped-{processes}"))


def test_killed_and_resumed_with_another_number_of_processes_it_sees_the_same(runs):
    draws = random.Random(3)
    reached = [runs.kill_at_random("elastic", 1 + turn % 2, draws) for turn in range(KILLS)]
    runs.finish("elastic", 1)
    assert runs.kills["elastic"] >= KILLS * 3 // 4
    print(f"1 and 2 processes by turns, killed at steps {reached}")
    assert runs.micro_batches("elastic") == runs.micro_batches("unstopped-1")
    assert runs.losses("elastic") == pytest.approx(runs.losses("unstopped-1"), rel=1e-5)
