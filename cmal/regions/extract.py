"""From images to a region store: reads ahead, detects in batches, writes shards in a thread, and resumes.

A shard is the unit of work. Its images, in the order of the plan, form batches that never span two shards. A run that was
killed and started again therefore writes the same bytes as an uninterrupted run.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from cmal.errors import CmalError, DataError, ImageError, StoreError
from cmal.io.files import write_text
from cmal.io.locks import hold_folder, lock_file
from cmal.regions.detectors import Detector
from cmal.regions.images import read_reduced
from cmal.regions.store.layout import INDEX_NAME, ShardInfo, StoreHeader, read_index
from cmal.regions.store.plan import Plan, extend_plan, load_plan, save_plan
from cmal.regions.store.shards import check_disk_space, shard_name, write_index, write_shard
from cmal.regions.types import Regions

FAILED_NAME = "failed.jsonl"
_NOT_FINITE = "the detector gave features that are not finite"
_Picture = tuple[np.ndarray, tuple[int, int]]  # pixels, perhaps reduced, and the full (width, height)
DEFAULT_REGIONS = 36  # for the size foretold, where a detector does not say how many it gives


@dataclass(frozen=True)
class ExtractionReport:
    """Progress of an extraction. `note` is a line to print; counts cover this process only."""

    done: int
    total: int
    failed: int
    seconds: float
    note: str = ""


@dataclass(frozen=True)
class ExtractionSummary:
    """Counts of images stored, failed, and already in the store before the run; and the seconds it took."""

    images: int
    failed: int
    skipped: int
    seconds: float


@dataclass
class _Run:
    """State of a running extraction."""

    out: Path
    detector: Detector
    header: StoreHeader
    root: Path | None
    batch_size: int
    workers: int
    report: Callable[[ExtractionReport], None]
    total: int = 0
    done: int = 0
    stored: int = 0
    failed: int = 0
    started: float = field(default_factory=time.monotonic)

    def tell(self, note: str = "") -> None:
        self.report(ExtractionReport(self.done, self.total, self.failed, time.monotonic() - self.started, note))


def extract_regions(
    images: Iterable[tuple[str, Path]],
    detector: Detector,
    out: Path,
    *,
    root: Path | None = None,
    batch_size: int = 16,
    shard_size: int = 1000,
    shard: tuple[int, int] = (0, 1),
    workers: int = 1,
    report: Callable[[ExtractionReport], None] = lambda event: None,
) -> ExtractionSummary:
    """Stores the regions of images that the store does not have yet.

    Args:
        images: (image id, file), in any order.
        detector: may have `settings` (a dict that must be equal in later runs), `max_regions` (for the estimate of the
            size), `knows(image_id)` and `detect_named(image_ids, images)` (see `detectors.NamedDetector`).
        out: the store folder; created if missing.
        root: the folder that must contain all files, links resolved.
        batch_size: images per batch.
        shard_size: images per shard; an existing store keeps its shard size.
        shard: (i, n): do only the shards with number % n == i; other processes do the others.
        workers: threads that read and decode ahead of the detector.
        report: called after each batch.

    Raises:
        StoreError: the folder is in use, was started with another detector, or the disk is too small.
        DataError: one image id has two files, or there are no images.
    """
    files = _distinct(images)
    header, settings = StoreHeader.of(detector), dict(getattr(detector, "settings", {}))
    out, (slice_number, slices) = Path(out), shard
    run = _Run(out, detector, header, root, batch_size, workers, report)
    with hold_folder(out, shard):
        plan = _settle_plan(out, header, settings, sorted(files), shard_size)
        finished = {info.name for info in read_index(out)[1]}
        ours = [(number, ids) for number, ids in enumerate(plan.shards()) if number % slices == slice_number]
        ours = [(number, ids) for number, ids in ours if any(image_id in files for image_id in ids)]
        work = [(number, ids) for number, ids in ours if shard_name(number) not in finished]
        skipped = sum(len(ids) for _, ids in ours) - sum(len(ids) for _, ids in work)
        run.total = sum(len(ids) for _, ids in work)
        _check_disk(run)
        with ThreadPoolExecutor(1, thread_name_prefix="write-shard") as writer:
            writing: Future | None = None
            for number, ids, looked_at in _detect_all(run, work, files):
                _finish(run, writing)  # at most two shards are in memory
                writing = writer.submit(_keep, run, number, ids, looked_at, files)
            _finish(run, writing)
    return ExtractionSummary(run.stored, run.failed, skipped, time.monotonic() - run.started)


def _distinct(images: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for image_id, path in images:
        if files.setdefault(image_id, path) != path:
            raise DataError(
                f'cannot extract regions: the image id "{image_id}" stands for two files',
                f"{files[image_id]} and {path}",
                "keep the two in folders of different names, or rename one",
            )
    if not files:
        raise DataError("cannot extract regions", "there is no image in what was given", "check the path")
    return files


def _settle_plan(out: Path, header: StoreHeader, settings: dict, image_ids: list[str], shard_size: int) -> Plan:
    """Loads, extends and saves the plan; a new store gets an index without shards."""
    with lock_file(out / ".index.lock"):
        before = load_plan(out, header, settings)
        if before is None and (out / INDEX_NAME).exists():
            raise StoreError(
                f"cannot continue the region store {out}",
                "it was imported or written elsewhere and has no plan of images",
                "choose another --out",
            )
        plan = extend_plan(before, image_ids, shard_size)
        if plan is not before:
            save_plan(out, plan, header, settings)
        if not (out / INDEX_NAME).exists():
            write_index(out, header, [])
    return plan


def _check_disk(run: _Run) -> None:
    regions = int(getattr(run.detector, "max_regions", DEFAULT_REGIONS))
    note = check_disk_space(run.out, run.total, f"up to {regions}", regions, run.header.feature_size)
    if run.total:
        run.tell(note)


def _detect_all(
    run: _Run, work: Sequence[tuple[int, tuple[str, ...]]], files: dict[str, Path]
) -> Iterator[tuple[int, tuple[str, ...], list[tuple[str, Regions | str]]]]:
    """For each shard its number, its image ids, and for each image its regions or the reason for the failure."""
    stream = _read_ahead(run, [(image_id, files.get(image_id)) for _, ids in work for image_id in ids])
    with contextlib.closing(stream):
        for number, ids in work:
            found: list[tuple[str, Regions | str]] = []
            batch: list[tuple[str, _Picture]] = []
            for _ in ids:
                image_id, image = next(stream)
                if isinstance(image, str):
                    found.append((image_id, image))
                    run.done += 1
                else:
                    batch.append((image_id, image))
                if len(batch) == run.batch_size:
                    _detect_batch(run, batch, found)
                    batch = []
            if batch:
                _detect_batch(run, batch, found)
            yield number, ids, found


def _detect_batch(run: _Run, batch: list[tuple[str, _Picture]], found: list[tuple[str, Regions | str]]) -> None:
    image_ids, images = [image_id for image_id, _ in batch], [pixels for _, (pixels, _) in batch]
    detect_named = getattr(run.detector, "detect_named", None)
    try:
        regions = detect_named(image_ids, images) if detect_named else run.detector.detect(images)
    except RuntimeError as error:
        if "out of memory" not in str(error).lower():
            raise
        raise CmalError(
            f"the detector ran out of memory at {len(images)} images a batch",
            str(error).splitlines()[0],
            "give a smaller --batch-size; what is done is kept",
        ) from error
    for (image_id, (_, size_wh_px)), one in zip(batch, regions, strict=True):
        is_finite = bool(np.isfinite(one.features).all())
        found.append((image_id, _scaled(one, size_wh_px) if is_finite else _NOT_FINITE))
    run.done += len(batch)
    run.tell()


def _scaled(regions: Regions, size_wh_px: tuple[int, int]) -> Regions:
    """Regions that were found in a reduced image, in pixels of the full image."""
    if regions.image_wh_px == size_wh_px:
        return regions
    scale = np.tile(np.divide(size_wh_px, regions.image_wh_px), 2)
    boxes = np.minimum(regions.boxes_xyxy_px * scale, np.tile(size_wh_px, 2)).astype(np.float32)
    return replace(regions, boxes_xyxy_px=boxes, image_wh_px=size_wh_px)


def _read_ahead(
    run: _Run, items: Sequence[tuple[str, Path | None]]
) -> Generator[tuple[str, _Picture | str], None, None]:
    """Decodes in threads, about two batches ahead; yields the pixels, or the reason for the failure."""
    knows = getattr(run.detector, "knows", None)

    def read(image_id: str, path: Path | None) -> _Picture | str:
        if path is None:
            return "it is no longer among the images given"
        if knows is not None and not knows(image_id):
            return f"{run.detector.name} has no entry for it"
        try:
            return read_reduced(path, run.root, getattr(run.detector, "enough_px", None))
        except ImageError as error:
            return error.found

    waiting: deque[tuple[str, Future]] = deque()
    pool = ThreadPoolExecutor(max(1, run.workers), thread_name_prefix="read-image")
    try:
        for image_id, path in items:
            waiting.append((image_id, pool.submit(read, image_id, path)))
            if len(waiting) >= 2 * run.batch_size + run.workers:
                image_id, future = waiting.popleft()
                yield image_id, future.result()
        while waiting:
            image_id, future = waiting.popleft()
            yield image_id, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _keep(
    run: _Run, number: int, ids: tuple[str, ...], looked_at: list[tuple[str, Regions | str]], files: dict[str, Path]
) -> tuple[int, int]:
    """Writes one shard: failures first, then the shard, then the index, so that the index only lists complete shards.

    Runs in a thread while the detector works on the next shard. Returns the numbers of stored and of failed images.
    """
    found = dict(looked_at)
    failures = {image_id: reason for image_id, reason in found.items() if isinstance(reason, str)}
    good = [(image_id, one) for image_id in ids if not isinstance(one := found[image_id], str)]
    with lock_file(run.out / ".index.lock"):
        _write_failures(run, set(ids), failures, files)
    info = write_shard(run.out / shard_name(number), good, run.header)
    with lock_file(run.out / ".index.lock"):
        add_to_index(run.out, run.header, info)
    return len(good), len(failures)


def _finish(run: _Run, writing: Future | None) -> None:
    """Waits for the shard that is being written and counts it; raises the errors of the writing thread."""
    if writing is not None:
        stored, failed = writing.result()
        run.stored += stored
        run.failed += failed
        run.tell()


def add_to_index(folder: Path, header: StoreHeader, info: ShardInfo) -> None:
    """Adds a shard to `index.json`, or replaces its entry."""
    shards = [shard for shard in read_index(folder)[1] if shard.name != info.name]
    write_index(folder, header, [*shards, info])


def _write_failures(run: _Run, ids: set[str], failures: dict[str, str], files: dict[str, Path]) -> None:
    path = run.out / FAILED_NAME
    lines = [line for line in read_failures(run.out) if line["image_id"] not in ids]
    for image_id, reason in failures.items():
        lines.append({"image_id": image_id, "path": _shown(files.get(image_id), run.root), "reason": reason})
    if lines or path.exists():
        lines.sort(key=lambda line: line["image_id"])
        write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _shown(path: Path | None, root: Path | None) -> str:
    if path is None:
        return ""
    with contextlib.suppress(ValueError):
        return str(Path(path).relative_to(root)) if root is not None else str(path)
    return str(path)


_OF_A_FAILURE = ("image_id", "path", "reason")


def read_failures(folder: Path) -> list[dict[str, str]]:
    """Lines of `failed.jsonl` (image_id, path, reason); empty if there is no such file.

    Raises:
        DataError: a line of it is not JSON, or lacks one of the three texts.
    """
    path = Path(folder) / FAILED_NAME
    if not path.exists():
        return []
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        if not all(
            isinstance(line, dict) and all(isinstance(line.get(n), str) for n in _OF_A_FAILURE) for line in lines
        ):
            raise ValueError("a line lacks image_id, path or reason")
        return lines
    except (ValueError, RecursionError) as error:
        raise DataError(f"cannot read {path}", f"it is not JSON lines: {error}", "remove the file") from error
