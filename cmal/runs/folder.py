"""The run folder: recipe, environment, metrics, and whether a run starts, goes on or must not.

RUN/recipe.yaml        the resolved recipe
RUN/environment.json   versions, git revision, hardware
RUN/metrics.jsonl      one line a report
RUN/text_encoder.json  which tensors of the text checkpoint were used, and which were left
RUN/results/*.json     what `cmal eval` found, one file a split and protocol
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from cmal.errors import CheckpointError, DataError, RecipeError, list_errors
from cmal.io.files import cannot_write, write_json, write_text
from cmal.runs.recipe.reader import recipe_as_dict, recipe_differences, recipe_text
from cmal.training.checkpoint import make_links_again, newest_checkpoint, remove_folder

METRICS = "metrics.jsonl"
TEXT_ENCODER = "text_encoder.json"
LARGEST_COUNT = 1 << 62
# what may change between a run and its continuation: it changes no number
FREE_KEYS = (
    *("train.report_every:", "train.save_every:", "train.keep_checkpoints:", "train.validate_every:", "data.workers:"),
    "out:",  # a run's folder may be moved
)


def open_run(run: Path, recipe: object, start: str) -> Path | None:
    """Prepares a run folder and says where to go on from.

    Args:
        start: "auto" goes on where there is a checkpoint, "resume" demands one, "fresh" removes what is there.

    Returns:
        The checkpoint to go on from, or None to start.

    Raises:
        RecipeError: the folder holds a run of another recipe. CheckpointError: "resume" and nothing to go on from.
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


def checkpoint_to_resume_from(run: Path, recipe: object, start: str) -> Path | None:
    """What `open_run` would go on from, and its errors; touches nothing."""
    checkpoint = None if start == "fresh" else newest_checkpoint(run)
    if checkpoint is None and start == "resume":
        raise CheckpointError(f"cannot go on with {run}", "it holds no checkpoint", "start it: leave --resume away")
    if checkpoint is not None:
        _check_same(run, recipe)
    return checkpoint


def _check_same(run: Path, recipe: object) -> None:
    try:
        old = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return  # a run folder from before its recipe was written has no checkpoint either
    changed = recipe_differences(old, recipe_as_dict(recipe))
    changed = [line for line in changed if not line.startswith(FREE_KEYS)]
    if changed:
        raise RecipeError(
            f"cannot go on with {run}: its recipe was another",
            list_errors(changed),
            "undo the change, or choose another folder (--set out=FOLDER), or start over with --fresh",
        )


class MetricsFile:
    """metrics.jsonl of a run: one JSON line a report; lines beyond the step a run goes on from are dropped.

    Args:
        path: the file.
        step: the step the run goes on from.
        is_validated: whether the validation of that step is done; its line is dropped where it will come again.
    """

    def __init__(self, path: Path, step: int, is_validated: bool = True):
        kept = [line for line in _lines(path) if _step_of(line) <= step]
        if not is_validated:
            kept = [line for line in kept if _step_of(line) < step or "validation" not in json.loads(line)]
        write_text(path, "".join(kept))
        self.path = path
        self._file = path.open("a", encoding="utf-8")

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends a row at once.

        Raises:
            CmalError: the disk is full.
        """
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.close()
            raise cannot_write(self.path, error) from error


def run_of(checkpoint: Path) -> Path | None:
    """The run folder that a folder is, or that it is a checkpoint of; None for a checkpoint that was moved away."""
    return next((f for f in (checkpoint, checkpoint.resolve().parent.parent) if (f / "recipe.yaml").is_file()), None)


def find_checkpoint(folder: Path) -> Path:
    """A run folder's best or last checkpoint, or the folder itself where it is a checkpoint."""
    return next((folder / name for name in ("best", "last") if (folder / name).exists()), folder)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All lines of a metrics file; a last one that was cut off is left out.

    Raises:
        DataError: a line is neither a training's report nor a validation's.
    """
    rows = []
    for number, line in enumerate(_lines(path), start=1):
        if not line.endswith("\n"):
            break
        try:
            rows.append(_checked_report(json.loads(line)))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            found = f"line {number}: {error}" if isinstance(error, ValueError) else f"line {number} is no report"
            raise DataError(f"cannot read {path}", found, "mend or delete the line") from error
    return rows


def _checked_report(row: Any) -> dict[str, Any]:
    """Raises KeyError, TypeError or ValueError where a row is not as a training writes it."""
    measures = row["losses"] if "losses" in row else row["validation"]
    wanted = ("step", "steps", "skipped", "lr", "grad_norm", "examples_per_s", "time") if "losses" in row else ("step",)
    numbers = [*measures.values(), *(row[name] for name in wanted)]
    if not all(type(value) is float or (type(value) is int and abs(value) < LARGEST_COUNT) for value in numbers):
        raise ValueError("a value is no number")  # one that is not finite is: a skipped step has such losses
    if not all(type(row[name]) is int and row[name] >= 0 for name in wanted if name in ("step", "steps", "skipped")):
        raise ValueError("a count of steps is no whole number")
    return row


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True) if path.is_file() else []


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"]) if line.endswith("\n") else float("inf")
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return float("inf")


def environment() -> dict[str, Any]:
    """Versions, git revision and hardware of this machine."""
    packages = ("cmal", "torch", "torchvision", "transformers", "timm", "numpy", "h5py")
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in packages},
        "git": _git_revision(),
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpus": gpus,
        },
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _git_revision() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
