"""Is it true what `--dry-run` says? `python -m tests.bench.dry_run --json FILE`.

By turns a dry run and the run itself, each in a process of its own: `recipes/scenes.yaml` on a drawn world and
`recipes/small.yaml` (batch 32, fresh weights) on the generated world of `tests/bench/loader.py`, both cut to some steps.

    hours_scenes, hours_small     estimated over real time of the whole run, median over turns
    work_scenes, work_small       the same with each side's wall time counted only as far as its process had a core, for a
                                  machine that is busy with other things
    memory_scenes, memory_small   estimated over real peak resident memory
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from cmal.datasets.prepare import prepare_dataset
from cmal.regions.detectors import build_detector
from cmal.regions.extract import extract_regions
from cmal.regions.image_lists import images_of_folder
from cmal.runs.dry_run import Estimate, estimate_training
from cmal.runs.pretrain import run_pretraining
from cmal.runs.recipe import PretrainRecipe, load_recipe
from tests.bench.loader import recipe_for, write_world
from tests.bench.timing import machine, options_of, seconds_of, write_figures

ROOT = Path(__file__).resolve().parents[2]


def scenes_recipe(folder: Path) -> PretrainRecipe:
    """`scenes` on a world of 200 training images, drawn here, with its regions found."""
    scenes = folder / "data/scenes"
    if not scenes.exists():
        prepare_dataset("scenes", None, folder / "data", images=200, seed=0, workers=1)
        images = scenes / "images"
        extract_regions(list(images_of_folder(images)), build_detector("scenes"), scenes / "regions", root=images)
    places = (f"out={folder}/run-scenes", f"data.records=[{scenes}/train.jsonl]", f"data.regions={scenes}/regions")
    changed = (*places, f"data.validation={scenes}/val.jsonl", "train.steps=150")
    return load_recipe(PretrainRecipe, ROOT / "recipes/scenes.yaml", changed)


def small_recipe(folder: Path) -> PretrainRecipe:
    """`small` on a generated world."""
    if not (folder / "train.jsonl").exists():
        write_world(folder)
    recipe = recipe_for(folder)
    return replace(recipe, out=f"{folder}/run-small", train=replace(recipe.train, steps=15, report_every=5))


RECIPES = {"scenes": scenes_recipe, "small": small_recipe}


def child(what: str, name: str, folder: Path) -> dict[str, float]:
    """In a process of its own: a dry run's estimate, or what the run took."""
    recipe = RECIPES[name](folder)
    began = time.process_time()
    if what == "estimate":
        estimated: list[Estimate] = []
        wall = seconds_of(lambda: estimated.append(estimate_training(recipe, "fresh", "cpu")[0]))
        seconds, most = estimated[0].total_s, estimated[0].peak_memory_bytes
    else:
        wall = seconds = seconds_of(lambda: run_pretraining(recipe, lambda step: None, "fresh", "cpu"))
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "share_of_core": (time.process_time() - began) / wall, "bytes": most}


def in_its_own_process(what: str, name: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.dry_run", "--child", what, name, str(folder)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])


def compare(folder: Path, repeats: int, names: list[str]) -> dict[str, object]:
    """Turns of estimate and run."""
    found: dict[str, object] = {}
    for name in names:
        RECIPES[name](folder)
        turns = []
        for turn in range(repeats):
            turns.append([in_its_own_process(what, name, folder) for what in ("estimate", "run")])
            print(f"{name}, turn {turn + 1}: {turns[-1]}", file=sys.stderr, flush=True)
        hours = np.array([estimate["seconds"] / run["seconds"] for estimate, run in turns])
        memory = np.array([estimate["bytes"] / run["bytes"] for estimate, run in turns])
        shares = np.array([estimate["share_of_core"] / run["share_of_core"] for estimate, run in turns])
        found[f"work_{name}"] = round(float(np.median(hours * shares)), 3)
        found[f"hours_{name}"] = round(float(np.median(hours)), 3)
        found[f"hours_{name}_all"] = np.sort(hours).round(3).tolist()
        found[f"memory_{name}"] = round(float(np.median(memory)), 3)
        found[f"seconds_{name}"] = [round(run["seconds"], 1) for _, run in turns]
    return found


def main() -> None:
    parser = options_of(__doc__, repeats=3)
    parser.add_argument("--only", choices=list(RECIPES))
    parser.add_argument("--child", nargs=3)
    options = parser.parse_args()
    if options.child:
        what, name, folder = options.child
        print(json.dumps(child(what, name, Path(folder))))
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = compare(Path(folder), options.repeats, [options.only] if options.only else list(RECIPES))
    write_figures(machine() | figures, options.json)


if __name__ == "__main__":
    main()
