"""The folder of one prepared data set: split files under temporary names, then renamed together, the manifest last.

A folder with a manifest is complete. A run that fails leaves the folder unchanged. A run killed while renaming leaves
no manifest, and the next run starts over.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from cmal.data.records import PairRecord, Record, record_line
from cmal.errors import CmalError
from cmal.io.files import atomic_path, cannot_write, write_json
from cmal.io.locks import hold_folder
from cmal.regions.image_ids import MANIFEST

TEMPORARY_PREFIX, TEMPORARY_SUFFIX = ".prepare-", ".tmp"
REPORT_EVERY_RECORDS = 20_000

Progress = Callable[[str, int, int], None]  # what, done, total (0 = unknown)


class SplitFile:
    """One `<split>.jsonl` while it is written."""

    def __init__(self, name: str, path: Path, progress: Progress | None):
        self.name, self.path, self.progress, self.records = name, path, progress, 0
        self.images: set[str] = set()
        self._file: BinaryIO = path.open("wb")

    def add(self, record: Record) -> None:
        self._file.write(record_line(record).encode("utf-8"))
        self.records += 1
        self.images.update(images_of(record))
        if self.progress and self.records % REPORT_EVERY_RECORDS == 0:
            self.progress(self.name, self.records, 0)

    def close(self) -> None:
        if not self._file.closed:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()


class OutputFolder:
    """The split files and other files of one data set; `commit` puts them under their names, otherwise they are removed.

    Use as a context manager. Raises CmalError where the disk is full or the folder cannot be written.
    """

    def __init__(self, folder: Path, progress: Progress | None = None):
        self.folder, self.progress = Path(folder), progress
        self.splits: dict[str, SplitFile] = {}
        self.others: dict[str, object] = {}

    def __enter__(self) -> OutputFolder:
        self._held = contextlib.ExitStack()
        self._held.enter_context(hold_folder(self.folder))
        self._sweep()
        return self

    def split(self, name: str) -> SplitFile:
        """The split's file, created at the first call."""
        if name not in self.splits:
            path = self.folder / f"{TEMPORARY_PREFIX}{name}.jsonl{TEMPORARY_SUFFIX}"
            self.splits[name] = SplitFile(name, path, self.progress)
        return self.splits[name]

    def commit(self, manifest: dict) -> None:
        """Renames the splits, then writes the JSON files of `others`, and the manifest last."""
        for split in self.splits.values():
            split.close()
        (self.folder / MANIFEST).unlink(missing_ok=True)
        names = {f"{name}.jsonl" for name in self.splits}
        for stale in self.folder.glob("*.jsonl"):
            if stale.name not in names:
                stale.unlink()
        for name, split in self.splits.items():
            with atomic_path(self.folder / f"{name}.jsonl") as temporary:
                os.replace(split.path, temporary)
        for name, value in self.others.items():
            write_json(self.folder / name, value)
        write_json(self.folder / MANIFEST, manifest)

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for split in self.splits.values():
            with contextlib.suppress(OSError):
                split.close()
        self._sweep()
        self._held.close()
        if isinstance(error, OSError) and not isinstance(error, CmalError):
            raise cannot_write(self.folder, error) from error

    def _sweep(self) -> None:
        for leftover in self.folder.glob(f"{TEMPORARY_PREFIX}*{TEMPORARY_SUFFIX}"):
            with contextlib.suppress(OSError):
                leftover.unlink()


def images_of(record: Record) -> tuple[str, ...]:
    """The image ids of a record."""
    return (record.left_image_id, record.right_image_id) if isinstance(record, PairRecord) else (record.image_id,)
