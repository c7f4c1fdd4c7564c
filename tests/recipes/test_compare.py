"""The comparison's plan and report: what is run, and that each number of the report follows from the results."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def recipes_in_path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    yield
    for name in ("compare", "compare_plan", "compare_report"):
        sys.modules.pop(name, None)


def row(variant: str, seed: int, mean: float, share: float = 1.0) -> dict:
    """A run whose four tasks score mean - .03, - .01, + .01, + .03."""
    tasks = ("scenes-rec", "scenes-ve", "scenes-vqa", "scenes-retrieval")
    scores = dict(zip(tasks, (mean - 0.03, mean - 0.01, mean + 0.01, mean + 0.03)))
    few = {task: score / 2 for task, score in scores.items()}
    config = {
        "variant": variant,
        "share": share,
        "seed": seed,
        "steps": 700,
        "fine_tuning_steps": 150,
        "fine_tuning_rate": 1e-3,
    }
    return config | {"scores": scores, "few_shot": few, "chance": dict.fromkeys(tasks, 0.1)}


def test_differences_are_paired_by_seed():
    """Differences .1, .1, .1 of means that themselves vary by .4: the interval is of the differences, zero wide."""
    from compare_report import difference, mean_score, of

    rows = [row("cmal", seed, 0.3 + 0.2 * seed) for seed in (0, 1, 2)]
    rows += [row("cmcl", seed, 0.2 + 0.2 * seed) for seed in (2, 0, 1, 5)]  # seed 5 has no partner
    mean, half, seeds = difference(of(rows, "cmal", 1.0), of(rows, "cmcl", 1.0), mean_score)
    assert (mean, half, seeds) == (pytest.approx(0.1), pytest.approx(0.0, abs=1e-9), 3)


def test_the_interval_is_students():
    """Values 1, 2, 3: mean 2, standard error 1/sqrt(3), t of two degrees of freedom 4.303."""
    from compare_report import interval

    assert interval([1.0, 2.0, 3.0]) == (2.0, pytest.approx(4.303 / math.sqrt(3)))
    assert interval([1.0]) == (1.0, None)


def test_the_report_says_what_the_rows_say(tmp_path):
    pytest.importorskip("matplotlib")
    from compare_report import write_report

    rows = [row("cmal", s, 0.50 + 0.01 * s) for s in (0, 1, 2)] + [row("cmcl", s, 0.40 + 0.01 * s) for s in (0, 1, 2)]
    rows += [row("cmal", s, 0.45, share=0.5) for s in (0, 1)]
    results = tmp_path / "compare.json"
    results.write_text(json.dumps({"runs": rows}))
    text = write_report(results, tmp_path)
    assert "- CMAL minus CMCL, all pairs: +10.0 points, 95% interval +10.0 to +10.0 (paired over 3 seeds)." in text
    assert "- CMAL with half of the pairs minus CMCL with all of them: +4.5 points" in text, ".45 - .40 and .45 - .41"
    assert "- CMAL minus mlm+mrm+itm, all pairs: not measured yet." in text
    assert "| cmal | 50% | 42.0 ± 0.0 | 48.0 ± 0.0 | 44.0 ± 0.0 | 46.0 ± 0.0 | 45.0 ± 0.0 | 22.5 ± 0.0 | 2 |" in text
    assert (tmp_path / "compare.md").read_text() == text and (tmp_path / "compare.png").stat().st_size > 5_000


def test_association_is_told_beside_its_nearest_controls_and_chance_beside_who_does_not_exceed_it(tmp_path):
    pytest.importorskip("matplotlib")
    from compare_report import write_report

    def known(swapped: float, hidden: float) -> dict:
        both = {"swapped": swapped, "chance": 0.04, "context_hidden": hidden, "vectors_shuffled": 0.8}
        return {"association": {name: {"t2v": value, "v2t": value - 0.02} for name, value in both.items()}}

    rows = [row("cmal", 0, 0.5) | known(0.9, 0.7), row("cmal", 1, 0.5) | known(0.96, 0.6), row("none", 0, 0.12)]
    rows.append(row("mask, no swap", 0, 0.5) | known(0.5, 0.5))
    rows.append(row("swap always", 0, 0.5) | known(0.89, 0.82))
    rows.append(row("anchor rate 1", 0, 0.5) | {"association": {"swapped_in_sight": {"t2v": 1.0, "v2t": 0.99}}})
    results = tmp_path / "compare.json"
    results.write_text(json.dumps({"runs": rows}))
    text = write_report(results, tmp_path)
    assert "| which region is this word's | 93.0 | 4.0 | 65.0 | 80.0 | - | - | - |" in text
    for reported in (
        "- right minus chance, both directions: +89.0 points, 95% interval +50.9 to +127.1 (paired over 2 seeds).",
        "- right minus context hidden, both directions: +28.0 points, 95% interval -73.6 to +129.6 (paired over 2 seeds).",
        "- right minus vectors shuffled, both directions: +13.0 points, 95% interval -25.1 to +51.1 (paired over 2 seeds).",
    ):
        assert reported in text, "90 - 70 = 20 and 96 - 60 = 36 over context hidden: 28 and 8 * 12.706"
    assert "| mask, no swap | 49.0 | 3.0 | 49.0 | 79.0 | - | - | - |" in text
    assert "| anchor rate 1 | - | - | - | - | 99.5 | - | - |" in text, "not asked with the partner out of sight"
    assert "is *not*" not in text, "13 points are above"
    rows[:2] = [row("cmal", seed, 0.5) | known(0.9, 0.86) for seed in (0, 1)]
    results.write_text(json.dumps({"runs": rows}))
    plainly = (
        "CMAL is *not* 5 points above context hidden; of its 2 other forms below swap always (88.0 against 81.0) is."
    )
    assert plainly in write_report(results, tmp_path)
    between = "scenes-rec: between 9.0 (none, 100%) and 47.0 (cmal, 100%); lowest run 9.0; chance 10.0"
    assert f"{between}, not exceeded by none, 100%." in text
    assert "- scenes-ve: between 11.0 (none, 100%) and 49.0 (cmal, 100%); lowest run 11.0; chance 10.0." in text


def test_longer_fine_tuning_has_a_section_of_its_own_and_changes_no_score_above_it(tmp_path):
    """Seed 0 with 150 and 500 steps: .50 and .80. What its pre-training knows is told once."""
    pytest.importorskip("matplotlib")
    from compare_report import write_report

    def known(swapped: float, **more: float) -> dict:
        both = {"swapped": swapped, "chance": 0.04, "context_hidden": 0.7, "vectors_shuffled": 0.8} | more
        return {"association": {name: {"t2v": value, "v2t": value} for name, value in both.items()}}

    knows = known(0.96, swapped_in_sight=0.99)
    rows = [row("cmal", 0, 0.5) | knows, row("cmcl", 0, 0.4)]
    for variant, mean, more in (("cmal", 0.8, knows), ("cmcl", 0.5, {})):
        longer = row(variant, 0, mean) | more | {"fine_tuning_steps": 500}
        del longer["few_shot"]
        rows.append(longer)
    results = tmp_path / "compare.json"
    results.write_text(json.dumps({"runs": rows[::-1]}))
    above, below = write_report(results, tmp_path).split("## Fine-tuned for 500 steps at a rate of 0.001")
    assert "| cmal | 100% | 47.0 | 53.0 | 49.0 | 51.0 | 50.0 | 25.0 | 1 |" in above
    assert "- CMAL minus CMCL, all pairs: +10.0 points" in above
    assert "| cmal | 96.0 | 4.0 | 70.0 | 80.0 | 99.0 | - | - |" in above, "once a seed"
    assert "| cmal | 100% | 77.0 | 83.0 | 79.0 | 81.0 | 80.0 | 1 |" in below
    assert "- CMAL minus CMCL, all pairs: +30.0 points" in below
    assert "not measured yet" in above and "not measured yet" not in below, "longer fine-tuning is of some claims only"
    assert "- scenes-rec: between 47.0 (cmcl, 100%) and 77.0 (cmal, 100%); lowest run 47.0; chance 10.0." in below


def test_longer_pretraining_has_a_part_of_its_own_and_changes_no_score_above_it(tmp_path, monkeypatch):
    """Seed 0 with 700 and 1,000 steps: .50 and .80, associations .9 and .7. What one of them lacks has no empty section.

    A run that is fine-tuned for longer only tells its association all the same.
    """
    import compare_report

    drawn = []
    monkeypatch.setattr(compare_report, "draw_curve", lambda rows, path: drawn.append(rows))

    def known(swapped: float) -> dict:
        return {"association": {name: {"t2v": swapped, "v2t": swapped} for name in ("swapped", "chance")}}

    rows = [row("cmal", 0, 0.5) | known(0.9), row("cmcl", 0, 0.4), row("anchor rate 1", 0, 0.3)]
    del rows[-1]["few_shot"]
    longer = [row("cmal", 0, 0.8) | known(0.7), row("cmcl", 0, 0.5), row("cmal, tuning", 7, 0.6)]
    rows += [one | {"steps": 1000} for one in longer]
    rows.append(row("cmal+cmcl", 0, 0.7) | known(0.6) | {"fine_tuning_steps": 500})
    results = tmp_path / "compare.json"
    results.write_text(json.dumps({"runs": rows[::-1]}))
    above, below = compare_report.write_report(results, tmp_path).split("# Pre-trained for 1000 steps")
    assert drawn == [rows[2::-1]], "700 steps and 150 of fine-tuning, in the file's order"
    assert "| cmal+cmcl | 60.0 | 60.0 |" in above
    assert "4 runs, pre-trained for 700 steps and fine-tuned for 150 steps at a rate of 0.001" in above
    assert "3 runs, pre-trained for 1000 steps and fine-tuned for 150 steps at a rate of 0.001" in below
    for part, score, lead, knows in ((above, "50.0", "+10.0", "90.0"), (below, "80.0", "+30.0", "70.0")):
        cmal = [line for line in part.splitlines() if line.startswith("| cmal | 100%")]
        assert cmal and all(f" {score} |" in line for line in cmal)
        assert f"- CMAL minus CMCL, all pairs: {lead} points (paired over 1 seed)." in part
        assert f"| which region is this word's | {knows} |" in part
    assert "- anchor rate 1 minus CMAL: -20.0 points" in above and "anchor rate" not in below
    assert "| cmcl | 100% | 37.0 | 43.0 | 39.0 | 41.0 | 40.0 | 20.0 | 1 |" in above, "few-shot too, mean .40 / 2"
    assert "| anchor rate 1 | 100% | 27.0 | 33.0 | 29.0 | 31.0 | 30.0 | 1 |" in above, "it has none"
    assert "## Ablations" in above and "## Ablations" not in below
    assert "| cmal, tuning | 100% |" in below and "## Tuning" not in above


def test_fine_tuning_of_one_task_has_a_table_of_that_task(tmp_path):
    pytest.importorskip("matplotlib")
    from compare_report import write_report

    def of_retrieval(variant: str, seed: int, score: float) -> dict:
        longer = row(variant, seed, 0.5) | {"fine_tuning_steps": 4000, "scores": {"scenes-retrieval": score}}
        return {k: v for k, v in longer.items() if k != "few_shot"} | {"chance": {"scenes-retrieval": 0.01}}

    rows = [row("none", 0, 0.1), of_retrieval("none", 0, 0.04), of_retrieval("none", 1, 0.02)]
    results = tmp_path / "compare.json"
    results.write_text(json.dumps({"runs": rows}))
    below = write_report(results, tmp_path).split("## Fine-tuned for 4000 steps")[1]
    assert "| variant | share of pairs | scenes-retrieval | seeds |" in below
    assert "| none | 100% | 3.0 ± 12.7 | 2 |" in below, "t of one degree of freedom, 12.706, times 1 point"
    assert "- scenes-retrieval: between 3.0 (none, 100%) and 3.0 (none, 100%); lowest run 2.0; chance 1.0." in below


def test_every_variant_share_and_seed_of_the_claims_is_planned_once_and_first():
    from compare_plan import (
        CLAIM_SEEDS,
        CMAL,
        CMCL,
        LONGER,
        MATCHING,
        PLAIN,
        PRETRAINED_LONGER,
        SEEDS,
        SHARES,
        SLOW,
        TUNING,
        VARIANTS,
        WITHOUT,
        Budget,
        Run,
        plan_of_all,
    )

    plan = plan_of_all()
    assert len(plan) == len(set(plan)) == len({run.name for run in plan})
    claims = [(CMAL, 1.0), (CMCL, 1.0), (PLAIN, 1.0), (CMAL, 0.5)]
    assert set(plan[: 4 * len(CLAIM_SEEDS)]) == {Run(v, share, seed) for v, share in claims for seed in CLAIM_SEEDS}
    assert {Run(v, share, seed, PRETRAINED_LONGER) for v, share in claims for seed in CLAIM_SEEDS} <= set(plan)
    assert {Run(v, share, seed, LONGER) for v, share in [*claims, (WITHOUT, 1.0)] for seed in SEEDS} <= set(plan)
    assert {Run(v, share, seed, SLOW) for v, share in [*claims, (WITHOUT, 1.0)] for seed in SEEDS} <= set(plan)
    assert {Run(WITHOUT, 1.0, seed, MATCHING) for seed in SEEDS} <= set(plan)
    for budget in (Budget(), PRETRAINED_LONGER):
        assert {Run(v, share, seed, budget) for v in VARIANTS for share in SHARES for seed in SEEDS} <= set(plan)
    grids = {v: {name.split(", ")[1] for name in TUNING if name.startswith(f"{v},")} for v in (PLAIN, CMCL, CMAL)}
    assert grids[CMCL] == grids[CMAL] == grids[PLAIN] | {"weight 0.3", "weight 3"}, "the same grid for every variant"


def test_a_run_that_has_a_result_is_not_run_again(tmp_path, monkeypatch):
    import compare
    from compare_plan import QUICK, Run

    run, other = Run("cmal", 0.5, 0, QUICK), Run("cmal", 0.5, 1, QUICK)
    compare.write_rows(
        tmp_path / "compare.json",
        [{**row("cmal", 0, 0.5, 0.5), "steps": QUICK.pretrain_steps, "fine_tuning_steps": QUICK.full_steps}],
    )
    begun = []

    class Pool:
        def __init__(self, *arguments, **settings):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return False

        def submit(self, function, run):
            begun.append(run)

    monkeypatch.setattr(compare, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(compare, "as_completed", lambda futures: [])
    compare.run_all([run, other], tmp_path / "compare.json", jobs=1)
    assert begun == [other]


def test_which_plan_is_measured_into_which_folder(tmp_path, monkeypatch):
    import compare
    from compare_plan import ABLATIONS, BOTH, WITHOUT, full_plan, grid_plan, plan_of_all, quick_plan

    measured = []
    monkeypatch.setattr(compare, "prepare_data", lambda: None)
    monkeypatch.setattr(compare, "run_all", lambda plan, results, jobs: measured.append((plan, results)))
    monkeypatch.setattr(compare, "write_report", lambda results, folder: "")

    def compare_with(*words: str) -> list:
        monkeypatch.setattr(sys, "argv", ["compare.py", *words])
        measured.clear()
        compare.main()
        return measured

    assert compare_with() == [(full_plan(), ROOT / "recipes" / "results" / "compare.json")]
    assert compare_with("--all", "--jobs", "1") == [(plan_of_all(), ROOT / "recipes" / "results" / "compare.json")]
    assert compare_with("--quick") == [(quick_plan(), compare.WORK / "quick" / "compare.json")]
    assert compare_with("--grid", "--results", str(tmp_path)) == [(grid_plan(), tmp_path / "compare.json")]
    assert {run.variant for run in grid_plan()} == {"cmal", "cmcl", "mlm+mrm+itm", BOTH, WITHOUT}
    assert len(grid_plan()) == 4 * 4 * 3 + 3 + 4 * 2, "two more seeds of the four that the claims rest on"
    assert set(grid_plan()) < set(full_plan()) < set(plan_of_all())
    ablations = set(full_plan()) - set(grid_plan())
    assert {run.variant for run in ablations} == set(ABLATIONS) and {run.budget.few_steps for run in ablations} == {0}
    with pytest.raises(SystemExit):
        compare_with("--report", "--results", str(tmp_path))
    (tmp_path / "compare.json").write_text('{"runs": []}')
    assert compare_with("--report", "--results", str(tmp_path)) == []


def test_what_is_committed_is_what_the_results_give(tmp_path):
    """recipes/results/compare.md is not older than compare.json beside it."""
    pytest.importorskip("matplotlib")
    from compare_report import write_report

    results = ROOT / "recipes" / "results" / "compare.json"
    copy = tmp_path / "compare.json"
    copy.write_bytes(results.read_bytes())
    assert write_report(copy, tmp_path) == results.with_suffix(".md").read_text()


def test_a_run_of_the_longer_budget_is_scored_on_all_records_only_and_leaves_no_folder(tmp_path, monkeypatch):
    import compare
    from compare_plan import LONGER, Run

    fine_tuned = []

    def score(run, folder, task, records, steps):
        fine_tuned.append((task, records, steps))
        return [
            SimpleNamespace(metrics={"accuracy": SimpleNamespace(value=v)}, main="accuracy", chance=0.1)
            for v in (0.4, 0.6)
        ]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare, "score", score)
    monkeypatch.setattr(compare, "probe", lambda folder: {"swapped": {"t2v": 1.0, "v2t": 1.0}})
    monkeypatch.setattr(
        compare, "cmal", lambda *words: (tmp_path / compare.WORK / run.name / "pretrain").mkdir(parents=True)
    )
    run = Run("cmal", 0.5, 3, LONGER)
    measured = compare.measure(run)
    assert fine_tuned == [(task, 0, 500) for task in ("rec", "ve", "vqa", "retrieval")]
    assert set(measured["scores"]) == {f"scenes-{task}" for task in ("rec", "ve", "vqa", "retrieval")}
    assert measured["scores"]["scenes-ve"] == 0.5 and "few_shot" not in measured and "association" in measured
    assert compare.is_of(measured, run) and not compare.is_of(measured, Run("cmal", 0.5, 3))
    assert not (tmp_path / compare.WORK / run.name).exists()


def test_a_run_keeps_what_the_probe_says_of_all_anchors(tmp_path, monkeypatch):
    import compare
    from compare_report import CONDITIONS

    ways = iter({"t2v": n / 100, "v2t": n / 100 + 0.000004} for n in range(2, 50))
    controls = {name: next(ways) for name in ("chance", "context_hidden", "vectors_shuffled")}
    in_sight = {name: next(ways) for name in ("swapped", "context_hidden", "vectors_shuffled")}
    found = {"association_t2v": 0.9, "association_v2t": 0.8, "controls": controls, "partner_in_sight": in_sight}
    monkeypatch.setattr(
        compare, "cmal", lambda *words: Path(words[-2]).write_text(json.dumps({"association": {"all": found}}))
    )
    kept = compare.probe(tmp_path)
    assert kept.keys() == set(CONDITIONS), "each has its column in the report"
    assert kept["swapped"] == {"t2v": 0.9, "v2t": 0.8} and kept["vectors_shuffled"] == {"t2v": 0.04, "v2t": 0.04}
    assert kept["swapped_in_sight"] == {"t2v": 0.05, "v2t": 0.05} and kept["chance"]["t2v"] == 0.02


def test_a_budget_of_one_task_scores_that_task_alone(tmp_path, monkeypatch):
    import compare
    from compare_plan import MATCHING, TASKS, WITHOUT, Run

    found = SimpleNamespace(metrics={"r1": SimpleNamespace(value=0.25)}, main="r1", chance=0.01)
    run = Run(WITHOUT, 1.0, 0, MATCHING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare, "score", lambda *asked: [found])
    monkeypatch.setattr(
        compare, "cmal", lambda *words: (tmp_path / compare.WORK / run.name / "pretrain").mkdir(parents=True)
    )
    measured = compare.measure(run)
    assert measured["scores"] == {"scenes-retrieval": 0.25} and compare.is_of(measured, run)
    all_tasks = Run(WITHOUT, 1.0, 0, replace(MATCHING, tasks=tuple(TASKS)))
    assert not compare.is_of(measured, all_tasks), "the other three are still to be measured"


def test_a_task_is_fine_tuned_with_the_steps_and_the_rate_of_the_budget_and_scored_on_each_split(tmp_path, monkeypatch):
    import compare
    from compare_plan import SLOW, WITHOUT, Run

    said = []
    monkeypatch.setattr(compare, "cmal", lambda *words: said.append(" ".join(words)))
    monkeypatch.setattr(compare, "read_result", lambda path: path.name)
    assert compare.score(Run(WITHOUT, 1.0, 0, SLOW), tmp_path, "rec", 0, 2000) == [
        "rec-0-testA.json",
        "rec-0-testB.json",
    ]
    for setting in ("init=random", "train.steps=2000", "optimizer.warmup_steps=200", "optimizer.lr=0.0003"):
        assert f"--set {setting}" in said[0]
    compare.score(Run("cmal", 1.0, 0), tmp_path, "ve", 500, 60)
    assert "--set init=pretrained" in said[3] and "--set optimizer.lr=0.001" in said[3], said
