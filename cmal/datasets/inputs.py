"""Official files, found by their official names in the folder they were downloaded to."""

from __future__ import annotations

import os
from pathlib import Path

from cmal.errors import DataError
from cmal.io.files import sha256_of

ENDINGS = (".json", ".jsonl", ".tsv", ".csv", ".txt", ".p", ".token")
_SKIPPED_FOLDERS = ("__MACOSX", "train2014", "val2014", "test2015", "train2017", "val2017", "test2017", "VG_100K")


class RawFolder:
    """The official files below a folder, by name.

    Args:
        folder: where the downloads were unpacked; folders in it are searched, hidden ones and image folders are not.
        dataset: files below a folder of this name are preferred where a name is found more than once.
        source: where the data set is published, for the message.

    Raises:
        DataError: there is no such folder.
    """

    def __init__(self, folder: Path, dataset: str, source: str):
        self.folder, self.dataset, self.source = Path(folder), dataset, source
        if not self.folder.is_dir():
            raise DataError(
                f"cannot prepare {dataset}", f"there is no folder {folder}", "give the downloaded files with --raw DIR"
            )
        self.used: list[Path] = []
        self._paths = _paths_by_name(self.folder)

    def find(self, *names: str) -> Path | None:
        """The file of one of these names; marks it as used. None if there is none.

        Raises:
            DataError: several different files have these names.
        """
        found = [path for name in names for path in self._paths.get(name, ())]
        if len(found) > 1:
            found = [p for p in found if self.dataset in p.relative_to(self.folder).parts[:-1]] or found
        if len(found) > 1 and len({sha256_of(path) for path in found}) > 1:
            listed = ", ".join(str(path.relative_to(self.folder)) for path in found[:6])
            raise DataError(
                f"cannot choose between files of {self.dataset}",
                f"{self.folder} holds {listed}",
                "give a narrower folder with --raw, one that holds a single one of them",
            )
        if not found:
            return None
        if found[0] not in self.used:
            self.used.append(found[0])
        return found[0]

    def need(self, *names: str) -> Path:
        """As `find`. Raises DataError with the file's name and source if there is none."""
        path = self.find(*names)
        if path is None:
            raise self.missing(" or ".join(names))
        return path

    def missing(self, names: str) -> DataError:
        """A DataError with the name of the missing file and where it is published."""
        return DataError(
            f"cannot prepare {self.dataset}: a file is missing",
            f"there is no {names} in {self.folder} or its folders",
            f"it is published at {self.source}; unpack it there",
        )

    def facts(self) -> list[dict[str, object]]:
        """Name, size and sha256 of every file used so far, for the manifest."""
        return [file_facts(path, self.folder) for path in self.used]


def file_facts(path: Path, folder: Path) -> dict[str, object]:
    """Name (below `folder` where it is there), size in bytes and sha256 of an input file."""
    name = path.relative_to(folder) if path.is_relative_to(folder) else Path(path.name)
    return {"name": str(name), "bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _paths_by_name(folder: Path) -> dict[str, list[Path]]:
    paths: dict[str, list[Path]] = {}
    visited = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in visited:  # a link that leads back
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if name not in _SKIPPED_FOLDERS and not name.startswith("."))
        for name in sorted(files):
            if name.endswith(ENDINGS) and not name.startswith("."):
                paths.setdefault(name, []).append(Path(parent, name))
    return paths
