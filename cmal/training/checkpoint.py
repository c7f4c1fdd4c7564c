"""Run folders: whole-or-absent checkpoints, `last` and `best`, and what is needed to go on exactly.

    RUN/recipe.yaml environment.json metrics.jsonl
    RUN/checkpoints/step-000500/  model.safetensors  optimizer.pt  state.json  and whatever the run adds (vocab.txt, ...)
    RUN/last, RUN/best            links to one of them
A checkpoint is written under a temporary name, synced and renamed.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from cmal.errors import CheckpointError, CmalError, as_user_error, in_one_line, shown, system_word
from cmal.io.files import remove_left_overs, sha256_of, sync, write_json
from cmal.training.sharding import shard_like_parameters

WEIGHTS, OPTIMIZER, STATE = "model.safetensors", "optimizer.pt", "state.json"
VALIDATION = "validation.json"
MAX_STEPS = 1 << 40
SETTINGS = ("betas", "eps", "weight_decay", "amsgrad", "maximize")  # of an optimizer, which the recipe sets


@dataclass(frozen=True)
class Progress:
    """How far a run is: optimizer steps done, and steps skipped for non-finite numbers."""

    step: int = 0
    skipped: int = 0


def checkpoint_folder(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


class _Written:
    """A file for torch to write, which remembers what the system said: torch itself loses it."""

    def __init__(self, file: BinaryIO):
        self.file, self.error = file, None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def save_checkpoint(
    run: Path,
    progress: Progress,
    weights: Mapping[str, torch.Tensor],
    optimizer_state: Mapping[str, Any],
    add_files: Callable[[Path], None],
    keep: int,
) -> Path:
    """Writes a checkpoint, points `last` at it, and removes all but the newest `keep` and the best.

    Args:
        weights, optimizer_state: state dictionaries of whole tensors.
        add_files: called with the folder, to put beside the weights what they need to be used.

    Raises:
        CmalError: the disk is full or cannot be written; earlier checkpoints stay as they were.
    """
    final = checkpoint_folder(run, progress.step)
    temporary, written = final.with_name(f".{final.name}.tmp"), None
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file({name: t.detach().cpu().contiguous() for name, t in weights.items()}, temporary / WEIGHTS)
        with (temporary / OPTIMIZER).open("wb") as file:
            written = _Written(file)
            torch.save(optimizer_state, written)
        add_files(temporary)
        digests = {path.name: sha256_of(path) for path in sorted(temporary.iterdir())}
        write_json(temporary / STATE, {"step": progress.step, "skipped": progress.skipped, "sha256": digests})
        for path in (*temporary.iterdir(), temporary):
            sync(path)
        remove_folder(final)
        temporary.rename(final)
        sync(final.parent)
        point_at(run / "last", final)
    except CmalError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    except (OSError, SafetensorError, RuntimeError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, RuntimeError) and (message := as_user_error(error)):
            raise message from error  # a loader's worker died while this was written: nothing is wrong with the disk
        cause = (written and written.error) or error.__context__ or error
        raise CmalError(
            f"cannot write the checkpoint {final}",
            f"the system says: {system_word(cause) if isinstance(cause, OSError) else in_one_line(cause)}",
            "free some space, then run the same command again: it goes on from the last whole checkpoint",
        ) from error
    _remove_old(run, keep)
    return final


def point_at(link: Path, folder: Path) -> None:
    """Makes `link` a relative link to `folder`, in one step."""
    temporary = link.with_name(f".{link.name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(folder, link.parent))
    os.replace(temporary, link)


def make_links_again(run: Path) -> None:
    """Puts a link where copying a run (scp -r, cp -rL) made a folder of `last` or `best`; a checkpoint only in there stays.

    Raises:
        CheckpointError: such a folder's state cannot be read.
    """
    for copy in (run / "last", run / "best"):
        if copy.is_symlink() or not (copy / STATE).is_file():
            continue
        folder = checkpoint_folder(run, load_progress(copy).step)
        if not (folder / STATE).is_file():
            remove_folder(folder)
            folder.parent.mkdir(exist_ok=True)
            copy.rename(folder)
        remove_folder(copy)
        point_at(copy, folder)


def remove_folder(folder: Path) -> None:
    """Takes a folder's name away in one step, then removes it: nobody finds half of it under its name."""
    if folder.exists():
        temporary = folder.with_name(f".{folder.name}.old.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        folder.rename(temporary)
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_old(run: Path, keep: int) -> None:
    wanted = {(run / name).resolve() for name in ("last", "best")}
    folders = sorted((run / "checkpoints").glob("step-*"))
    for folder in folders[:-keep]:
        if folder.resolve() not in wanted:
            remove_folder(folder)


def recover_run_folder(run: Path, keep: int) -> Path | None:
    """Finishes what a kill cut short in a run folder: what is half written or half removed goes, `last` leads to the newest.

    Returns:
        The newest checkpoint, or None.
    """
    for left_over in (*run.glob(".*.tmp"), *(run / "checkpoints").glob(".*.tmp")):
        if left_over.is_dir() and not left_over.is_symlink():
            shutil.rmtree(left_over, ignore_errors=True)
        else:
            left_over.unlink(missing_ok=True)
    newest = newest_checkpoint(run)
    if newest is not None:
        remove_left_overs(newest)
        if (run / "last").resolve() != newest.resolve():
            point_at(run / "last", newest)
        _remove_old(run, keep)
    return newest


def keep_best(run: Path, step: int, measures: Mapping[str, float], keep: int) -> None:
    """Notes what validation measured at a checkpoint, and points `best` at it where none before was as good by "main".

    The note comes last: who finds it need not validate again, and `best` is settled.
    """
    folder = checkpoint_folder(run, step)
    best = validation_at(run / "best")
    is_best = "main" in measures and (best is None or measures["main"] > best.get("main", float("-inf")))
    if is_best:
        point_at(run / "best", folder)
    write_json(folder / VALIDATION, dict(measures))
    if is_best:
        _remove_old(run, keep)


def validation_at(folder: Path) -> dict[str, float] | None:
    """What validation measured at a checkpoint; None where it has not been run. Raises CheckpointError where damaged."""
    path = folder / VALIDATION
    if not path.is_file():
        return None
    try:
        measures = json.loads(path.read_bytes())
        if not isinstance(measures, dict) or not all(type(value) in (int, float) for value in measures.values()):
            raise ValueError(f"{VALIDATION} is no table of numbers")
        return {name: float(value) for name, value in measures.items()}
    except (OSError, ValueError, OverflowError, RecursionError) as error:
        raise damaged(folder, error) from error


def newest_checkpoint(run: Path) -> Path | None:
    """The newest whole checkpoint of a run folder, or None."""
    folders = [f for f in sorted((run / "checkpoints").glob("step-*")) if (f / STATE).is_file()]
    return folders[-1] if folders else None


def load_progress(folder: Path) -> Progress:
    """How far the run was at a checkpoint. Raises CheckpointError when its state cannot be read."""
    try:
        state = json.loads((folder / STATE).read_bytes())
        step, skipped = state["step"], state["skipped"]
        if type(step) is not int or type(skipped) is not int or not 0 <= skipped <= step <= MAX_STEPS:
            raise ValueError(f"{STATE} says step {shown(step)}, {shown(skipped)} skipped")
        return Progress(step, skipped)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(folder, error) from error


def check_digest(folder: Path, name: str) -> None:
    """Raises CheckpointError where a file is not the one that the checkpoint's state tells of; no state tells nothing."""
    if not (folder / STATE).is_file() or not (folder / name).is_file():
        return
    try:
        expected = json.loads((folder / STATE).read_bytes()).get("sha256", {}).get(name)
        if expected is not None and sha256_of(folder / name) != expected:
            raise ValueError(f"{name} has other bytes than were written")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise damaged(folder, error) from error


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint folder by name.

    Raises:
        CheckpointError: there are none, or the file is damaged.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise CheckpointError(
            f"cannot load a checkpoint from {folder}",
            f"there is no {WEIGHTS} in it" if folder.is_dir() else "there is no such folder",
            "make one first: cmal pretrain RECIPE",
        )
    check_digest(folder, WEIGHTS)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise damaged(folder, error) from error


def load_optimizer(folder: Path, optimizer: torch.optim.Optimizer) -> None:
    """Puts the saved state into the optimizer. Raises CheckpointError when it is missing, damaged or of another model."""
    check_digest(folder, OPTIMIZER)
    try:
        state = torch.load(folder / OPTIMIZER, weights_only=True, map_location="cpu")
        _check_optimizer_state(state, optimizer)
        optimizer.load_state_dict(shard_like_parameters(optimizer, state))
    except Exception as error:
        raise damaged(folder, error) from error


def _check_optimizer_state(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Raises where a state is not one of this optimizer: other settings, tensors of another shape or not finite."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    groups = optimizer.state_dict()["param_groups"]
    if [group["params"] for group in state["param_groups"]] != [group["params"] for group in groups]:
        raise ValueError(f"{OPTIMIZER} numbers other parameters")
    for theirs, ours in zip(state["param_groups"], optimizer.param_groups, strict=True):
        if any(theirs[name] != ours[name] for name in SETTINGS if name in ours):
            raise ValueError(f"{OPTIMIZER} has other settings than the recipe")
        if not all(0 <= float(theirs[name]) < math.inf for name in ("lr", "initial_lr") if name in theirs):
            raise ValueError(f"{OPTIMIZER} has no learning rate")
    for number, entry in state["state"].items():
        if set(entry) != {"step", "exp_avg", "exp_avg_sq"}:
            raise ValueError(f"{OPTIMIZER} holds {shown(list(entry))} of parameter {number}")
        for name, value in entry.items():
            wanted = torch.Size() if name == "step" else parameters[number].shape
            if value.shape != wanted or not value.is_floating_point() or not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name} of parameter {number} has another shape or is not finite")
        if entry["step"] < 0 or bool((entry["exp_avg_sq"] < 0).any()):
            raise ValueError(f"the means of parameter {number} are negative")


def damaged(folder: Path, error: Exception) -> CheckpointError:
    found = (str(error).splitlines() or [type(error).__name__])[0][:300]
    return CheckpointError(f"cannot load the checkpoint {folder}", found, f"remove {folder} and run again")


def fit_weights(model: nn.Module, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """Loads weights strictly: every name, shape and type must fit, and every number be finite.

    Raises:
        CheckpointError: names the first entries that are missing, unexpected, of another shape or not finite.
    """
    own = model.state_dict()
    errors = [f"missing {n}" for n in own if n not in weights] + [f"unexpected {n}" for n in weights if n not in own]
    shapes = [(n, tuple(weights[n].shape), tuple(own[n].shape)) for n in own if n in weights]
    errors += [f"{name}: {theirs} in the file, {ours} in the model" for name, theirs, ours in shapes if theirs != ours]
    both = [n for n in own if n in weights]
    errors += [
        f"{n}: {weights[n].dtype} is no type of weights"
        for n in both
        if weights[n].is_floating_point() != own[n].is_floating_point()
    ]
    errors += [f"{n}: holds numbers that are not finite" for n in both if not torch.isfinite(weights[n]).all()]
    if errors:
        listed = "; ".join(errors[:5]) + (f"; and {len(errors) - 5} more" if len(errors) > 5 else "")
        raise CheckpointError(f"the checkpoint {folder} does not fit", listed, "use the recipe it was trained with")
    model.load_state_dict(weights)
