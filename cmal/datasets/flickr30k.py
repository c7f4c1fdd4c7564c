"""Flickr30k: the token file `<id>.jpg#<k><tab><caption>`, and lists of image ids, one per line.

Source: Young et al. 2014; split lists from Flickr30k Entities (Plummer et al. 2015, arXiv:1505.04870).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cmal.data.records import ImageTextRecord
from cmal.datasets.job import Job
from cmal.datasets.karpathy import read_karpathy
from cmal.io.rows import LeaveOut, UniqueIds, clean_text, iterate_lines, parse_rows, text_line
from cmal.regions.image_ids import flickr30k_image_id


def write_flickr30k(job: Job) -> None:
    """Karpathy's file where it is there, else the token file and the split lists of Flickr30k Entities."""
    karpathy = job.raw.find("dataset_flickr30k.json")
    if karpathy is not None:
        job.begin_audit()
        for split, record in read_karpathy(karpathy, job.dataset, job.image_ids, job.dropped):
            job.write(split, record, training=split == "train")
        job.notes["splits"] = "Karpathy"
        return
    tokens = job.raw.need("results_20130124.token")
    split_of = listed_splits(job)
    job.begin_audit()
    captioned: set[str] = set()
    for record in read_tokens(tokens, job.dataset, job.dropped):
        captioned.add(record.image_id)
        if record.image_id in split_of:
            split = split_of[record.image_id]
            job.write(split, record, training=split == "train")
        else:
            job.dropped["captions of images in no split list"] += 1
    job.notes["splits"] = "Flickr30k Entities"
    job.notes["listed images without a caption"] = len(split_of.keys() - captioned)


def listed_splits(job: Job) -> dict[str, str]:
    """Image id -> split, from train.txt, val.txt and test.txt. Raises DataError where two lists hold one image."""
    split_of: dict[str, str] = {}
    for split in ("train", "val", "test"):
        for image_id in read_split_list(job.raw.need(f"{split}.txt"), job.dropped):
            other = split_of.setdefault(image_id, split)
            if other != split:
                raise job.raw.missing(f"list without {image_id}, which is in both {other}.txt and {split}.txt,")
    return split_of


def read_tokens(path: Path, dataset: str, dropped: Counter[str]) -> Iterator[ImageTextRecord]:
    """One record per line, ids `DATASET:<image>#<k>`.

    Args:
        path: results_20130124.token, or a file of that form.
        dataset: the record ids' prefix.
        dropped: counts blank lines, empty captions and repeated rows.

    Raises:
        DataError: the file cannot be read, or some lines are invalid (all reported together).
    """
    unique = UniqueIds()

    def parse(line: bytes) -> ImageTextRecord:
        head, tab, caption = text_line(line).partition("\t")
        name, sharp, number = head.partition("#")
        if not tab or not sharp or not (number.isascii() and number.isdigit()):
            raise ValueError(f"should be <id>.jpg#<number><tab><caption>, found {head[:60]!r}")
        image_id, caption = flickr30k_image_id(name), clean_text(caption, "caption")
        key = f"{image_id.partition(':')[2]}#{number}"
        unique.check(key, caption)
        if not caption:
            raise LeaveOut("empty captions")
        return ImageTextRecord(f"{dataset}:{key}", image_id, caption)

    return parse_rows(path, "Flickr30k captions", iterate_lines(path), parse, dropped, "line")


def read_split_list(path: Path, dropped: Counter[str]) -> Iterator[str]:
    """The image ids of a split list, one image per line, with or without ".jpg". Raises DataError as `read_tokens`."""

    def parse(line: bytes) -> str:
        return flickr30k_image_id(text_line(line).strip())

    return parse_rows(path, "Flickr30k image ids", iterate_lines(path), parse, dropped, "line")
