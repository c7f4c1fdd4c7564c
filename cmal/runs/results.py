"""What an evaluation reports, whole: a number never travels without its split, protocol, proposals, checkpoint and interval.

`EvaluationResult` is written as one JSON file (`cmal eval --json FILE`) and read back by whoever compares runs:

    {"format": "cmal-result", "version": 1, "task", "split", "main", "metrics": {name: {"value", "low", "high"}},
     "interval", "chance", "counts", "protocol", "proposal_set", "checkpoint": {"path", "sha256"}, "recipe_sha256",
     "leakage", "versions", "tables"}

Metrics are fractions in [0, 1] (ranks apart); `low` and `high` bound the 95% bootstrap interval and are null where a metric
has none.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cmal.errors import DataError, list_errors, shown
from cmal.io.files import read_json, write_json
from cmal.tasks.metrics import bootstrap_interval

FORMAT, VERSION = "cmal-result", 1
INTERVAL = "95% percentile bootstrap, 1,000 resamples of images"
PACKAGES = ("cmal", "torch", "torchvision", "transformers", "timm", "numpy", "h5py")


@dataclass(frozen=True)
class Metric:
    """A value and the bounds of its interval; no bounds where none can be had (a table's entry, a median rank)."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class EvaluationResult:
    """One evaluation of one checkpoint on one split.

    Attributes:
        task, split: as given to `cmal eval`.
        main: the metric that stands for the task.
        metrics: name -> value with interval.
        counts: name -> number of examples, images, sentences, ...; says over what the metrics are means.
        protocol: the convention, in words ("accuracy per sentence, hit rule official").
        proposal_set: whose regions the model chose among (store and detector), "none" where it saw no regions.
        checkpoint: folder. checkpoint_sha256: of its weights, see `sha256_of` in `files.py`; "" for no training.
        recipe_sha256: see `hash_of_recipe`; "" for no training.
        leakage: what is known of evaluation images among the pre-training images; never empty.
        chance: what guessing scores on the main metric.
        tables: per type, per label, ...; any JSON value.
        versions: package -> version, `package_versions()` by default.
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
    versions: Mapping[str, str] = field(default_factory=lambda: package_versions())

    def as_json(self) -> dict[str, Any]:
        """The result as the JSON object of the module's docstring.

        Raises:
            DataError: something that a reader needs is missing or is not a number; all such faults together.
        """
        errors = [f'"{name}" is empty' for name in _NEVER_EMPTY if not getattr(self, name)]
        errors += [
            f'metric "{name}" is not a finite number within its interval: {_told(metric)}'
            for name, metric in self.metrics.items()
            if not _is_sound(metric)
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
        """Writes the JSON file, whole or not at all. Raises as `as_json`, and CmalError where it cannot be written."""
        write_json(path, self.as_json())


_NEVER_EMPTY = ("task", "split", "protocol", "proposal_set", "leakage", "metrics", "counts", "versions")


class ScoresLike(Protocol):
    """What a task hands over (`Scores` in `tasks/base.py`); `values` and `clusters` are of the main metric."""

    @property
    def main(self) -> str: ...
    @property
    def metrics(self) -> Mapping[str, float]: ...
    @property
    def chance(self) -> float: ...
    @property
    def values(self) -> np.ndarray: ...
    @property
    def clusters(self) -> Sequence[str]: ...
    @property
    def protocol(self) -> str: ...
    @property
    def tables(self) -> Mapping[str, Any]: ...
    @property
    def counts(self) -> Mapping[str, int]: ...


def result_of_scores(
    scores: ScoresLike,
    *,
    more_values: Mapping[str, tuple[np.ndarray, Sequence[str] | None]] | None = None,
    seed: int = 0,
    **about: Any,
) -> EvaluationResult:
    """A task's scores as a result, with bootstrap intervals by image.

    Args:
        scores: what the task found.
        more_values: for metrics beside the main one, name -> ((N,) values whose mean the metric is, (N,) image ids, or
            None where every value has an image of its own).
        seed: of the resampling.
        about: the other fields of `EvaluationResult`: task, split, proposal_set, checkpoint, ..., leakage.

    Raises:
        DataError: a metric is not the mean of the values given for it, so that its interval would be another number's.
    """
    values = {scores.main: (scores.values, scores.clusters), **(more_values or {})}
    metrics = {name: Metric(float(value)) for name, value in scores.metrics.items()}
    for name, (per_example, clusters) in values.items():
        mean = float(np.mean(per_example))
        if name not in metrics or not math.isclose(mean, metrics[name].value, abs_tol=1e-9):
            raise DataError(
                f'cannot give metric "{name}" an interval',
                f"it is {metrics.get(name)}, the values given for it have mean {mean:.9g}",
                "give the per-example values whose mean the metric is",
            )
        low, high = bootstrap_interval(per_example, None if clusters is None else np.asarray(clusters), seed=seed)
        metrics[name] = Metric(metrics[name].value, low, high)
    return EvaluationResult(
        main=scores.main,
        metrics=metrics,
        counts=scores.counts,
        protocol=scores.protocol,
        chance=scores.chance,
        tables=scores.tables,
        **about,
    )


def read_result(path: Path) -> EvaluationResult:
    """A result file as it was written.

    Raises:
        DataError: the file is missing, not JSON, or not a result of a version this program knows.
    """
    row = read_json(path)
    if not isinstance(row, dict) or (row.get("format"), row.get("version")) != (FORMAT, VERSION):
        found = "no JSON object"
        if isinstance(row, dict):
            found = f"format {row.get('format')!r}, version {row.get('version')!r}"
        raise DataError(f"cannot read the result {path}", found, f"give a file of format {FORMAT}, version {VERSION}")
    try:
        result = EvaluationResult(
            metrics={name: Metric(**metric) for name, metric in row["metrics"].items()},
            checkpoint=row["checkpoint"]["path"],
            checkpoint_sha256=row["checkpoint"]["sha256"],
            **{name: row[name] for name in _PLAIN_FIELDS},
        )
        _check_kinds(result)
        result.as_json()
        return result
    except DataError as error:  # it would not have been written so
        raise DataError(f"cannot read the result {path}", error.found, "evaluate again") from error
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise DataError(
            f"cannot read the result {path}", f"a part is missing or of another kind: {error}", "evaluate again"
        ) from error


_PLAIN_FIELDS = (
    "task",
    "split",
    "main",
    "counts",
    "protocol",
    "proposal_set",
    "recipe_sha256",
    "leakage",
    "chance",
    "tables",
    "versions",
)


def hash_of_recipe(recipe: Mapping[str, Any]) -> str:
    """Hex SHA-256 of a resolved recipe; the order of its keys does not matter."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def package_versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Installed versions, Python's own first; packages that are not installed are left out. Imports none of them."""
    versions = {"python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _check_kinds(result: EvaluationResult) -> None:
    """Raises TypeError where a field of a result that was read is of another kind than those that are written."""
    kinds: dict[str, type | tuple[type, ...]] = dict.fromkeys(_PLAIN_FIELDS, str)
    kinds |= {"checkpoint": str, "checkpoint_sha256": str, "counts": dict, "tables": dict, "versions": dict}
    kinds["chance"] = (int, float, type(None))
    for name, kind in kinds.items():
        if not isinstance(getattr(result, name), kind) or isinstance(result.chance, bool):
            raise TypeError(f'"{name}" is {shown(getattr(result, name))}')
    numbers = [value for metric in result.metrics.values() for value in (metric.value, metric.low, metric.high)]
    if any(isinstance(value, bool) or not isinstance(value, int | float | None) for value in numbers):
        raise TypeError("a metric is no number")
    if any(type(count) is not int for count in result.counts.values()):
        raise TypeError("a count is no whole number")
    if result.chance is not None and not math.isfinite(result.chance):
        raise ValueError("the chance is not a finite number")
    json.dumps([result.tables, result.versions], allow_nan=False)


def _is_sound(metric: Metric) -> bool:
    bounds = (metric.low, metric.high)
    if bounds == (None, None):
        return math.isfinite(metric.value)
    return None not in bounds and all(map(math.isfinite, (metric.value, *bounds))) and metric.low <= metric.high


def _told(metric: Metric) -> str:
    return f"{metric.value} [{metric.low}, {metric.high}]"
