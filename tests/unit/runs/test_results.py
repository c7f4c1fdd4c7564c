"""A result says everything that its number needs, survives writing and reading, and is refused when a part is missing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from cmal.errors import DataError
from cmal.runs.environment import package_versions
from cmal.runs.results import EvaluationResult, Metric, read_result, result_of_scores
from cmal.tasks.metrics import hits_of_ranks

ABOUT = {
    "task": "refcoco",
    "split": "testA",
    "proposal_set": "coco boxes (gt)",
    "checkpoint": "runs/refcoco/best",
    "checkpoint_sha256": "ab" * 32,
    "recipe_sha256": "cd" * 32,
    "leakage": "0 of 750 images were in pre-training",
}


def scores(values: list[float], clusters: list[str] | None = None) -> SimpleNamespace:
    return SimpleNamespace(
        main="accuracy",
        metrics={"accuracy": float(np.mean(values)), "oracle_recall": 1.0},
        chance=0.1,
        values=np.array(values),
        clusters=clusters or [str(i) for i in range(len(values))],
        protocol="accuracy per sentence, hit rule official",
        tables={"per_type": {"x": 1}},
        counts={"sentences": len(values)},
        more_values={},
    )


def test_the_file_holds_every_part_that_a_reader_needs(tmp_path: Path):
    result_of_scores(scores([1, 0, 1, 1]), **ABOUT).write_result(tmp_path / "out" / "result.json")
    row = json.loads((tmp_path / "out" / "result.json").read_text())
    assert list(row) == [
        "format",
        "version",
        "task",
        "split",
        "main",
        "metrics",
        "interval",
        "chance",
        "counts",
        "protocol",
        "proposal_set",
        "checkpoint",
        "recipe_sha256",
        "leakage",
        "versions",
        "tables",
    ]
    assert row["metrics"]["accuracy"] == {"value": 0.75, "low": 0.25, "high": 1.0}
    assert row["metrics"]["oracle_recall"] == {"value": 1.0, "low": None, "high": None}
    assert row["checkpoint"] == {"path": "runs/refcoco/best", "sha256": "ab" * 32}
    assert {"python", "cmal", "numpy"} <= set(row["versions"])


def test_a_result_is_read_back_as_it_was_written(tmp_path: Path):
    result = result_of_scores(scores([1, 0, 1, 1]), **ABOUT)
    result.write_result(tmp_path / "result.json")
    assert read_result(tmp_path / "result.json") == result


def test_intervals_resample_images_and_not_sentences():
    alone = result_of_scores(scores([1, 0] * 50), **ABOUT).metrics["accuracy"]
    by_image = result_of_scores(scores([1] * 50 + [0] * 50, [f"coco:{i // 25}" for i in range(100)]), **ABOUT).metrics[
        "accuracy"
    ]
    assert alone.high - alone.low < 0.25
    assert by_image.high - by_image.low > 0.5  # four images only, each all right or all wrong


def test_other_metrics_get_intervals_from_their_own_values():
    hits = hits_of_ranks(np.array([1, 3, 20]), np.array([1, 1]))
    found = scores([1, 0, 0])
    found.metrics = {"accuracy": 1 / 3, "text_retrieval_r1": 1.0, "image_retrieval_r5": 2 / 3}
    found.more_values = {name: (hits[name], None) for name in ("text_retrieval_r1", "image_retrieval_r5")}
    metrics = result_of_scores(found, **ABOUT).metrics
    assert metrics["text_retrieval_r1"] == Metric(1.0, 1.0, 1.0)
    assert metrics["image_retrieval_r5"].low < 2 / 3 < metrics["image_retrieval_r5"].high


def test_an_interval_of_another_number_is_refused():
    found = scores([1, 0, 1, 1])
    found.metrics["accuracy"] = 0.8
    with pytest.raises(DataError, match=r"values given for it have mean 0\.75"):
        result_of_scores(found, **ABOUT)


def test_what_is_missing_or_not_a_number_is_reported_together_and_nothing_is_written(tmp_path: Path):
    result = EvaluationResult(
        main="accuracy",
        metrics={"recall": Metric(float("nan")), "f1": Metric(0.5, 0.4, None)},
        counts={"n": 1},
        protocol="official",
        **{**ABOUT, "leakage": ""},
    )
    with pytest.raises(DataError) as error:
        result.write_result(tmp_path / "result.json")
    assert str(error.value) == (
        "cannot report the result of refcoco on testA\n"
        '  "leakage" is empty\n'
        '  metric "recall" is not a finite number within its interval: nan [None, None]\n'
        '  metric "f1" is not a finite number within its interval: 0.5 [0.4, None]\n'
        '  the main metric "accuracy" is not among recall, f1\n'
        "  evaluate again"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": "cmal-regions", "version": 1}', "format 'cmal-regions', version 1"),
        ('{"format": "cmal-result", "version": 9}', "version 9"),
        ("[]", "no JSON object"),
        ('{"format": "cmal-result", "version": 1}', "a part is missing"),
    ],
)
def test_a_file_that_is_no_result_is_refused(tmp_path: Path, text: str, message: str):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_result(tmp_path / "result.json")


def test_versions_leave_out_what_is_not_installed():
    versions = package_versions(("numpy", "no-such-package"))
    assert versions == {"python": versions["python"], "numpy": np.__version__}


def test_results_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Metric(0.5).value = 0.6
