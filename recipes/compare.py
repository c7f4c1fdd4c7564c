"""Measures the runs of `compare_plan.py` with the ordinary commands and keeps all results in one JSON file.

Each run is one process with one thread, and as many processes run at once as there are cores. A finished run is never
repeated, and a stopped one resumes from its last checkpoint: start the comparison again after any stop.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from compare_plan import TASKS, WITHOUT, Run, full_plan, grid_plan, plan_of_all, quick_plan
from compare_report import write_report

from cmal.runs.results import EvaluationResult, read_result

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "recipes" / "results"
WORK = Path("runs/compare")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    plans = parser.add_mutually_exclusive_group()
    for flag, plan, what in (
        ("--all", plan_of_all, "also longer pre-training, tuning and other fine-tuning"),
        ("--grid", grid_plan, "variants, shares and seeds, without ablations"),
        ("--quick", quick_plan, "one seed, two shares, a sixth of the steps"),
    ):
        plans.add_argument(flag, dest="plan", action="store_const", const=plan, default=full_plan, help=what)
    plans.add_argument("--report", action="store_true", help="write the report from existing results, measure nothing")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at the same time")
    parser.add_argument("--results", type=Path, help="folder of results and report; runs in it are not repeated")
    options = parser.parse_args()
    results = (options.results or (WORK / "quick" if options.plan is quick_plan else RESULTS)) / "compare.json"
    if options.report and not results.is_file():
        parser.error(f"{results} does not exist: measure first, without --report")
    if not options.report:
        prepare_data()
        run_all(options.plan(), results, options.jobs)
    print(write_report(results, results.parent))


def prepare_data() -> None:
    """Draws the world and extracts its two region stores, unless they exist."""
    if not Path("data/scenes/manifest.json").is_file():
        cmal("prepare", "scenes")
    cmal("extract-regions", "data/scenes/images", "--out", "data/scenes/regions", "--detector", "scenes")
    boxes = ("--detector", "boxes:data/scenes/official/instances.json", "--features", "scenes")
    cmal("extract-regions", "data/scenes/images", "--out", "data/scenes/regions-gt", *boxes)


def run_all(plan: list[Run], results: Path, jobs: int) -> None:
    """Measures every run without a result; writes each result as soon as it is known."""
    rows = read_rows(results)
    waiting = [run for run in plan if not any(is_of(row, run) for row in rows)]
    print(f"{len(plan) - len(waiting)} of {len(plan)} runs have results already")
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=one_thread) as pool:
        futures = [pool.submit(measure, run) for run in waiting]
        for done, future in enumerate(as_completed(futures), start=1):
            rows = [*rows, future.result()]
            write_rows(results, rows)
            print(f"{done}/{len(waiting)} {json.dumps(rows[-1])}", flush=True)


def read_rows(results: Path) -> list[dict[str, Any]]:
    return json.loads(results.read_text())["runs"] if results.is_file() else []


def write_rows(results: Path, rows: list[dict[str, Any]]) -> None:
    """One run per line in a fixed order, so that a diff of the file shows the added runs."""
    lines = sorted(json.dumps(row, sort_keys=True) for row in rows)
    results.parent.mkdir(parents=True, exist_ok=True)
    temporary = results.with_suffix(".tmp")
    temporary.write_text('{"runs": [\n' + ",\n".join(lines) + "\n]}\n")
    os.replace(temporary, results)


def is_of(row: dict[str, Any], run: Run) -> bool:
    needed_scores = {f"scenes-{task}" for task in run.budget.tasks}
    return needed_scores <= row["scores"].keys() and all(row[name] == value for name, value in identity(run).items())


def identity(run: Run) -> dict[str, Any]:
    """The entries of a row that tell its run from all others."""
    budget = run.budget
    config = {"variant": run.variant, "share": run.share, "seed": run.seed, "steps": budget.pretrain_steps}
    return config | {"fine_tuning_steps": budget.full_steps, "fine_tuning_rate": budget.full_rate}


def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def cmal(*arguments: str) -> None:
    """Runs one command in this process: torch is imported once per run, not once per command."""
    from cmal_cli.app import main as command

    command.main(list(arguments), standalone_mode=False)


def measure(run: Run) -> dict[str, Any]:
    """The row of one run: pre-training, the association probe, and each task fine-tuned on few and on all records."""
    folder, started = WORK / run.name, time.monotonic()
    steps = 1 if run.variant == WITHOUT else run.budget.pretrain_steps  # one step, for sizes and word pieces
    settings = [f"out={folder}/pretrain", f"data.pairs_share={run.share}", f"train.seed={run.seed}", *run.overrides]
    settings += [f"train.steps={steps}", "train.keep_checkpoints=1"]
    cmal("pretrain", "recipes/scenes.yaml", "--quiet", *with_set(settings))
    row = identity(run)
    for name, count, tuning_steps in (
        ("scores", 0, run.budget.full_steps),
        ("few_shot", run.budget.few_records, run.budget.few_steps),
    ):
        if tuning_steps == 0:
            continue
        results = {f"scenes-{task}": score(run, folder, task, count, tuning_steps) for task in run.budget.tasks}
        row[name] = {task: mean(one.metrics[one.main].value for one in splits) for task, splits in results.items()}
        row["chance"] = {task: mean(one.chance for one in splits) for task, splits in results.items()}
    if run.variant != WITHOUT and "objectives.amc=0" not in run.overrides:
        row["association"] = probe(folder)
    shutil.rmtree(folder)
    return row | {"minutes": round((time.monotonic() - started) / 60, 2)}


def mean(values: Iterable[float]) -> float:
    return round(statistics.fmean(values), 5)


def score(run: Run, folder: Path, task: str, records: int, steps: int) -> list[EvaluationResult]:
    """Results on each split of a task after fine-tuning on `records` records (0 = all)."""
    out, init = folder / f"{task}-{records}", "random" if run.variant == WITHOUT else "pretrained"
    settings = [f"out={out}", f"init={init}", f"init_from={folder}/pretrain/last", f"train.seed={run.seed}"]
    settings += [f"data.max_records={records}", f"train.steps={steps}", f"optimizer.warmup_steps={steps // 10}"]
    settings += [f"optimizer.lr={run.budget.full_rate}"]
    cmal("finetune", f"recipes/finetune/scenes_{task}.yaml", "--quiet", *with_set(settings))
    results = []
    for split in TASKS[task]:
        result = out.with_name(f"{out.name}-{split}.json")
        cmal("eval", f"scenes-{task}", "--split", split, "--checkpoint", str(out), "--json", str(result), "--quiet")
        results.append(read_result(result))
    return results


def probe(folder: Path) -> dict[str, Any]:
    """Association accuracy at swapped anchors of the test images and its controls, with the partner hidden and visible."""
    result = folder / "anchors.json"
    data = ("--records", "data/scenes/test.jsonl", "--regions", "data/scenes/regions")
    cmal("probe-anchors", *data, "--checkpoint", f"{folder}/pretrain", "--json", str(result), "--quiet")
    found = json.loads(result.read_text())["association"]["all"]
    found_rates = {"swapped": {way: found[f"association_{way}"] for way in ("t2v", "v2t")}} | found["controls"]
    found_rates |= {f"{name}_in_sight": ways for name, ways in found["partner_in_sight"].items()}
    return {name: {way: round(value, 5) for way, value in ways.items()} for name, ways in found_rates.items()}


def with_set(settings: list[str]) -> list[str]:
    return [word for setting in settings for word in ("--set", setting)]


if __name__ == "__main__":
    main()
