"""The run folder: its recipe and metrics, and whether a training starts, resumes or is refused.

RUN/recipe.yaml        the recipe, defaults and overrides included
RUN/environment.json   versions, git revision, hardware
RUN/metrics.jsonl      one line per report
RUN/text_encoder.json  which tensors of the text checkpoint were loaded, and which were not
RUN/results/*.json     results of `cmal eval`, one file per split and protocol
RUN/checkpoints, last, best   see `training/retention.py`
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cmal.errors import CheckpointError, DataError, RecipeError, list_errors
from cmal.io.files import cannot_write, write_json, write_text
from cmal.runs.environment import environment
from cmal.runs.recipe.reader import Recipe, recipe_as_dict, recipe_differences, recipe_text, rename_old_keys
from cmal.training.retention import make_links_again, newest_checkpoint, remove_folder

METRICS = "metrics.jsonl"
TEXT_ENCODER = "text_encoder.json"
MAX_COUNT = 1 << 62
FREE_KEYS = (  # may change when a run is resumed: they change no loss
    *("train.report_every:", "train.save_every:", "train.keep_checkpoints:", "train.validate_every:", "data.workers:"),
    "out:",  # a run's folder may be moved
)


def open_run(run: Path, recipe: Recipe, start: str) -> Path | None:
    """Prepares a run folder for a training, and writes recipe and environment into it.

    Args:
        start: "auto" resumes if there is a checkpoint, "resume" requires one, "fresh" removes checkpoints and metrics.

    Returns:
        The checkpoint to resume from, or None to start from the beginning.

    Raises:
        RecipeError: the folder's recipe differs. CheckpointError: `start` is "resume" and there is no checkpoint.
    """
    if start == "fresh" and run.exists():
        for name in ("checkpoints", METRICS, "recipe.yaml", "last", "best"):
            path = run / name
            remove_folder(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    else:
        make_links_again(run)
    checkpoint = checkpoint_to_resume_from(run, recipe, start)
    run.mkdir(parents=True, exist_ok=True)
    write_text(run / "recipe.yaml", recipe_text(recipe))
    write_json(run / "environment.json", environment())
    return checkpoint


def checkpoint_to_resume_from(run: Path, recipe: Recipe, start: str) -> Path | None:
    """What `open_run` returns or raises, without changing the folder."""
    checkpoint = None if start == "fresh" else newest_checkpoint(run)
    if checkpoint is None and start == "resume":
        raise CheckpointError(f"cannot resume {run}", "it holds no checkpoint", "start it: leave --resume away")
    if checkpoint is not None:
        _check_same(run, recipe)
    return checkpoint


def _check_same(run: Path, recipe: Recipe) -> None:
    try:
        old = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return  # the recipe was deleted or damaged: there is nothing to compare
    rename_old_keys(old)
    changed = [line for line in recipe_differences(old, recipe_as_dict(recipe)) if not line.startswith(FREE_KEYS)]
    if changed:
        raise RecipeError(
            f"cannot resume {run}: its recipe differs",
            list_errors(changed),
            "undo the change, or choose another folder (--set out=FOLDER), or start over with --fresh",
        )


class MetricsFile:
    """Writes metrics.jsonl, one JSON line per report. Lines after the step that the run resumes from are removed first.

    Args:
        step: the step that the run resumes from.
        is_validated: whether validation ran at that step; if not, its line is removed too, since it will be repeated.
    """

    def __init__(self, path: Path, step: int, is_validated: bool = True):
        kept = [line for line in _lines(path) if _step_of(line) <= step]
        if not is_validated:
            kept = [line for line in kept if _step_of(line) < step or "validation" not in json.loads(line)]
        write_text(path, "".join(kept))
        self.path = path
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends a row and flushes. Raises CmalError when the disk is full."""
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.close()
            raise cannot_write(self.path, error) from error


def run_of(checkpoint: Path) -> Path | None:
    """The run folder of a checkpoint folder, or the folder itself if it is one; None for a checkpoint outside a run."""
    return next((f for f in (checkpoint, checkpoint.resolve().parent.parent) if (f / "recipe.yaml").is_file()), None)


def find_checkpoint(folder: Path) -> Path:
    """The best checkpoint of a run folder, or else the last one; any other folder is returned unchanged."""
    return next((folder / name for name in ("best", "last") if (folder / name).exists()), folder)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All rows of a metrics file, without an incomplete last line. Raises DataError for a line that is no report."""
    rows = []
    for number, line in enumerate(_lines(path), start=1):
        if not line.endswith("\n"):
            break
        try:
            rows.append(_checked_report(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            found = f"line {number}: {error}" if isinstance(error, ValueError) else f"line {number} is no report"
            raise DataError(f"cannot read {path}", found, "fix or delete the line") from error
    return rows


def _checked_report(row: Any) -> dict[str, Any]:
    """The row of a training or validation report. Raises KeyError, TypeError or ValueError for anything else."""
    is_training = "losses" in row
    names = ("step", "steps", "skipped", "lr", "grad_norm", "examples_per_s", "time") if is_training else ("step",)
    numbers = [*row["losses" if is_training else "validation"].values(), *(row[name] for name in names)]
    if not all(type(value) is float or (type(value) is int and abs(value) < MAX_COUNT) for value in numbers):
        raise ValueError("a value is no number")  # NaN and infinity are allowed: skipped steps have such losses
    if not all(type(row[name]) is int and row[name] >= 0 for name in names if name in ("step", "steps", "skipped")):
        raise ValueError("a count of steps is no whole number")
    return row


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True) if path.is_file() else []


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"]) if line.endswith("\n") else float("inf")
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return float("inf")
