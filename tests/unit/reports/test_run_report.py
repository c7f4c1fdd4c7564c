"""report.html of a run folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cmal.errors import CheckpointError
from cmal.reports.run_report import write_run_report
from cmal.runs.results import EvaluationResult, Metric


@pytest.fixture
def run(tiny_world, tmp_path) -> Path:
    """A copy of a run folder, to be changed."""
    return Path(shutil.copytree(tiny_world / "runs" / "tiny", tmp_path / "run", symlinks=True))


def result(**changes: object) -> EvaluationResult:
    about = {"task": "scenes-ve", "split": "test", "main": "accuracy", "counts": {"hypotheses": 3}, "chance": 0.25}
    about |= {"protocol": "three-way <b>", "proposal_set": "store", "checkpoint": "x", "checkpoint_sha256": ""}
    return EvaluationResult(
        **about | {"metrics": {"accuracy": Metric(0.5, 0.4, 0.625)}, "recipe_sha256": "", "leakage": "none"} | changes
    )


def test_report_shows_curves_recipe_and_environment(run):
    assert write_run_report(run) == run / "report.html"
    page = (run / "report.html").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    names = {name for row in rows for name in row.get("losses", ())}
    assert {"loss", "amc", "mlm", "itm"} <= names
    for name in [*(n.replace("_", " ") for n in names), "learning rate", "examples per second"]:
        assert f"<b>{name}</b>" in page
    assert page.count('class="chart"') == len(names) + 3
    assert "4 of 4" in page and "validation" in page and "width: 32" in page
    assert json.loads((run / "environment.json").read_text())["packages"]["torch"] in page
    assert "Scores" not in page


def test_scores_of_eval_are_shown_with_their_protocol(run):
    result().write_result(run / "results" / "scenes-ve-test.json")
    (run / "results" / "broken.json").write_text("{")
    page = write_run_report(run).read_text(encoding="utf-8")
    assert "50.00 %" in page and "40.00 to 62.50" in page and "25.00 %" in page
    assert "three-way &lt;b&gt;; store" in page
    assert "it is not JSON" in page


def test_pauses_are_no_work(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in lines if "losses" in row]
    for row, time_s in zip(steps, (0.0, 30.0, 90_000.0, 90_045.0)):
        row["time"] = time_s
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    assert "0:01:15" in write_run_report(run).read_text(encoding="utf-8")


def test_a_run_before_its_first_step_has_a_report_too(run):
    (run / "metrics.jsonl").write_text("")
    assert "No step is done yet." in write_run_report(run).read_text(encoding="utf-8")


def test_a_diverged_run_shows_gaps(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in lines:
        for losses in (row.get("losses", {}), row.get("validation", {})):
            losses.update(dict.fromkeys(losses, float("nan")))
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    page = write_run_report(run).read_text(encoding="utf-8")
    assert (
        "no finite values" in page and page.count('class="chart"') == 3
    )  # learning rate, gradient norm and speed stay


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"it has no recipe\.yaml"):
        write_run_report(tmp_path)


def test_what_the_text_checkpoint_gave_is_told(run):
    said = {"source": "a <bert>", "used": ["one", "two"], "left": ["pooler.dense.weight"]}
    (run / "text_encoder.json").write_text(json.dumps(said))
    page = write_run_report(run).read_text(encoding="utf-8")
    assert "Text encoder from a &lt;bert&gt;: 2 tensors used, 1 left" in page and "pooler.dense.weight" in page
