"""A process that others need is gone: each ends soon, says which one it was, and the work can be taken up again."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest
from hardening.jobs import JOBS, TRAINING, Job, half_files, put_inputs, training
from hardening.messages import message_of
from hardening.stage import Act, Stage

pytestmark = pytest.mark.slow

SOON_S = 90
LONG = "train.steps=100000"


def wait_until(is_so, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "it did not come to work"
        time.sleep(0.02)


def steps_done(place: Path) -> int:
    file = place / "out/run/metrics.jsonl"
    lines = file.read_text().splitlines() if file.is_file() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


def start_long(stage: Stage, place: Path, job: Job, *more: str, **how) -> Act:
    """A training that would go on for hours, at its second step or so."""
    act = stage.start((*job.arguments, "--set", LONG, *more), place, **how)
    wait_until(lambda: steps_done(place) >= 2 or act.is_over())
    assert not act.is_over(), act.said()
    return act


def test_a_loader_worker_that_is_killed_ends_the_run_with_a_message(stage, inputs, tmp_path):
    job = JOBS["pretrain, two loaders"]
    place = job.fresh(tmp_path / "place", inputs)
    act = start_long(stage, place, job)
    wait_until(lambda: (place / "out/run/last").exists() or act.is_over())
    os.kill(next(p for p in act.family() if p != act.process), signal.SIGKILL)
    assert act.wait(SOON_S) == 1, act.said()
    assert "a worker process ended early" in message_of(act.said())
    assert act.orphans_after(20) == []
    assert steps_done(place) >= 2 and (place / "out/run/last").exists()


def test_workers_end_when_their_run_is_killed(stage, inputs, tmp_path):
    job = JOBS["pretrain, two loaders"]
    act = start_long(stage, job.fresh(tmp_path / "place", inputs), job)
    assert len(act.family()) > 1
    act.kill()
    act.wait(SOON_S)
    assert act.orphans_after(30) == []


@pytest.mark.parametrize("victim", ["a worker", "the command"])
def test_a_process_that_draws_scenes_is_killed(stage, inputs, tmp_path, victim):
    """A pool of the standard library waits for ever for a worker that was killed; ours tells of it."""
    job = JOBS["prepare scenes, two workers"]
    place = job.fresh(tmp_path / "place", inputs)
    act = stage.start([*job.arguments, "--images", 4000], place)
    wait_until(lambda: list((place / "out").rglob("*.jpg")) or act.is_over())
    workers = [p for p in act.family() if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]
    assert len(workers) == 2
    os.kill(workers[0] if victim == "a worker" else act.process, signal.SIGKILL)
    assert act.wait(SOON_S) == (1 if victim == "a worker" else -signal.SIGKILL), act.said()
    if victim == "a worker":
        assert "a worker process ended early" in message_of(act.said())
        assert half_files(place) == []
    assert act.orphans_after(20) == []


@pytest.mark.parametrize(
    "megabytes", [8, pytest.param(40, marks=pytest.mark.slow), pytest.param(120, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", ["pretrain", "extract", pytest.param("import tsv", marks=pytest.mark.slow)])
def test_too_little_memory_is_told(stage, inputs, tmp_path, name, megabytes):
    """It may have only some megabytes more than the program takes; where that is enough it ends well.

    Torch's own threads crash where they are refused memory, before anybody can tell of it: nothing half may be left then.
    """
    job = JOBS[name]
    place = job.fresh(tmp_path / "place", inputs)
    put_inputs(job, place)
    status, said = job.run(stage, place, memory=megabytes << 20)
    assert half_files(place) == []
    if name == "pretrain" and status in (-signal.SIGSEGV, -signal.SIGABRT):
        return
    assert status in (0, 1), f"{status}: {said}"
    if status:
        message = message_of(said)
        assert "memory" in message or "Cannot allocate" in message, message


def free_port() -> str:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return str(made.getsockname()[1])


def start_two(stage: Stage, inputs: Path, folder: Path, **patches) -> tuple[Path, list[Act]]:
    """Two processes of one training, as torchrun or SLURM start them, at work."""
    job = training("pretrain", "pretrain.yaml")
    place, port = job.fresh(folder, inputs), free_port()
    place_of = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    acts = [
        stage.start(
            (*job.arguments, "--set", LONG),
            place,
            env=place_of | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            patches=patches,
        )
        for rank in (0, 1)
    ]
    wait_until(lambda: steps_done(place) >= 2 or any(act.is_over() for act in acts))
    assert not any(act.is_over() for act in acts), [act.said() for act in acts]
    return place, acts


@pytest.mark.parametrize("lost", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_one_of_two_processes_is_killed_and_the_other_names_it(stage, inputs, tmp_path, lost):
    _place, acts = start_two(stage, inputs, tmp_path / "place")
    acts[lost].kill()
    other = acts[1 - lost]
    assert other.wait(SOON_S) == 1, other.said()
    assert f"process {1 - lost} of 2 cannot continue: it has lost process {lost}" in message_of(other.said())


@pytest.mark.slow
def test_one_of_two_processes_stands_still_and_the_other_ends_within_the_time_out(stage, inputs, tmp_path):
    _place, acts = start_two(stage, inputs, tmp_path / "place", **{"cmal.training.distributed:TIMEOUT_S": 10})
    acts[1].send(signal.SIGSTOP)
    try:
        assert acts[0].wait(SOON_S) == 1, acts[0].said()
        assert "process 0 of 2 cannot continue: it has lost process 1" in message_of(acts[0].said())
    finally:
        acts[1].kill()
        acts[1].wait(SOON_S)


@pytest.mark.slow
def test_the_starter_of_two_processes_is_asked_to_stop(stage, inputs, tmp_path):
    """`--cpu-procs 2`: both write their checkpoint, the starter tells once, and nobody is left."""
    job = training("pretrain", "pretrain.yaml")
    place = job.fresh(tmp_path / "place", inputs)
    act = start_long(stage, place, Job(tuple(w for w in job.arguments if w not in TRAINING[:2])), "--cpu-procs", "2")
    act.send(signal.SIGTERM)
    assert act.wait(SOON_S) == 1, act.said()
    assert "stopped with its 2 processes" in act.said() and "Traceback" not in act.said()
    assert act.orphans_after(30) == [] and half_files(place) == []
