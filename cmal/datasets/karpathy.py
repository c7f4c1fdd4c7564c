"""Karpathy's split files: dataset_coco.json, dataset_flickr30k.json, and dataset_scenes.json in the same form.

`images[]` with `split`, `filename`, `cocoid` (COCO alone), `sentences[]` (`raw`, `sentid`). COCO's "restval" (the rest of
val2014) is training data, as in every published COCO retrieval result.
Source: Karpathy and Fei-Fei 2015, cs.stanford.edu/people/karpathy/deepimagesent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cmal.data.records import ImageTextRecord
from cmal.io.json_stream import iterate_array
from cmal.io.rows import UniqueIds, as_object, get_id, get_list, get_text, parse_rows
from cmal.regions.image_ids import image_id_for_file

SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}


def read_karpathy(
    path: Path, dataset: str, image_ids: str, dropped: Counter[str]
) -> Iterator[tuple[str, ImageTextRecord]]:
    """One (split, record) per caption, in the file's order; "restval" counts as "train".

    Args:
        path: the split file.
        dataset: the record ids' prefix; ids are `DATASET:<sentid>`.
        image_ids: the data set in the image ids ("coco", "flickr30k", "scenes").
        dropped: counts empty captions.

    Raises:
        DataError: the file is not of this form, or some images or sentences are invalid (all reported together).
    """
    unique_images, unique_sentences = UniqueIds(), UniqueIds()

    def parse(row: object) -> list[tuple[str, ImageTextRecord]]:
        row = as_object(row)
        image_id = _image_id(row, image_ids)
        split = get_text(row, "split")
        if split not in SPLITS:
            raise ValueError(f'"split" should be one of {", ".join(SPLITS)}, found "{split}"')
        unique_images.check(image_id, split, repr(row))
        found = []
        for position, sentence in enumerate(map(as_object, get_list(row, "sentences")), start=1):
            number, caption = get_id(sentence, "sentid"), get_text(sentence, "raw")
            unique_sentences.check(number, image_id, str(position))
            if caption:
                found.append((SPLITS[split], ImageTextRecord(f"{dataset}:{number}", image_id, caption)))
            else:
                dropped["empty captions"] += 1
        return found

    rows = iterate_array(path, "images")
    for pairs in parse_rows(path, "images with Karpathy splits", rows, parse, dropped, "images row"):
        yield from pairs


def _image_id(row: dict, image_ids: str) -> str:
    if image_ids == "coco":
        return f"coco:{get_id(row, 'cocoid')}"
    if not get_text(row, "filename"):
        raise ValueError('"filename" is empty')
    folder = get_text(row, "filepath") if image_ids == "scenes" and "filepath" in row else ""
    name = get_text(row, "filename")
    return image_id_for_file(image_ids, f"{folder}/{name}" if folder and "/" not in name else name)
