"""Image ids and files: of a folder, or of the records of a prepared data set."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from cmal.errors import DataError
from cmal.regions.image_ids import guess_dataset, image_id_for_file
from cmal.regions.images import find_images

ID_KEYS = ("image_id", "left_image_id", "right_image_id")


def images_of_folder(folder: Path, dataset: str | None = None) -> Iterator[tuple[str, Path]]:
    """(image id, file) of every image below a folder.

    Args:
        folder: the image root.
        dataset: data set of the images; None: guessed from the folder.

    Raises:
        ImageError: not a folder.
        DataError: `dataset` is unknown, or cannot be guessed.
    """
    folder = Path(folder)
    dataset = dataset or guess_dataset(folder)
    for path in find_images(folder):
        yield image_id_for_file(dataset, path.relative_to(folder).as_posix()), path


def images_of_records(records: Path, folder: Path, dataset: str | None = None) -> Iterator[tuple[str, Path]]:
    """(image id, file) of every image that a records file names, once each. Missing files are included.

    Raises:
        DataError: the records cannot be read, or name no image, or none of their images lies in the folder.
    """
    needed = dict.fromkeys(_ids_of(Path(records)))
    files = dict(images_of_folder(folder, dataset or _dataset_of(needed)))
    there = [image_id for image_id in needed if image_id in files]
    if not there:
        example = next(iter(files), None)
        raise DataError(
            f"cannot find the images of {records} in {folder}",
            f"the records want e.g. {next(iter(needed))!r}; the folder has "
            + (f"{len(files):,} others, e.g. {example!r}" if example else "no image"),
            "check --images, and give --dataset if the folder's images are another set's",
        )
    for image_id in needed:
        yield image_id, files.get(image_id, Path(folder) / image_id.partition(":")[2])


def _dataset_of(image_ids: dict[str, None]) -> str | None:
    return next(iter(image_ids)).partition(":")[0] or None


def _ids_of(records: Path) -> Iterator[str]:
    number = 0
    try:
        with records.open(encoding="utf-8") as file:
            for line in file:
                number += 1
                if not line.strip():
                    continue
                record = json.loads(line)
                ids = [record[key] for key in ID_KEYS if isinstance(record.get(key), str)]
                if not ids:
                    raise ValueError("it names no image")
                yield from ids
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        where = f" (line {number})" if number else ""
        raise DataError(
            f"cannot read records from {records}{where}", f"{error}", "give a .jsonl file that cmal prepare wrote"
        ) from error
    if not number:
        raise DataError(f"cannot read records from {records}", "it is empty", "give a file that cmal prepare wrote")
