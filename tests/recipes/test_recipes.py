"""Every YAML below recipes/ can be used, says how to run it, and names what exists."""

from __future__ import annotations

import itertools
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from cmal.runs.recipe import FinetuneRecipe, PretrainRecipe, load_recipe, recipe_text
from cmal.scenes.detector_training import ScenesDetectorRecipe
from cmal.tasks import TASKS, TaskOptions, build_task

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
SCRIPTS = sorted((ROOT / "recipes").rglob("*.sh"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def kind_of(path: Path) -> type:
    keys = yaml.safe_load(path.read_text(encoding="utf-8")).keys()
    if "task" in keys:
        return FinetuneRecipe
    return PretrainRecipe if "model" in keys else ScenesDetectorRecipe


def test_there_are_recipes_of_every_kind():
    assert {kind_of(path) for path in RECIPES} == {FinetuneRecipe, PretrainRecipe, ScenesDetectorRecipe}


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_a_recipe_is_valid_and_reads_back_equal(path, tmp_path):
    recipe = load_recipe(kind_of(path), path)
    (tmp_path / "again.yaml").write_text(recipe_text(recipe), encoding="utf-8")
    assert load_recipe(kind_of(path), tmp_path / "again.yaml") == recipe


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_a_recipe_opens_with_what_it_is_and_the_line_that_runs_it(path):
    first, *others = path.read_text(encoding="utf-8").splitlines()
    header = list(itertools.takewhile(lambda line: line.startswith("#"), others))
    commands = [line for line in header if re.match(r"#\s+(cmal|bash|python) ", line)]
    assert first.startswith("# ") and commands
    if kind_of(path) is not ScenesDetectorRecipe:
        assert any(name_of(path) in line for line in commands)


@pytest.mark.parametrize("path", [p for p in RECIPES if kind_of(p) is FinetuneRecipe], ids=name_of)
def test_a_finetuning_recipe_names_a_task_and_the_run_that_eval_looks_for(path):
    recipe = load_recipe(FinetuneRecipe, path)
    assert recipe.task in TASKS and recipe.out == f"runs/{recipe.task}"
    assert path.stem == recipe.task.replace("-", "_").replace("+", "_plus")
    assert build_task(recipe.task, TaskOptions(labels=("yes",))).name == recipe.task


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_a_script_is_sound_bash_that_stops_at_the_first_error(path):
    assert subprocess.run(["bash", "-n", str(path)], capture_output=True).returncode == 0
    text = path.read_text(encoding="utf-8")
    for common in re.findall(r'^\. "\$\(dirname "\$0"\)/(reproduction\.sh)"', text, re.MULTILINE):
        text += (path.parent / common).read_text(encoding="utf-8")
    assert "set -euo pipefail" in text or "Sourced by" in text


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_a_script_names_files_that_are_there(path):
    named = re.findall(r"\brecipes/[\w/.-]+\.(?:yaml|py|sh)\b", path.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).is_file()] == []
