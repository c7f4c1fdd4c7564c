"""Saves and loads the checkpoints of a run folder.

    RUN/checkpoints/step-00000500/  model.safetensors  optimizer.pt  state.json  config.json  vocab.txt
A checkpoint is written under a temporary name, synced and renamed: it is complete, or it does not exist.
"""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cmal.errors import CheckpointError, CmalError, as_user_error, in_one_line, shown, system_word
from cmal.io.files import sha256_of, sync, write_json
from cmal.training.retention import checkpoint_folder, point_at, remove_folder, remove_old
from cmal.training.sharding import shard_like_parameters
from cmal.training.state import STATE, Progress, check_digest, damaged

WEIGHTS, OPTIMIZER = "model.safetensors", "optimizer.pt"
SETTINGS = ("betas", "eps", "weight_decay", "amsgrad", "maximize")  # of an optimizer; set by the recipe
OLD_NAMES = {  # of parameters in checkpoints of earlier versions
    "prompt.text_mask": "prompt.text_mask_embedding",
    "prompt.region_mask": "prompt.region_mask_embedding",
}


class _Writer(io.BufferedWriter):
    """A file that keeps the error of a failed write: torch replaces it by one without the cause."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


def save_checkpoint(
    run: Path,
    progress: Progress,
    weights: Mapping[str, Tensor],
    optimizer_state: Mapping[str, Any],
    add_files: Callable[[Path], None],
    keep: int,
) -> Path:
    """Writes a checkpoint, points `last` at it, and removes all others but the newest `keep` and the best.

    Args:
        weights, optimizer_state: state dictionaries of unsharded tensors.
        add_files: called with the folder; writes configuration and vocabulary beside the weights.

    Returns:
        The checkpoint's folder.

    Raises:
        CmalError: the disk is full or cannot be written; earlier checkpoints are left unchanged.
    """
    final = checkpoint_folder(run, progress.step)
    temporary, writer = final.with_name(f".{final.name}.tmp"), None
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file({name: t.detach().cpu().contiguous() for name, t in weights.items()}, temporary / WEIGHTS)
        with _Writer(io.FileIO(temporary / OPTIMIZER, "w")) as writer:
            torch.save(optimizer_state, writer)
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
            raise message from error  # a loader's worker process died meanwhile: not an error of the disk
        cause = (writer and writer.error) or error.__context__ or error
        raise CmalError(
            f"cannot write the checkpoint {final}",
            f"the system says: {system_word(cause) if isinstance(cause, OSError) else in_one_line(cause)}",
            "free some space, then run the same command again: it resumes from the last complete checkpoint",
        ) from error
    remove_old(run, keep)
    return final


def load_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint folder, by parameter name.

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


def fit_weights(model: nn.Module, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Loads weights into a model: every name, shape and type must be the model's, and every number finite.

    Parameter names of earlier versions are accepted.

    Raises:
        CheckpointError: names the first five entries that do not fit.
    """
    own = model.state_dict()
    weights = {_new_name(name, own): tensor for name, tensor in weights.items()}
    both = [n for n in own if n in weights]
    errors = [f"missing {n}" for n in own if n not in weights] + [f"unexpected {n}" for n in weights if n not in own]
    errors += [
        f"{n}: {tuple(weights[n].shape)} in the file, {tuple(own[n].shape)} in the model"
        for n in both
        if weights[n].shape != own[n].shape
    ]
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


def _new_name(name: str, own: Mapping[str, Tensor]) -> str:
    for old, new in OLD_NAMES.items():
        if name.endswith(old) and (renamed := name.removesuffix(old) + new) in own:
            return renamed
    return name


def load_optimizer(folder: Path, optimizer: torch.optim.Optimizer) -> None:
    """Loads the saved optimizer state. Raises CheckpointError when it is missing, damaged or of another model."""
    check_digest(folder, OPTIMIZER)
    try:
        state = torch.load(folder / OPTIMIZER, weights_only=True, map_location="cpu")
        _check_optimizer_state(state, optimizer)
        optimizer.load_state_dict(shard_like_parameters(optimizer, state))
    except Exception as error:
        raise damaged(folder, error) from error


def _check_optimizer_state(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """Raises when a state has other settings than the optimizer, or tensors of another shape or not finite."""
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
            shape = torch.Size() if name == "step" else parameters[number].shape
            if value.shape != shape or not value.is_floating_point() or not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name} of parameter {number} has another shape or is not finite")
        if entry["step"] < 0 or bool((entry["exp_avg_sq"] < 0).any()):
            raise ValueError(f"the means of parameter {number} are negative")
