"""COCO captions JSON (2014, 2017, and `scenes`): `images` and `annotations` (`id`, `image_id`, `caption`).

Source: Chen et al. 2015, arXiv:1504.00325; files from cocodataset.org.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cmal.data.records import ImageTextRecord
from cmal.datasets.job import Job
from cmal.datasets.karpathy import read_karpathy
from cmal.io.json_stream import iterate_array
from cmal.io.rows import LeaveOut, UniqueIds, as_object, get_id, get_text, parse_rows
from cmal.regions.image_ids import image_id_for_file

CAPTION_FILES: dict[str, dict[str, tuple[str, ...]]] = {
    "coco-captions": {
        split: tuple(f"captions_{split}{year}.json" for year in (2014, 2017)) for split in ("train", "val")
    },
    "scenes": {split: (f"captions_{split}.json",) for split in ("train", "val", "test")},
}


def write_coco_captions(job: Job) -> None:
    """Karpathy's file where it is there (train with restval, val, test), else the official train and val files."""
    karpathy = job.raw.find("dataset_coco.json") if job.dataset == "coco-captions" else None
    tables = _caption_tables(job)
    if karpathy is None and not tables:
        raise job.raw.missing("captions_train2014.json, captions_train2017.json or dataset_coco.json")
    if job.dataset == "coco-captions":
        aliases = {
            row.image_id: (f"flickr30k:{row.flickr_photo}",)
            for images in tables.values()
            for row in images.values()
            if row.flickr_photo
        }
        job.begin_audit(aliases, ("Flickr photo number of captions_*.json",) if aliases else ())
    if karpathy is not None:
        for split, record in read_karpathy(karpathy, job.dataset, job.image_ids, job.dropped):
            job.write(split, record, training=split == "train")
        job.notes["splits"] = "Karpathy; restval counts as train"
        return
    for split, images in tables.items():
        path = job.raw.need(*CAPTION_FILES[job.dataset][split])
        for record in read_captions(path, job.dataset, images, job.dropped):
            job.write(split, record, training=split == "train")
    job.notes["splits"] = "official"


def _caption_tables(job: Job) -> dict[str, dict[int, ImageRow]]:
    paths = {split: job.raw.find(*names) for split, names in CAPTION_FILES[job.dataset].items()}
    return {split: read_images(path, job.image_ids, job.dropped) for split, path in paths.items() if path}


@dataclass(frozen=True)
class ImageRow:
    """One row of `images`. `flickr_photo` is the number of the Flickr photo it was, "" where the file does not say."""

    number: int
    image_id: str
    flickr_photo: str


def read_images(path: Path, image_ids: str, dropped: Counter[str]) -> dict[int, ImageRow]:
    """The `images` of a COCO-form JSON by their number.

    Args:
        path: captions or instances JSON.
        image_ids: the data set in the image ids ("coco", "scenes").
        dropped: counts what was left out.

    Raises:
        DataError: the file is not of this form, or some rows are invalid (all reported together).
    """
    unique = UniqueIds()

    def parse(row: object) -> ImageRow:
        row = as_object(row)
        number, name = get_id(row, "id"), get_text(row, "file_name")
        unique.check(number, name)
        return ImageRow(number, image_id_for_file(image_ids, name), flickr_photo(row.get("flickr_url")))

    rows = iterate_array(path, "images")
    return {row.number: row for row in parse_rows(path, "COCO images", rows, parse, dropped, "images row")}


def flickr_photo(url: object) -> str:
    """The number of a Flickr photo from the address of its file: ".../5062/5896644212_a326e96ea9_z.jpg" -> "5896644212"."""
    name = str(url or "").rpartition("/")[2].partition("_")[0]
    return name if name.isascii() and name.isdigit() else ""


def read_captions(
    path: Path, dataset: str, images: dict[int, ImageRow], dropped: Counter[str]
) -> Iterator[ImageTextRecord]:
    """One record per caption, in the file's order, ids `DATASET:<annotation id>`.

    Args:
        path: captions JSON.
        dataset: the record ids' prefix.
        images: what `read_images` gave for the same file.
        dropped: counts what was left out (empty captions, repeated rows).

    Raises:
        DataError: as `read_images`; also for a caption of an image that is not listed, after the last row.
    """
    unique = UniqueIds()

    def parse(row: object) -> ImageTextRecord:
        row = as_object(row)
        number, caption = get_id(row, "id"), get_text(row, "caption")
        image = images.get(get_id(row, "image_id"))
        if image is None:
            raise ValueError(f'its image {row["image_id"]} is not in "images"')
        unique.check(number, image.image_id, caption)
        if not caption:
            raise LeaveOut("empty captions")
        return ImageTextRecord(f"{dataset}:{number}", image.image_id, caption)

    return parse_rows(path, "COCO captions", iterate_array(path, "annotations"), parse, dropped, "annotations row")
