"""The quickstart script itself, from end to end on twelve scenes and two steps: its order, its files, its table."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cmal.runs.results import EvaluationResult, Metric

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """#!/usr/bin/env bash
case "$1" in
  prepare) set -- "$@" --images 12 ;;
  pretrain|finetune) set -- "$@" --device cpu --set train.steps=2 --set train.batch_size=8 --set train.micro_batch_size=8 ;;
esac
exec {python} -c "from cmal_cli.app import main; main()" "$@"
"""
TASKS = ("rec", "vqa", "ve", "retrieval")


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A folder with the recipes, and an environment that is installed already and whose cmal is quick."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    (programs / "activate").write_text(f'export PATH="{programs}:$PATH"\n')
    (programs / "cmal").write_text(PROGRAM.format(python=sys.executable))
    (programs / "python").write_text(f'#!/usr/bin/env bash\nexec {sys.executable} "$@"\n')
    for name in ("cmal", "python"):
        (programs / name).chmod(0o755)
    # as `$(cat pyproject.toml; echo EXTRAS)` has it: no empty lines at the end
    (tmp_path / ".venv" / ".cmal-installed").write_text((ROOT / "pyproject.toml").read_text().rstrip("\n") + "\n")
    return tmp_path


@pytest.mark.slow
def test_the_quickstart_from_end_to_end(checkout):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("CMAL_VENV", None)
    command = ["bash", "recipes/quickstart.sh"]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "installing" not in done.stdout
    summary = json.loads((checkout / "runs/quickstart.json").read_text())
    assert set(summary["tasks"]) == {f"scenes-{task}" for task in TASKS} and summary["minutes"] > 0
    for task in TASKS:
        assert f"scenes-{task}" in done.stdout
        for init in ("random", "pretrained"):
            assert (checkout / f"runs/quickstart/{task}-{init}.json").is_file()
            assert (checkout / f"runs/quickstart/{task}-{init}/report.html").is_file()
    assert (checkout / "runs/quickstart/anchors.html").is_file()


def test_the_table_holds_the_scores_with_and_without_pretraining(tmp_path):
    for init, value in (("pretrained", 0.75), ("random", 0.4)):
        for task in TASKS:
            result = EvaluationResult(
                task=f"scenes-{task}",
                split="test",
                main="accuracy",
                metrics={"accuracy": Metric(value, value - 0.1, value + 0.1)},
                counts={"examples": 8},
                protocol="accuracy",
                proposal_set="none",
                checkpoint="runs/x",
                checkpoint_sha256="0" * 64,
                recipe_sha256="0" * 64,
                leakage="none",
                chance=0.25,
            )
            result.write_result(tmp_path / f"{task}-{init}.json")
    keys = ("coverage", "precision", "recall", "association_t2v", "association_v2t")
    (tmp_path / "anchors.json").write_text(json.dumps(dict.fromkeys(keys, 0.5)))
    program = [
        sys.executable,
        str(ROOT / "recipes/quickstart_table.py"),
        str(tmp_path),
        str(tmp_path / "all.json"),
        "90",
    ]
    done = subprocess.run(program, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "all.json").read_text())
    row = {"metric": "accuracy", "split": "test", "chance": 0.25, "scratch": 0.4, "cmal": 0.75}
    assert summary["tasks"] == {f"scenes-{task}": row for task in TASKS}
    assert summary["anchors"] == dict.fromkeys(keys, 0.5) and summary["minutes"] == 1.5
    assert all(f"{100 * value:.1f}" in done.stdout for value in (0.25, 0.4, 0.75))
