"""The reproduction scripts, by --dry-run: every command that they would run is one that the program takes."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import click
import pytest

from cmal.runs.recipe import FinetuneRecipe, PretrainRecipe, load_recipe
from cmal.tasks import TASKS
from cmal_cli.app import main

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "recipes"
SCRIPTS = sorted(path.name for path in RECIPES.glob("reproduce_*.sh"))


def dry_run(script: str, raw: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"RAW": str(raw), "GPUS": "8", "CMAL_VENV": "/nowhere/at/all"}
    command = ["bash", str(RECIPES / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=raw)


def commands(script: str, raw: Path) -> list[list[str]]:
    """The `cmal` commands a dry run prints."""
    done = dry_run(script, raw, "--dry-run")
    assert done.returncode == 0, done.stderr
    lines = [shlex.split(line[1:]) for line in done.stdout.splitlines() if line.startswith("+ ")]
    assert all(line[0] == "cmal" for line in lines)
    return [line[1:] for line in lines]


def test_there_is_a_script_for_each():
    names = ("pretrain", "vqa", "snli_ve", "refcoco", "retrieval")
    assert set(SCRIPTS) == {f"reproduce_{name}.sh" for name in names}


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_command_is_one_that_the_program_takes(script, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = commands(script, tmp_path)
    assert {"prepare", "extract-regions"} <= {name for name, *_ in found}
    for name, *arguments in found:
        command = main.get_command(click.Context(main), name)
        options = command.make_context(name, arguments).params  # parses, and checks that recipes exist
        if name in ("pretrain", "finetune"):
            kind = PretrainRecipe if name == "pretrain" else FinetuneRecipe
            load_recipe(kind, options["recipe"], options["overrides"])
            assert options["gpus"] == 8
        if name == "eval":
            assert options["task"] in TASKS


@pytest.mark.parametrize("script", SCRIPTS)
def test_evaluations_follow_a_training_of_their_task(script, tmp_path):
    trained = set()
    for name, *arguments in commands(script, tmp_path):
        if name == "finetune":
            trained.add(load_recipe(FinetuneRecipe, ROOT / arguments[0]).task)
        if name == "eval" and "--zero-shot" not in arguments:
            assert arguments[0] in trained


@pytest.mark.parametrize("script", SCRIPTS)
def test_missing_downloads_are_all_named_and_nothing_is_run(script, tmp_path):
    reported = dry_run(script, tmp_path, "--dry-run").stderr
    done = dry_run(script, tmp_path)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith(reported) and reported.count("missing: ") >= 4
    assert f"{reported.count('missing: ')} raw files are missing" in done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_says_what_it_costs_and_expects(script):
    head = (RECIPES / script).read_text(encoding="utf-8").split("\n. ")[0]
    assert all(word in head for word in ("Disk", "Hours", "Score", "--dry-run"))


def test_evaluation_sets_that_are_there_are_prepared_before_the_pretraining_records(tmp_path):
    (tmp_path / "refer" / "refcoco").mkdir(parents=True)
    prepared = [arguments[0] for name, *arguments in commands("reproduce_pretrain.sh", tmp_path) if name == "prepare"]
    assert prepared == ["refcoco", "coco-captions", "vg-captions"]


def test_other_arguments_are_refused(tmp_path):
    done = dry_run("reproduce_vqa.sh", tmp_path, "--dryrun")
    assert done.returncode == 2 and "usage: " in done.stderr


def test_the_batch_script_starts_one_launcher_a_node(tmp_path):
    """Run with stand-ins for SLURM's programs, it starts the command with every node's place."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "activate").write_text("")
    stand_ins = {
        "scontrol": "printf 'node7\\nnode8\\n'",
        "srun": 'for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@"; done',
        "torchrun": 'echo "$@"',
    }
    for name, text in stand_ins.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    slurm = {
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_GPUS_ON_NODE": "4",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_ID": "5",
    }
    slurm |= {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "CMAL_VENV": str(tmp_path / "venv"),
        "SLURM_SUBMIT_DIR": str(ROOT),
    }
    command = ["bash", str(RECIPES / "slurm_pretrain.sbatch"), "recipes/small.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | slurm, check=True)
    common = (
        "--nnodes 2 --node-rank {} --nproc-per-node 4 --rdzv-backend c10d --rdzv-id 5 --rdzv-endpoint node7:29500 "
        "--no-python cmal pretrain recipes/small.yaml"
    )
    assert done.stdout.splitlines() == [common.format(0), common.format(1)]
