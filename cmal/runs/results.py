"""The result of an evaluation: every number with its split, protocol, proposals, checkpoint and interval.

`EvaluationResult` is written as one JSON file (`cmal eval --json FILE`) and read back for reports and comparisons:

    {"format": "cmal-result", "version": 1, "task", "split", "main", "metrics": {name: {"value", "low", "high"}},
     "interval", "chance", "counts", "protocol", "proposal_set", "checkpoint": {"path", "sha256"}, "recipe_sha256",
     "leakage", "versions", "tables"}

Metrics are fractions in [0, 1], except ranks; `low` and `high` bound the 95% bootstrap interval and are null for a metric
without one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cmal.errors import DataError, list_errors, shown
from cmal.io.files import read_json, write_json
from cmal.runs.environment import package_versions
from cmal.tasks.base import Scores
from cmal.tasks.metrics import bootstrap_interval

FORMAT, VERSION = "cmal-result", 1
INTERVAL = "95% percentile bootstrap, 1,000 resamples of images"
NEVER_EMPTY = ("task", "split", "protocol", "proposal_set", "leakage", "metrics", "counts", "versions")
TYPES: dict[str, type | tuple[type, ...]] = {  # of the fields that the file holds as they are
    **dict.fromkeys(("task", "split", "main", "protocol", "proposal_set", "recipe_sha256", "leakage"), str),
    **dict.fromkeys(("counts", "tables", "versions"), dict),
    "chance": (int, float, type(None)),
}


@dataclass(frozen=True)
class Metric:
    """A value and its interval; `low` and `high` are None for a metric without one (a table entry, a median rank)."""

    value: float
    low: float | None = None
    high: float | None = None

    def is_sound(self) -> bool:
        """True for a finite value, and an interval that is finite and ordered or absent."""
        if self.low is None or self.high is None:
            return self.low is self.high and math.isfinite(self.value)
        return all(map(math.isfinite, (self.value, self.low, self.high))) and self.low <= self.high


@dataclass(frozen=True)
class EvaluationResult:
    """One evaluation of one checkpoint on one split.

    Attributes:
        task, split: the arguments of `cmal eval`.
        main: name of the metric that stands for the task.
        metrics: name -> value with interval.
        counts: name -> number of examples, images, sentences, ... over which the metrics are means.
        protocol: the convention, in words ("accuracy per sentence, hit rule official").
        proposal_set: the regions that the model chose among (store and detector); "none" for a model without regions.
        checkpoint: its folder. checkpoint_sha256: SHA-256 of its weights; "" without training.
        recipe_sha256: SHA-256 of the run's recipe.yaml; "" without training.
        leakage: what is known about evaluation images among the pre-training images; never empty.
        chance: the main metric's value for random guesses.
        tables: per type, per label, ...; JSON values.
        versions: package -> version.
    """

    task: str
    split: str
    main: str
    metrics: Mapping[str, Metric]
    counts: Mapping[str, int]
    protocol: str
    proposal_set: str
    checkpoint: str
    checkpoint_sha256: str
    recipe_sha256: str
    leakage: str
    chance: float | None = None
    tables: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=package_versions)

    def as_json(self) -> dict[str, Any]:
        """The JSON object that the module's docstring shows.

        Raises:
            DataError: a required part is missing, or a metric is not a finite number; all errors together.
        """
        errors = [f'"{name}" is empty' for name in NEVER_EMPTY if not getattr(self, name)]
        errors += [
            f'metric "{name}" is not a finite number within its interval: {m.value} [{m.low}, {m.high}]'
            for name, m in self.metrics.items()
            if not m.is_sound()
        ]
        if self.main not in self.metrics:
            errors.append(f'the main metric "{self.main}" is not among {", ".join(self.metrics)}')
        if errors:
            raise DataError(
                f"cannot report the result of {self.task} on {self.split}", list_errors(errors), "evaluate again"
            )
        return {
            "format": FORMAT,
            "version": VERSION,
            "task": self.task,
            "split": self.split,
            "main": self.main,
            "metrics": {name: asdict(metric) for name, metric in self.metrics.items()},
            "interval": INTERVAL,
            "chance": self.chance,
            "counts": {name: int(count) for name, count in self.counts.items()},
            "protocol": self.protocol,
            "proposal_set": self.proposal_set,
            "checkpoint": {"path": self.checkpoint, "sha256": self.checkpoint_sha256},
            "recipe_sha256": self.recipe_sha256,
            "leakage": self.leakage,
            "versions": dict(self.versions),
            "tables": dict(self.tables),
        }

    def write_result(self, path: Path) -> None:
        """Writes the JSON file atomically. Raises DataError as `as_json`, and CmalError when it cannot be written."""
        write_json(path, self.as_json())


def result_of_scores(scores: Scores, *, seed: int = 0, **about: Any) -> EvaluationResult:
    """A task's scores as a result, with bootstrap intervals that resample images.

    Args:
        scores: the main metric and those in `scores.more_values` get an interval from their per-example values.
        seed: of the resampling.
        about: the other fields of `EvaluationResult`: task, split, proposal_set, checkpoint, ..., leakage.

    Raises:
        DataError: a metric is not the mean of its per-example values.
    """
    metrics = {name: Metric(float(value)) for name, value in scores.metrics.items()}
    for name, (values, clusters) in {scores.main: (scores.values, scores.clusters), **scores.more_values}.items():
        mean = float(np.mean(values))
        if name not in metrics or not math.isclose(mean, metrics[name].value, abs_tol=1e-9):
            raise DataError(
                f'cannot give metric "{name}" an interval',
                f"it is {metrics.get(name)}, the values given for it have mean {mean:.9g}",
                "give the per-example values whose mean the metric is",
            )
        bounds = bootstrap_interval(values, None if clusters is None else np.asarray(clusters), seed=seed)
        metrics[name] = Metric(metrics[name].value, *bounds)
    same = {name: getattr(scores, name) for name in ("main", "counts", "protocol", "chance", "tables")}
    return EvaluationResult(metrics=metrics, **same, **about)


def read_result(path: Path) -> EvaluationResult:
    """The result in a file.

    Raises:
        DataError: the file is missing, not JSON, or not a result of a version that this program knows.
    """
    row, hint = read_json(path), f"give a file of format {FORMAT}, version {VERSION}"
    if not isinstance(row, dict):
        raise DataError(f"cannot read the result {path}", "no JSON object", hint)
    if (row.get("format"), row.get("version")) != (FORMAT, VERSION):
        found = f"format {row.get('format')!r}, version {row.get('version')!r}"
        raise DataError(f"cannot read the result {path}", found, hint)
    try:
        result = EvaluationResult(
            metrics={name: Metric(**metric) for name, metric in row["metrics"].items()},
            checkpoint=row["checkpoint"]["path"],
            checkpoint_sha256=row["checkpoint"]["sha256"],
            **{name: row[name] for name in TYPES},
        )
        _check_types(result)
        result.as_json()
        return result
    except DataError as error:  # `as_json` would not have written such a file
        raise DataError(f"cannot read the result {path}", error.found, "evaluate again") from error
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise DataError(
            f"cannot read the result {path}", f"a part is missing or of another kind: {error}", "evaluate again"
        ) from error


def _check_types(result: EvaluationResult) -> None:
    """Raises TypeError or ValueError when a field that was read from a file cannot have been written by `as_json`."""
    for name, kind in (TYPES | {"checkpoint": str, "checkpoint_sha256": str}).items():
        value = getattr(result, name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise TypeError(f'"{name}" is {shown(value)}')
    numbers = [value for metric in result.metrics.values() for value in (metric.value, metric.low, metric.high)]
    if any(isinstance(value, bool) or not isinstance(value, int | float | None) for value in numbers):
        raise TypeError("a metric is no number")
    if any(type(count) is not int for count in result.counts.values()):
        raise TypeError("a count is no whole number")
    json.dumps([result.chance, result.tables, result.versions], allow_nan=False)  # raises on NaN and infinity
