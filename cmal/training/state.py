"""The small JSON files of a checkpoint folder.

state.json        how far the run was, and the SHA-256 of every other file
validation.json   what validation measured there
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cmal.errors import CheckpointError, shown
from cmal.io.files import sha256_of

STATE, VALIDATION = "state.json", "validation.json"
MAX_STEPS = 1 << 40
Value = TypeVar("Value")


@dataclass(frozen=True)
class Progress:
    """How far a run is: optimizer steps done, and how many of them were skipped for non-finite numbers."""

    step: int = 0
    skipped: int = 0


def load_progress(folder: Path) -> Progress:
    """The run's progress at a checkpoint. Raises CheckpointError when state.json is missing or damaged."""

    def parse(state: Any) -> Progress:
        step, skipped = state["step"], state["skipped"]
        if type(step) is not int or type(skipped) is not int or not 0 <= skipped <= step <= MAX_STEPS:
            raise ValueError(f"{STATE} says step {shown(step)}, {shown(skipped)} skipped")
        return Progress(step, skipped)

    return _read(folder, STATE, parse)


def validation_at(folder: Path) -> dict[str, float] | None:
    """What validation measured at a checkpoint, None before it ran. Raises CheckpointError when the file is damaged."""

    def parse(measures: Any) -> dict[str, float]:
        if not isinstance(measures, dict) or not all(type(value) in (int, float) for value in measures.values()):
            raise ValueError(f"{VALIDATION} is no table of numbers")
        return {name: float(value) for name, value in measures.items()}

    return _read(folder, VALIDATION, parse) if (folder / VALIDATION).is_file() else None


def check_digest(folder: Path, name: str) -> None:
    """Raises CheckpointError when a file is not the one that state.json was written for. Without state.json, no check."""
    if not (folder / STATE).is_file() or not (folder / name).is_file():
        return
    expected = _read(folder, STATE, lambda state: state.get("sha256", {}).get(name))
    if expected is not None and sha256_of(folder / name) != expected:
        raise damaged(folder, ValueError(f"{name} has other bytes than were written"))


def damaged(folder: Path, error: Exception) -> CheckpointError:
    """The error to raise when a checkpoint folder cannot be used because of `error`."""
    found = (str(error).splitlines() or [type(error).__name__])[0][:300]
    return CheckpointError(f"cannot load the checkpoint {folder}", found, f"remove {folder} and run again")


def _read(folder: Path, name: str, parse: Callable[[Any], Value]) -> Value:
    try:
        return parse(json.loads((folder / name).read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise damaged(folder, error) from error
