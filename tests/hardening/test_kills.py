"""kill -9 at any moment of any command that writes: started again it ends with the very bytes, or bits, of a run never cut.

Half of the kills come at moments spread evenly over the true duration of the command, half in the middle of what it does
to its files, just before one of its writes, renames or syncs, drawn with a seed. `pytest -s --slow` prints the table.
"""

from __future__ import annotations

import random
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hardening.jobs import JOBS, Job, broken_files, differences, half_files, put_inputs, result_of
from hardening.stage import KILL, Act, Stage

KILLS = {  # 230 beside the 50 of tests/unit/regions/test_extract.py
    "prepare scenes": 16,
    "prepare scenes, two workers": 8,
    "prepare coco-captions": 24,
    "prepare vqa": 24,
    "extract": 24,
    "import tsv": 24,
    "import lmdb": 20,
    "import npy": 20,
    "merge": 24,
    "pretrain": 20,
    "pretrain, two loaders": 6,
    "finetune": 20,
}
FAST = ("prepare coco-captions", "import tsv", "merge", "finetune")
MAX_KILLS_A_PLACE = 3
ALREADY_DONE = "it holds one already"  # says an import that is started again when all was done; the bytes are compared


@dataclass
class Whole:
    """A job that was never cut short: its result, how long it takes and how often it writes."""

    result: dict
    seconds: float
    writes: int


@dataclass
class Tally:
    """What the kills of a job hit."""

    killed: int = 0
    finished: int = 0
    at: list[str] = field(default_factory=list)


def run_whole(job: Job, stage: Stage, place: Path, inputs: Path) -> Whole:
    put_inputs(job, job.fresh(place, inputs))
    started = time.monotonic()
    act = job.start(stage, place, **watching(stage, place, 0))
    assert act.wait() == 0, act.said()
    return Whole(result_of(job, place), time.monotonic() - started, act.writes() if stage.preload else 0)


def watching(stage: Stage, place: Path, write: int) -> dict:
    return {"disk": (str(place / "out"), write, KILL)} if stage.preload else {}


def kill_somewhere(job: Job, stage: Stage, place: Path, whole: Whole, share: float, at_write: bool) -> Act:
    """Starts the job and kills it at a share of its time or of its writes."""
    if at_write and whole.writes:
        act = job.start(stage, place, **watching(stage, place, 1 + int(share * whole.writes)))
    else:
        act = job.start(stage, place)
        end = time.monotonic() + share * whole.seconds
        while time.monotonic() < end and not act.is_over():
            time.sleep(0.001)
        act.kill()
    act.wait()
    assert not act.orphans_after(20), "processes outlived the command that started them"
    return act


def kill_again_and_again(job: Job, stage: Stage, inputs: Path, folder: Path, kills: int, seed: int) -> Tally:
    """Kills a job `kills` times, in as many places as it needs, and lets it finish in each."""
    whole, draws, tally = run_whole(job, stage, folder / "whole", inputs), random.Random(seed), Tally()
    shares = [(turn + draws.random()) / kills for turn in range(kills)]
    draws.shuffle(shares)
    while shares:
        place = job.fresh(folder / f"cut-{tally.finished}", inputs)
        put_inputs(job, place)
        for turn in range(min(MAX_KILLS_A_PLACE, len(shares))):
            at_write, share = len(shares) % 2 == 1, shares[-1]
            act = kill_somewhere(job, stage, place, whole, share, at_write)
            assert broken_files(place) == [], f"killed at {share:.0%}"
            if act.wait() != -signal.SIGKILL:  # it had less to do than a whole run, or was faster: try elsewhere
                assert act.wait() == 0 or ALREADY_DONE in act.said(), act.said()
                if turn == 0 and not at_write:
                    whole.seconds *= 0.8  # the machine is less busy than when the whole run was timed
                break
            shares.pop()
            tally.killed += 1
            tally.at.append(f"{share:.0%}{'w' if at_write else 't'}")
        status, said = job.run(stage, place)
        assert status == 0 or ALREADY_DONE in said, said
        tally.finished += 1
        assert differences(result_of(job, place), whole.result) == [], f"killed at {tally.at[-MAX_KILLS_A_PLACE:]}"
        assert half_files(place) == []
        assert tally.finished <= 4 * kills, "too few kills hit"
    return tally


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in KILLS])
def test_killed_at_any_moment_and_started_again_it_ends_the_same(stage, inputs, tmp_path, request, name):
    kills = KILLS[name] if request.config.getoption("--slow") else 4
    started = time.monotonic()
    tally = kill_again_and_again(JOBS[name], stage, inputs, tmp_path, kills, seed=sum(map(ord, name)))
    print(f"{name}: {tally.killed} kills, {tally.finished} times finished the same, {time.monotonic() - started:.0f} s")
    assert tally.killed == kills
