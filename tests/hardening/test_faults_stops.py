"""Asked to stop at any moment, by SIGTERM or SIGUSR1: it ends soon, says so in three lines, and what follows is as if never.

Moments are spread evenly over the true duration of each command: setting up, preparing, extracting, training, writing
checkpoints, validating. `test_signals.py` and `test_loop.py` have the moments that can be named.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from hardening.jobs import JOBS, Job, broken_files, differences, half_files, put_inputs, result_of
from hardening.messages import message_of
from hardening.stage import Act, Stage

pytestmark = pytest.mark.slow

FAST = ("prepare vqa", "extract", "pretrain")
STOPS, FAST_STOPS = 8, 3
SOON_S = 60  # on a machine that does other things too
MAY_BE_DONE = "it holds one already"


def stop_somewhere(job: Job, stage: Stage, place: Path, after_s: float, number: int, everybody: bool) -> Act:
    """Starts a job and asks it (or all its processes, as schedulers do) to stop after some seconds."""
    act, end = job.start(stage, place), time.monotonic() + after_s
    while time.monotonic() < end and not act.is_over():
        time.sleep(0.001)
    for process in act.family() if everybody else ():
        if process != act.process:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)
    act.send(number)
    act.wait(SOON_S)
    return act


def ended_with(job: Job, place: Path) -> dict[str, Any]:
    """Its result; of a training without the checkpoints before the last one: a stop writes one more, so others are kept."""
    result = result_of(job, place)
    return {name: what for name, what in result.items() if "step-" not in name or result["last"] in name}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in JOBS])
def test_it_ends_soon_with_a_message_and_goes_on_as_if_never_stopped(stage, inputs, tmp_path, request, name):
    job, draws = JOBS[name], random.Random(name)
    whole = tmp_path / "whole"
    put_inputs(job, job.fresh(whole, inputs))
    started = time.monotonic()
    assert job.run(stage, whole)[0] == 0
    seconds, wanted, reported = time.monotonic() - started, result_of(job, whole), 0
    stops = STOPS if request.config.getoption("--slow") else FAST_STOPS
    for turn in range(stops):
        place, number = tmp_path / f"stop-{turn}", (signal.SIGTERM, signal.SIGUSR1)[turn % 2]
        put_inputs(job, job.fresh(place, inputs))
        act = stop_somewhere(job, stage, place, seconds * (turn + draws.random()) / stops, number, turn % 4 > 1)
        assert broken_files(place) == [] and act.orphans_after(20) == []
        if act.wait() == -number:  # before its work or after it the system ends the process, in its own way
            is_done = differences(result_of(job, place), wanted) == [] if act.said() else None
            assert is_done is not False, act.said()
        elif act.wait() != 0:
            assert act.wait() == 1, f"{act.wait()}: {act.said()}"
            message = message_of(act.said())
            assert "received a stop signal" in message and "run the same command again" in message
            reported += 1
        assert half_files(place) == []
        status, said = job.run(stage, place)
        assert status == 0 or MAY_BE_DONE in said, said
        assert differences(ended_with(job, place), ended_with(job, whole)) == [], f"asked at {turn}/{stops}"
    print(f"{name}: asked {stops} times, stopped {reported} times")
    assert reported, "of a quick command some moments are before its work or after it"
