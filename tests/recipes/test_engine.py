"""The engine, run as people run it: killed and resumed, with one process or two, sharded, and stopped by a signal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

pytestmark = pytest.mark.slow  # a minute or two: thirty starts of the program
ROOT = Path(__file__).resolve().parents[2]
STEPS, EVERY = 24, 4
BASE = ("model.dropout=0.1", f"train.steps={STEPS}", f"train.save_every={EVERY}", "train.report_every=1")


def command(out: str, *extra: str, options: tuple[str, ...] = ()) -> list[str]:
    sets = [word for value in (*BASE, f"out={out}", *extra) for word in ("--set", value)]
    return [
        str(Path(sys.executable).with_name("cmal")),
        "pretrain",
        "pretrain.yaml",
        "--device",
        "cpu",
        *options,
        *sets,
    ]


def start(world: Path, out: str, *extra: str, options: tuple[str, ...] = (), **environment: str) -> subprocess.Popen:
    variables = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    return subprocess.Popen(
        command(out, *extra, options=options), cwd=world, env=variables, stdout=-1, stderr=subprocess.STDOUT, text=True
    )


def run(world: Path, out: str, *extra: str, options: tuple[str, ...] = (), **environment: str) -> str:
    process = start(world, out, *extra, options=options, **environment)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def rows(run_folder: Path) -> list[dict]:
    return [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]


def losses(run_folder: Path) -> list[float]:
    return [row["losses"]["loss"] for row in rows(run_folder) if "losses" in row]


def wait_for_step(run_folder: Path, step: int) -> None:
    """Returns when the run has reported a step."""
    for _ in range(1200):
        if (run_folder / "metrics.jsonl").is_file() and any(row["step"] >= step for row in rows(run_folder)):
            return
        time.sleep(0.05)
    raise AssertionError(f"step {step} was never reached")


def same_bits(one: Path, other: Path) -> bool:
    a, b = load_file(one / "last/model.safetensors"), load_file(other / "last/model.safetensors")
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


@pytest.fixture(scope="module")
def never_stopped(toy_world: Path) -> Path:
    run(toy_world, "runs/unstopped")
    return toy_world / "runs/unstopped"


def test_killed_and_resumed_ends_with_the_very_same_bits(toy_world, never_stopped):
    for step in (2, 9, 17):
        process = start(toy_world, "runs/killed", "train.steps=24")
        wait_for_step(toy_world / "runs/killed", step)
        process.kill()
        process.wait()
    assert "resumed from step" in run(toy_world, "runs/killed")
    assert losses(toy_world / "runs/killed") == losses(never_stopped) and len(losses(never_stopped)) == STEPS
    assert same_bits(toy_world / "runs/killed", never_stopped)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_stop_signal_writes_a_checkpoint_and_says_how_to_resume(toy_world, never_stopped, number):
    out = f"runs/stopped-{int(number)}"
    process = start(toy_world, out, "train.save_every=1000")
    wait_for_step(toy_world / out, 3)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "a checkpoint is written" in said and "run the same command again" in said
    run(toy_world, out, "train.save_every=1000")
    assert same_bits(toy_world / out, never_stopped)


def test_two_processes_learn_what_one_does_and_a_run_may_change_between_them(toy_world, never_stopped):
    two = ("--cpu-procs", "2")
    run(toy_world, "runs/two", options=two)
    assert losses(toy_world / "runs/two") == pytest.approx(losses(never_stopped), rel=1e-5)
    process = start(toy_world, "runs/elastic", options=two)
    wait_for_step(toy_world / "runs/elastic", 10)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    run(toy_world, "runs/elastic")
    assert losses(toy_world / "runs/elastic") == pytest.approx(losses(never_stopped), rel=1e-5)


def test_shards_learn_what_copies_do(toy_world, never_stopped):
    run(toy_world, "runs/fsdp", "train.strategy=fsdp", options=("--cpu-procs", "2"))
    assert losses(toy_world / "runs/fsdp") == pytest.approx(losses(never_stopped), rel=1e-4)


def test_recomputed_activations_change_no_loss(toy_world, never_stopped):
    run(toy_world, "runs/recomputed", "train.checkpoint_activations=true")
    assert losses(toy_world / "runs/recomputed") == pytest.approx(losses(never_stopped), rel=1e-5)


def test_a_lost_process_is_named_and_nothing_hangs(toy_world):
    process = start(
        toy_world, "runs/lost", "train.steps=100000", "train.save_every=100000", options=("--cpu-procs", "2")
    )
    wait_for_step(toy_world / "runs/lost", 3)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(max(map(int, children)), signal.SIGKILL)  # the last that was started
    said, _ = process.communicate(timeout=90)
    assert process.returncode == 1 and "process 1 of 2 ended early" in said and "SIGKILL" in said


def test_under_slurm_two_tasks_join(toy_world, never_stopped):
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29617", "SLURM_NTASKS": "2"}
    tasks = [start(toy_world, "runs/slurm", SLURM_PROCID=str(n), SLURM_LOCALID=str(n), **rendezvous) for n in (0, 1)]
    for task in tasks:
        said, _ = task.communicate(timeout=120)
        assert task.returncode == 0, said
    assert losses(toy_world / "runs/slurm") == pytest.approx(losses(never_stopped), rel=1e-5)


def test_the_best_by_validation_and_the_newest_are_kept(toy_world):
    run(toy_world, "runs/best", "train.validate_every=4", "train.keep_checkpoints=1")
    folder = toy_world / "runs/best"
    values = {row["step"]: row["validation"]["main"] for row in rows(folder) if "validation" in row}
    assert list(values) == [4, 8, 12, 16, 20, 24]
    best = max(values, key=values.get)
    assert (folder / "best").resolve().name == f"step-{best:08d}" and (folder / "last").resolve().name.endswith("24")
    assert {f.name for f in (folder / "checkpoints").iterdir()} == {f"step-{best:08d}", f"step-{STEPS:08d}"}


def test_a_dry_run_leaves_nothing_and_says_what_it_found(toy_world):
    said = run(toy_world, "runs/dry", options=("--dry-run",))
    assert not (toy_world / "runs/dry").exists() and not list((toy_world / "runs").glob(".cmal-dry*"))
    assert "24 of 16 examples" in said and "FLOPs a step" in said and "peak memory" in said


def test_torch_compile_changes_no_loss(toy_world):
    plain = ("model.dropout=0", "train.steps=4")
    run(toy_world, "runs/plain", *plain)
    run(toy_world, "runs/compiled", *plain, "train.compile=true")
    assert losses(toy_world / "runs/compiled") == pytest.approx(losses(toy_world / "runs/plain"), rel=1e-4)
