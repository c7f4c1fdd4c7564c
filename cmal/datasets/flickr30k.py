"""Flickr30k: the token file `<id>.jpg#<k><tab><caption>`, and lists of image ids, one a line.

Source: Young et al. 2014; split lists from Flickr30k Entities (Plummer et al. 2015, arXiv:1505.04870).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cmal.data.records import ImageTextRecord
from cmal.io.rows import LeaveOut, UniqueIds, clean_text, iterate_lines, parse_rows, text_line
from cmal.regions.image_ids import flickr30k_image_id


def read_tokens(path: Path, dataset: str, dropped: Counter[str]) -> Iterator[ImageTextRecord]:
    """One record a line, ids `DATASET:<image>#<k>`.

    Args:
        path: results_20130124.token, or a file of that form.
        dataset: the record ids' prefix.
        dropped: counts blank lines, empty captions and repeated rows.

    Raises:
        DataError: the file cannot be read, or some lines are faulty (all reported together).
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
    """The image ids of a split list, one image a line, with or without ".jpg". Raises DataError as `read_tokens`."""

    def parse(line: bytes) -> str:
        return flickr30k_image_id(text_line(line).strip())

    return parse_rows(path, "Flickr30k image ids", iterate_lines(path), parse, dropped, "line")
