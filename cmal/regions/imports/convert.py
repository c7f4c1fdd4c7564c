"""Converts a foreign feature file into a store: detects the format, streams, checks every image, counts changes.

One shard of images is in memory at a time, at most about 200 MB.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from cmal.errors import DataError, list_errors, shown
from cmal.io.files import read_json, write_text
from cmal.io.lmdb_files import find_keys, is_lmdb
from cmal.io.locks import hold_folder
from cmal.regions.detectors.vg_names import read_names, vg_attribute_names, vg_class_names
from cmal.regions.extract import FAILED_NAME, ExtractionReport
from cmal.regions.imports.foreign import (
    LARGEST_SIDE_PX,
    UNKNOWN_CLASSES,
    UNKNOWN_SIDE_PX,
    BadImage,
    BadRow,
    ForeignImage,
    Source,
    Tally,
    image_id_of,
    to_regions,
)
from cmal.regions.imports.mmf import feature_files, open_mmf
from cmal.regions.imports.tsv import FIELDS_OF_BUTD, FIELDS_OF_LXMERT, count_fields, open_tsv
from cmal.regions.imports.uniter import KEYS_ENTRY as UNITER_KEYS
from cmal.regions.imports.uniter import open_uniter
from cmal.regions.imports.vinvl import looks_like_vinvl, open_vinvl
from cmal.regions.imports.volta import KEYS_ENTRY as VOLTA_KEYS
from cmal.regions.imports.volta import open_volta
from cmal.regions.store.layout import BYTES_A_REGION, MAX_NAMES, StoreHeader
from cmal.regions.store.shards import StoreWriter, check_disk_space
from cmal.regions.types import Regions

FORMATS = ("butd-tsv", "lxmert-tsv", "vinvl-tsv", "uniter-lmdb", "volta-lmdb", "mmf-npy")
SHARD_BYTES = 200 << 20
SHARD_IMAGES = 1000
FIXED_REGIONS, MAX_REGIONS = 36, 100
REPORT_EVERY = 100  # images
MAX_FAILURES_KEPT = 100_000


@dataclass
class ImportSummary(Tally):
    """The outcome of an import; counts of changes as in `Tally`.

    Attributes:
        format: the format that was read.
        images, regions: what the store holds.
        failed: images that could not be read, listed in `failed.jsonl`.
        repeated: further rows of an image that was already stored.
        clipped_numbers: feature numbers beyond float16 (65,504) that were cut to it, in `clipped_images` images.
        unknown_sizes: images of unknown size; their boxes are in a frame of 1000 × 1000.
        has_classes: whether the regions carry tags.
        seconds: how long it took.
    """

    format: str = ""
    has_classes: bool = True
    images: int = 0
    regions: int = 0
    failed: int = 0
    repeated: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        counts = f"{self.images:,} images, {self.regions:,} regions from {self.format} in {self.seconds:.1f} s"
        return "; ".join([counts, *self.notes()])

    def notes(self) -> list[str]:
        """One sentence per kind of problem; empty if there was none."""
        notes = []
        if self.failed:
            notes.append(f"{self.failed:,} images could not be read; {FAILED_NAME} lists them with the reasons")
        if self.repeated:
            notes.append(f"{self.repeated:,} images were repeated; the first of each was kept")
        if self.clipped_numbers:
            notes.append(
                f"{self.clipped_numbers:,} feature numbers in {self.clipped_images:,} images were beyond float16"
                " and were cut to 65,504"
            )
        if self.unknown_sizes:
            notes.append(
                f"the size of {self.unknown_sizes:,} images is not known: their boxes are in a frame of"
                f" {UNKNOWN_SIDE_PX} x {UNKNOWN_SIDE_PX}; give a list of sizes if pixels matter (referring expressions)"
            )
        if not self.has_classes:
            notes.append("the file has no object classes: its regions carry no tags, so no anchors will be found")
        return notes


def import_features(
    path: Path,
    out: Path,
    *,
    format: str | None = None,
    dataset: str | None = None,
    class_names: Path | None = None,
    attribute_names: Path | None = None,
    sizes: Path | None = None,
    report: Callable[[ExtractionReport], None] | None = None,
) -> ImportSummary:
    """Converts a foreign feature file or folder into a new region store.

    Args:
        path: the file or folder.
        out: the store's folder; it must not hold a store yet.
        format: one of `FORMATS`; None detects it.
        dataset: prefix of the image ids ("coco", "vg", ...) for keys that do not contain it.
        class_names, attribute_names: vocabulary files, one name per line; None is Visual Genome's 1,600 and 400.
        sizes: JSON with the sizes of images for formats without them: `{image id: [width, height]}`, or a COCO
            file with `images`.
        report: called every hundred images; `total` is an estimate until the end.

    Raises:
        DataError: the format is unknown, a file is unreadable, or not one image could be taken.
        StoreError: `out` holds a store already, or the disk cannot hold it.
        CmalError: another command works in `out`.
    """
    started = time.monotonic()
    path, out = Path(path), Path(out)
    source = _open(path, format, _names(class_names, vg_class_names), _names(attribute_names, vg_attribute_names))
    known_sizes = read_sizes(sizes, dataset) if sizes else {}
    run = _Run(path, dataset, source, known_sizes, report or (lambda _: None), started)
    first, images = run.peek()
    for names in (source.class_names, source.attribute_names):
        if len(names) > MAX_NAMES:
            raise DataError(
                f"cannot import {path}",
                f"it has {len(names):,} class names; a store holds {MAX_NAMES:,} at most",
                _CHOOSE,
            )
    header = StoreHeader(
        f"import:{source.format}", "", first.features.shape[1], source.class_names, source.attribute_names
    )
    with hold_folder(out), StoreWriter(out, header, _shard_images(first)) as writer:
        run.report_size(out, first)
        run.write(images, writer)
        if not run.summary.images:
            raise run.nothing()
        _write_failures(out, path, run.failures)  # before the index, which completes the store
    run.summary.seconds = time.monotonic() - started
    return run.summary


def detect_format(path: Path) -> str:
    """Which of `FORMATS` a file or folder is.

    Raises:
        DataError: nothing there, or none of them.
    """
    if not path.exists():
        raise DataError(f"cannot import {path}", "there is no such file or folder", "check the path")
    if is_lmdb(path):
        return "volta-lmdb" if find_keys(path, UNITER_KEYS, VOLTA_KEYS) == {VOLTA_KEYS} else "uniter-lmdb"
    if path.is_dir():
        if looks_like_vinvl(path):
            return "vinvl-tsv"
        if next(feature_files(path), None):
            return "mmf-npy"
    else:
        fields = count_fields(path)
        if fields in (FIELDS_OF_BUTD, FIELDS_OF_LXMERT):
            return "butd-tsv" if fields == FIELDS_OF_BUTD else "lxmert-tsv"
        if looks_like_vinvl(path):
            return "vinvl-tsv"
    raise DataError(
        f"cannot import {path}", "it is none of the known feature formats", f"known formats: {', '.join(FORMATS)}"
    )


def read_sizes(path: Path, dataset: str | None) -> dict[str, tuple[int, int]]:
    """(width, height) by image id, from `{id: [width, height]}` or a COCO file's `images`.

    Raises:
        DataError: neither.
    """
    value = read_json(path)
    try:
        if isinstance(value, dict) and isinstance(value.get("images"), list):
            rows = value["images"]
            return {image_id_of(_key_of(row), dataset or "coco"): _size((row["width"], row["height"])) for row in rows}
        return {image_id_of(str(key), dataset): _size(size) for key, size in value.items()}
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise DataError(
            f"cannot read image sizes from {path}",
            f"{type(error).__name__}: {error}",
            'give {"image id": [width, height], ...}, or a COCO file with "images"',
        ) from error


def _size(size: Sequence[int]) -> tuple[int, int]:
    """Raises ValueError unless these are a width and a height in pixels."""
    width, height = size
    if not all(type(side) is int and 1 <= side <= LARGEST_SIDE_PX for side in (width, height)):
        raise ValueError(f"{shown(size)} is not a width and a height")
    return width, height


class _Run:
    """One running import."""

    def __init__(
        self,
        path: Path,
        dataset: str | None,
        source: Source,
        sizes: Mapping[str, tuple[int, int]],
        report: Callable[[ExtractionReport], None],
        started: float,
    ):
        self.path, self.dataset, self.source, self.sizes = path, dataset, source, sizes
        self.report, self.started = report, started
        self.summary = ImportSummary(format=source.format, has_classes=source.class_names != UNKNOWN_CLASSES)
        self.failures: list[dict[str, str]] = []
        self.seen: set[str] = set()

    def peek(self) -> tuple[ForeignImage, Iterator[ForeignImage]]:
        """The first image that has regions, and the stream from its beginning; raises DataError where there is none."""
        before: list[ForeignImage] = []
        stream = self._readable()
        for image in stream:
            before.append(image)
            if image.features.ndim == 2 and len(image.features):
                return image, chain(before, stream)
        raise self.nothing()

    def report_size(self, out: Path, first: ForeignImage) -> None:
        """Reports the size of the store, estimated from the first image. Raises StoreError if the disk is too small."""
        progress, regions = self.source.progress, len(first.features)
        images = max(1, round(progress.total / max(progress.done, 1)))
        note = check_disk_space(out, images, f"about {regions}", regions, first.features.shape[1])
        self.report(ExtractionReport(0, images, 0, time.monotonic() - self.started, f"about {note}"))

    def write(self, images: Iterator[ForeignImage], writer: StoreWriter) -> None:
        feature_size = writer.header.feature_size
        for image in images:
            try:
                image_id = image_id_of(image.key, self.dataset)
                if image_id in self.seen:
                    self.summary.repeated += 1
                    continue
                regions = self._convert(image, image_id, feature_size)
            except BadRow as error:
                self._fail(BadImage(image.key, image.where, str(error)))
                continue
            self.seen.add(image_id)
            writer.add(image_id, regions)
            self.summary.images += 1
            self.summary.regions += len(regions)
            if self.summary.images % REPORT_EVERY == 0:
                self._report()
        self._report(is_end=True)

    def nothing(self) -> DataError:
        """The error of a file without one usable image."""
        seen = [f"{bad['path']}: {bad['reason']}" for bad in self.failures[:5]] or ["it holds no image"]
        return DataError(f"cannot import {self.path} as {self.source.format}", list_errors(seen), _CHOOSE)

    def _convert(self, image: ForeignImage, image_id: str, feature_size: int) -> Regions:
        if not len(image.features):
            image = replace(image, features=np.zeros((0, feature_size), np.float16))
        if image.features.shape[-1] != feature_size:
            raise BadRow(f"{image.features.shape[-1]} features per region; the first image has {feature_size}")
        names = len(self.source.class_names), len(self.source.attribute_names)
        return to_regions(image, image_id, *names, self.sizes, self.summary)

    def _readable(self) -> Iterator[ForeignImage]:
        for image in self.source.images:
            if isinstance(image, BadImage):
                self._fail(image)
            else:
                yield image

    def _fail(self, bad: BadImage) -> None:
        self.summary.failed += 1
        if len(self.failures) < MAX_FAILURES_KEPT:
            self.failures.append({"image_id": bad.key, "path": bad.where, "reason": bad.reason})

    def _report(self, is_end: bool = False) -> None:
        summary, progress = self.summary, self.source.progress
        summary.seconds = time.monotonic() - self.started
        done = summary.images + summary.failed + summary.repeated
        total = done if is_end else max(done, round(done * progress.total / max(progress.done, 1)))
        self.report(ExtractionReport(done, total, summary.failed, summary.seconds))


_CHOOSE = f"check the file; known formats: {', '.join(FORMATS)}"


def _open(path: Path, format: str | None, classes: tuple[str, ...], attributes: tuple[str, ...]) -> Source:
    chosen = detect_format(path) if format is None else format
    if chosen not in FORMATS:
        raise DataError(
            f"cannot import {path}", f'"{chosen}" is no known format', f"known formats: {', '.join(FORMATS)}"
        )
    if not path.exists():
        raise DataError(f"cannot import {path}", "there is no such file or folder", "check the path")
    if chosen in ("butd-tsv", "lxmert-tsv"):
        return open_tsv(path, classes, attributes)
    if chosen == "vinvl-tsv":
        return open_vinvl(path)
    if chosen == "uniter-lmdb":
        return open_uniter(path, classes)
    if chosen == "volta-lmdb":
        return open_volta(path, classes, attributes)
    return open_mmf(path, classes)


def _names(path: Path | None, usual: Callable[[], tuple[str, ...]]) -> tuple[str, ...]:
    if path is None:
        return usual()
    try:
        return read_names(Path(path))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the names in {path}", f"the system says: {error}", "check the path") from error


def _key_of(row: Mapping[str, object]) -> str:
    return str(row.get("file_name") or row["id"])


def _shard_images(first: ForeignImage) -> int:
    """Images per shard of at most about 200 MB, estimated from the first image."""
    count = FIXED_REGIONS if len(first.features) <= FIXED_REGIONS else max(len(first.features), MAX_REGIONS)
    return max(1, min(SHARD_IMAGES, SHARD_BYTES // (count * (2 * first.features.shape[1] + BYTES_A_REGION))))


def _write_failures(out: Path, path: Path, failures: list[dict[str, str]]) -> None:
    (out / FAILED_NAME).unlink(missing_ok=True)  # left by an import that was killed
    if failures:
        lines = ({**line, "path": f"{path.name}: {line['path']}"} for line in failures)
        write_text(out / FAILED_NAME, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
