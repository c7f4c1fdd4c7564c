"""A checkpoint, a run folder and a recipe of an earlier version are still usable: see tests/assets/README.md.

They have the old key names (`train.group_size`, `prompt.mask_twins`, ...), `model.json` instead of `config.json`, and the
old names of parameters.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from cmal.runs.folder import read_metrics
from cmal.runs.recipe.schema import OLD_KEYS

BEFORE = Path(__file__).resolve().parents[1] / "assets" / "before_rebuild"
TOLERANCE = 2e-3  # relative; libraries round differently


@pytest.fixture
def old_run(toy_world: Path) -> Path:
    """The run folder runs/old in the toy world, stopped at step 3 of 6, without its metrics."""
    run = toy_world / "runs/old"
    shutil.copytree(BEFORE / "run", run, dirs_exist_ok=True)
    (run / "metrics.jsonl").unlink()
    yield run
    shutil.rmtree(run)


def losses_from(rows: list[dict], step: int) -> list[dict[str, float]]:
    return [row["losses"] for row in rows if "losses" in row and row["step"] > step]


def test_an_old_run_resumes_and_gives_the_losses_of_before(cmal, old_run):
    shutil.copy(BEFORE / "recipe.yaml", "old.yaml")
    result = cmal("pretrain", "old.yaml", "--resume", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "step 3" in result.output
    for old, new in OLD_KEYS.items():
        assert result.output.count(f'"{old}" is now "{new}"') == 1
    now, before = (read_metrics(f / "metrics.jsonl") for f in (old_run, BEFORE / "run"))
    assert len(losses_from(now, 3)) == 3
    for found, known in zip(losses_from(now, 3), losses_from(before, 3)):
        assert found == pytest.approx(known, rel=TOLERANCE, abs=1e-4)
    assert now[-1]["validation"] == pytest.approx(before[-1]["validation"], rel=TOLERANCE, abs=1e-4)


def test_an_old_recipe_starts_a_new_run_with_the_losses_of_before(cmal, tmp_path):
    shutil.copy(BEFORE / "recipe.yaml", "old.yaml")
    result = cmal("pretrain", "old.yaml", "--device", "cpu", "--quiet", "--set", f"out={tmp_path}/new")
    assert (result.exit_code, result.output) == (0, ""), "quiet is quiet"
    now, before = (losses_from(read_metrics(f / "metrics.jsonl"), 0) for f in (tmp_path / "new", BEFORE / "run"))
    assert len(now) == 6
    for found, known in zip(now, before):
        assert found == pytest.approx(known, rel=TOLERANCE, abs=1e-4)


def test_an_old_checkpoint_is_fine_tuned(cmal, old_run, tmp_path):
    changes = [f"out={tmp_path}/task", f"init_from={os.path.relpath(old_run)}/checkpoints/step-00000003"]
    sets = [word for change in changes for word in ("--set", change)]
    result = cmal("finetune", "finetune.yaml", "--device", "cpu", "--quiet", *sets)
    assert result.exit_code == 0, result.output
