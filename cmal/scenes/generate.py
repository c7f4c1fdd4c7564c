"""Generates the data set `scenes`: pictures, official files and gold anchors, on all cores, in bounded memory.

Worker processes draw blocks of 16 scenes; the hypotheses of a block are generated together. Rows are written in the
order of the blocks, so the bytes do not depend on the number of workers. An image does not depend on the image count.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cmal.errors import DataError
from cmal.io.files import atomic_path, cannot_write, read_json, remove_left_overs, write_json
from cmal.io.signals import end_helpers, ignore_stopping, start_resource_tracker
from cmal.scenes.drawing import encode_jpeg, make_scene
from cmal.scenes.language import make_captions, make_hypotheses, make_questions, make_references
from cmal.scenes.preview import contact_sheet
from cmal.scenes.scene import Scene
from cmal.scenes.writer import SPLITS, Rows, SceneTexts, Tables, scene_rows

VERSION = 1  # increase it when the same seed gives other pictures or texts
BLOCK = 16
PREVIEW_SCENES, PREVIEW_COLUMNS = 24, 6
MAX_IMAGES = 1_000_000  # per split; file names have six digits
_CAPTIONS, _REFERENCES, _QUESTIONS, _HYPOTHESES = 1, 2, 3, 4  # last entry of each text's seed

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class _Block:
    """A unit of work: scenes `first` to `first + count - 1` of a split. Pictures are written to `folder`."""

    seed: int
    split: str
    first: int
    count: int
    first_imgid: int
    folder: Path


def write_scenes(out: Path, images: dict[str, int], seed: int, workers: int = 0, report: Report | None = None) -> None:
    """Generates the data set in `out`. Returns at once if the same call has completed before.

    Writes `images/<split>/000012.jpg`, `preview.png`, `official/*`, `gold_anchors/<split>.jsonl` and finally
    `official/complete.json`. A call with other arguments replaces the data set.

    Args:
        out: the folder, e.g. data/scenes.
        images: number of images for each of train, val and test.
        seed: non-negative. The same seed gives the same bytes.
        workers: number of processes; 0 = one per core.
        report: called with (split, images done, images in total) after every block.

    Raises:
        DataError: `images` or `seed` is invalid.
        CmalError: the disk is full.
    """
    _check(images, seed)
    out = Path(out)
    complete = out / "official" / "complete.json"
    if is_complete(out, images, seed):
        return
    complete.unlink(missing_ok=True)
    for folder in (out, out / "official", out / "gold_anchors"):
        remove_left_overs(folder)
    blocks = list(_blocks(out, images, seed))
    with Tables(out / "official") as tables, _mapped(workers or _cores(), len(blocks)) as run:
        for block, rows in zip(blocks, run(_make_block, blocks)):
            for scene in rows:
                tables.add(block.split, scene)
            if report is not None:
                report(block.split, block.first + block.count, images[block.split])
        tables.write_files(out / "official", out / "gold_anchors")
    _remove_others(out / "images", images)
    _write_preview(out / "preview.png", min(PREVIEW_SCENES, images["train"]), seed)
    os.sync()  # complete.json promises that the pictures are on the disk too
    write_json(complete, _completed(images, seed))


def is_complete(out: Path, images: dict[str, int], seed: int) -> bool:
    """Has this version of the generator completed the same call in `out`?"""
    complete = Path(out) / "official" / "complete.json"
    try:
        return complete.is_file() and read_json(complete) == _completed(images, seed)
    except DataError:
        return False


def _completed(images: dict[str, int], seed: int) -> dict[str, object]:
    """The content of complete.json."""
    return {"seed": seed, "images": {split: images[split] for split in SPLITS}, "version": VERSION}


def _check(images: dict[str, int], seed: int) -> None:
    errors = [f'"{split}" is missing' for split in SPLITS if split not in images]
    errors += [f'"{split}" is not a split' for split in images if split not in SPLITS]
    errors += [f"{n:,} images for {split}" for split, n in images.items() if not 1 <= n <= MAX_IMAGES]
    errors += [f"seed {seed}"] if seed < 0 else []
    if errors:
        raise DataError(
            "cannot generate scenes",
            "; ".join(errors),
            f"ask for 1 to {MAX_IMAGES:,} images of each of {', '.join(SPLITS)}, and a seed of 0 or more",
        )


def _cores() -> int:
    """Number of cores this process may use. A container or scheduler can allow fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _blocks(out: Path, images: dict[str, int], seed: int) -> Iterator[_Block]:
    before = 0
    for split in SPLITS:
        folder = out / "images" / split
        folder.mkdir(parents=True, exist_ok=True)
        for first in range(0, images[split], BLOCK):
            count = min(BLOCK, images[split] - first)
            yield _Block(seed, split, first, count, before + first, folder)
        before += images[split]


@contextmanager
def _mapped(workers: int, blocks: int) -> Iterator[Callable[..., Iterable]]:
    """A `map` in order: over worker processes, or in this process if there is only one worker or block."""
    if min(workers, blocks) < 2:
        yield map
        return
    context, before = multiprocessing.get_context("spawn"), multiprocessing.active_children()
    start_resource_tracker()
    pool = ProcessPoolExecutor(min(workers, blocks), mp_context=context, initializer=_end_with_parent)
    try:
        yield pool.map
    except BrokenProcessPool:
        end_helpers(before)  # otherwise the pool waits for the other workers
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """Initializes a worker: it exits when its parent has died, even if the parent was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    ignore_stopping()  # the parent stops its workers
    threading.Thread(target=watch, daemon=True).start()


def _make_block(block: _Block) -> list[Rows]:
    """Renders a block, writes its pictures and returns the rows of each scene.

    All 16 scenes are drawn even if `count` is smaller, because the hypotheses depend on every scene of the block.
    """
    drawn = [make_scene(block.seed, block.split, block.first + k) for k in range(BLOCK)]
    scenes = [scene for _, scene in drawn]
    hypotheses = make_hypotheses(scenes, _generator(scenes[0], block.seed, _HYPOTHESES))
    rows = []
    for k in range(block.count):
        image, scene = drawn[k]
        _write_picture(block.folder / f"{scene.index:06d}.jpg", encode_jpeg(image))
        texts = SceneTexts(
            make_captions(scene, _generator(scene, block.seed, _CAPTIONS)),
            make_references(scene, _generator(scene, block.seed, _REFERENCES)),
            make_questions(scene, _generator(scene, block.seed, _QUESTIONS)),
            tuple(hypotheses[k]),
        )
        rows.append(scene_rows(scene, texts, block.first_imgid + k))
    return rows


def _generator(scene: Scene, seed: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed, SPLITS.index(scene.split), scene.index, purpose])


def _write_picture(path: Path, data: bytes) -> None:
    """Writes a picture atomically, without fsync: `write_scenes` syncs all pictures at the end."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def _remove_others(folder: Path, images: dict[str, int]) -> None:
    """Removes pictures and temporary files of earlier runs. Files with other names stay."""
    for split in SPLITS:
        for entry in os.scandir(folder / split):
            named = re.fullmatch(r"(\.?)(\d{6})\.jpg(\.tmp)?", entry.name)
            if named and (named[3] or int(named[2]) >= images[split]):
                os.unlink(entry.path)


def _write_preview(path: Path, scenes: int, seed: int) -> None:
    sheet = contact_sheet([make_scene(seed, "train", i) for i in range(scenes)], PREVIEW_COLUMNS)
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")
