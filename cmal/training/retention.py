"""Which checkpoints of a run folder are kept, and where its links `last` and `best` point.

RUN/checkpoints/step-00000500/   one checkpoint
RUN/last, RUN/best               links to one of them
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from cmal.io.files import remove_left_overs, write_json
from cmal.training.state import STATE, VALIDATION, load_progress, validation_at


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of a step lies in a run folder."""
    return run / "checkpoints" / f"step-{step:08d}"


def newest_checkpoint(run: Path) -> Path | None:
    """The newest complete checkpoint of a run folder, or None."""
    folders = [f for f in sorted((run / "checkpoints").glob("step-*")) if (f / STATE).is_file()]
    return folders[-1] if folders else None


def point_at(link: Path, folder: Path) -> None:
    """Makes `link` a relative link to `folder`, atomically."""
    temporary = link.with_name(f".{link.name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(folder, link.parent))
    os.replace(temporary, link)


def remove_folder(folder: Path) -> None:
    """Removes a folder. It is renamed first, so that a killed process never leaves half of it under its own name."""
    if folder.exists():
        temporary = folder.with_name(f".{folder.name}.old.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        folder.rename(temporary)
        shutil.rmtree(temporary, ignore_errors=True)


def remove_old(run: Path, keep: int) -> None:
    """Removes all checkpoints but the newest `keep` and those that `last` and `best` point at."""
    linked = {(run / name).resolve() for name in ("last", "best")}
    for folder in sorted((run / "checkpoints").glob("step-*"))[:-keep]:
        if folder.resolve() not in linked:
            remove_folder(folder)


def keep_best(run: Path, step: int, measures: Mapping[str, float], keep: int) -> None:
    """Points `best` at a step's checkpoint if its "main" measure is the highest so far, and writes validation.json.

    The file is written after the link: where it exists, validation is complete and `best` is right.
    """
    folder = checkpoint_folder(run, step)
    best = validation_at(run / "best")
    is_best = "main" in measures and (best is None or measures["main"] > best.get("main", float("-inf")))
    if is_best:
        point_at(run / "best", folder)
    write_json(folder / VALIDATION, dict(measures))
    if is_best:
        remove_old(run, keep)


def recover_run_folder(run: Path, keep: int) -> Path | None:
    """Repairs a run folder after its process was killed: removes half-written files, points `last` at the newest.

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
        remove_old(run, keep)
    return newest


def make_links_again(run: Path) -> None:
    """Replaces `last` and `best` by links again after a copy (scp -r, cp -rL) turned them into folders.

    A checkpoint that exists only as such a folder is moved into RUN/checkpoints.

    Raises:
        CheckpointError: such a folder's state.json is damaged.
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
