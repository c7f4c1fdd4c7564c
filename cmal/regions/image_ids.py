"""Image ids: one string per image, unique over all data sets; the key of the region store and of records.

| data set | file name or number | image id |
|---|---|---|
| COCO | `COCO_val2014_000000000139.jpg`, `val2017/000000000139.jpg`, 139 | `coco:139` |
| Flickr30k | `36979.jpg`, `36979`, `36979_e9f7d2b83a.jpg` (Flickr8k) | `flickr30k:36979` |
| Visual Genome | `VG_100K_2/2407890.jpg`, 2407890 | `vg:2407890` |
| NLVR2 | `dev-850-0-img0.png` (in any folder) | `nlvr2:dev-850-0-img0` |
| scenes | `train/000012.jpg` | `scenes:train/000012` |
| any other | `some/folder/a.jpg` | `NAME:some/folder/a` |

A COCO photo keeps its number from the 2014 to the 2017 release, so both names give one id.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from pathlib import Path, PurePosixPath

from cmal.errors import DataError

MANIFEST = "manifest.json"
MANIFEST_FORMAT = "cmal-prepared"
LEVELS_UP = 3  # how many folders up the manifest or a known folder name may be

_COCO_NUMBER = re.compile(r"(?:^|_)(\d{12})(?:_\d+)?$|^(\d{1,11})$")  # refs add "_16" after the twelve digits
_FLICKR8K_NAME = re.compile(r"^(\d+)_[0-9a-f]{10}$")
_NLVR2_NAME = re.compile(r"^(?:train|dev|test1|test2)-\d+-\d+-img[01]$")
IMAGE_ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".tif", ".tiff"),
    *(".webp", ".ppm", ".pgm", ".avif", ".jp2"),
)
_DATASET_OF_FOLDER = {
    **dict.fromkeys(
        ("train2014", "val2014", "test2014", "test2015", "train2017", "val2017", "test2017", "unlabeled2017"), "coco"
    ),
    **dict.fromkeys(("flickr30k-images", "flickr30k_images", "flickr30k"), "flickr30k"),
    **dict.fromkeys(("vg_100k", "vg_100k_2", "visual_genome"), "vg"),
    **dict.fromkeys(("coco", "mscoco"), "coco"),
    **{name: name for name in ("nlvr2", "cc3m", "sbu")},
}
_GENERIC_FOLDERS = ("images", "image", "img", "imgs", "photos", "pictures", "training", "train", "val", "test", "data")


def coco_image_id(name_or_number: str | int) -> str:
    """`coco:139` from 139, "139", or a 2014 or 2017 file name. Raises DataError if the name has no COCO number."""
    if isinstance(name_or_number, int):
        return f"coco:{name_or_number}"
    match = _COCO_NUMBER.search(_stem(name_or_number))
    if not match:
        raise _no_id(name_or_number, "a COCO file name, such as COCO_val2014_000000000139.jpg or 000000000139.jpg")
    return f"coco:{int(match[1] or match[2])}"


def flickr30k_image_id(name: str | int) -> str:
    """`flickr30k:36979` from 36979, "36979", "36979.jpg" or Flickr8k's "36979_e9f7d2b83a.jpg".

    A Flickr8k photograph is named by the same Flickr number, with a hash behind it.

    Raises:
        DataError: the name is none of these.
    """
    stem = _FLICKR8K_NAME.sub(r"\1", _stem(str(name)))
    if not (stem.isascii() and stem.isdigit()):
        raise _no_id(name, "a Flickr30k file name, such as 36979.jpg")
    return f"flickr30k:{stem}"


def vg_image_id(name_or_number: str | int) -> str:
    """`vg:2407890` from the number or the file name. Raises DataError if it is not a number."""
    stem = _stem(str(name_or_number))
    if not (stem.isascii() and stem.isdigit()):
        raise _no_id(name_or_number, "a Visual Genome file name, such as 2407890.jpg")
    return f"vg:{int(stem)}"


def nlvr2_image_id(name: str) -> str:
    """`nlvr2:dev-850-0-img0` from the file name. Raises DataError for any other name."""
    if not _NLVR2_NAME.match(_stem(name)):
        raise _no_id(name, "an NLVR2 file name, such as dev-850-0-img0.png")
    return f"nlvr2:{_stem(name)}"


def image_id_for_file(dataset: str, relative_path: str | Path) -> str:
    """The image id of a file below an image folder.

    Args:
        dataset: "coco", "flickr30k", "vg", "nlvr2", "scenes" or any other name (see `guess_dataset`).
        relative_path: the file below that folder, with "/" between folders.

    Returns:
        The id. A file of a known data set that is not named as its files are gets `DATASET:<path without ending>`,
        which no other data set uses.

    Raises:
        DataError: the path leads out of the folder, is absolute or empty, or has unprintable characters.
    """
    path = str(relative_path)
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\\" in path or not path.isprintable():
        raise _no_id(path, "a plain path below the image folder")
    by_name = {"coco": coco_image_id, "flickr30k": flickr30k_image_id, "vg": vg_image_id, "nlvr2": nlvr2_image_id}
    if dataset in by_name:
        try:
            return by_name[dataset](parts[-1])
        except DataError:
            pass
    return f"{dataset}:{'/'.join((*parts[:-1], _stem(parts[-1])))}"


def guess_dataset(folder: Path) -> str:
    """The data set whose images a folder holds: the `dataset` of `image_id_for_file`.

    The first of these decides: a manifest of `cmal prepare` in the folder or up to three folders above; a known name
    (train2014, val2017, flickr30k-images, VG_100K, ...) of the folder, a folder in it or one above; the folder's own
    name (its parent's for a generic "images" or "train").
    """
    folder = Path(folder).resolve()
    above = [folder, *folder.parents][: LEVELS_UP + 1]
    for candidate in above:
        if name := _name_in_manifest(candidate / MANIFEST):
            return name
    try:
        within = sorted(child.name for child in folder.iterdir() if child.is_dir())
    except OSError:
        within = []
    for name in (folder.name, *within, *(parent.name for parent in above[1:])):
        if name.lower() in _DATASET_OF_FOLDER:
            return _DATASET_OF_FOLDER[name.lower()]
    if _holds_flickr8k(folder):
        return "flickr30k"
    return next(
        (parent.name for parent in above if parent.name and parent.name.lower() not in _GENERIC_FOLDERS), "images"
    )


def _holds_flickr8k(folder: Path) -> bool:
    """Whether the first files of a folder are named as Flickr8k's, which are photographs of Flickr30k too."""
    try:
        names = [entry.name for entry in itertools.islice(os.scandir(folder), 20)]
    except OSError:
        return False
    return bool(names) and all(_FLICKR8K_NAME.match(_stem(name)) for name in names)


def _name_in_manifest(path: Path) -> str:
    try:
        manifest = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return ""
    ours = isinstance(manifest, dict) and manifest.get("format") == MANIFEST_FORMAT
    return str(manifest.get("image_ids") or manifest.get("dataset") or "") if ours else ""


def _stem(name: str) -> str:
    """The last part of a path without an image's ending; "a.b.jpg" is "a.b", "a.b" stays."""
    last = PurePosixPath(name).name
    ending = PurePosixPath(last).suffix
    return last[: -len(ending)] if ending.lower() in IMAGE_ENDINGS else last


def _no_id(found: object, expected: str) -> DataError:
    return DataError("cannot derive an image id", f"found {str(found)[:120]!r}", f"it should be {expected}")
