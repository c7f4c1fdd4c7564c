"""Flickr30k Entities: phrases of captions, grounded in boxes. One record per phrase that has at least one box.

The official layout is `Sentences/<photo>.txt` (one caption per line, phrases marked `[/EN#<chain>/<types> <words>]`),
`Annotations/<photo>.xml` (the boxes of each chain, in pixels of the original photograph) and the split lists
`train.txt`, `val.txt`, `test.txt` (one photo number per line).

A *chain* groups the phrases of one photograph that mean the same thing. Phrases of chain 0 ("notvisual") and phrases
whose chain has no box are not scored; they are counted in the manifest.

Source: Plummer et al. 2015, arXiv:1505.04870. As the authors' own reader does, box corners are taken as 1-based, so 1 is
subtracted from each; boxes are then clipped to the photograph.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cmal.data.records import PhraseRecord
from cmal.datasets.flickr30k import listed_splits
from cmal.datasets.job import Job
from cmal.errors import DataError
from cmal.io.rows import RowErrors, iterate_lines, text_line

NOT_VISUAL = "0"
_MARK = re.compile(r"\[/EN#(\d+)/([^\s\[\]]+) ([^\[\]]+)\]")

Box = tuple[float, float, float, float]


def write_flickr30k_entities(job: Job) -> None:
    """One record per boxed phrase of the photographs in the split lists; these lie beside Sentences and Annotations."""
    split_of = listed_splits(job)
    folder = job.raw.need("train.txt").parent
    for split in ("train", "val", "test"):
        photos = [image_id for image_id, its in split_of.items() if its == split]
        for record in read_entities(folder, photos, job.dataset, job.dropped):
            job.write(split, record)


@dataclass(frozen=True)
class MarkedPhrase:
    """A phrase of a sentence.

    Attributes:
        chain: id of the chain it belongs to; "0" for what is not visible.
        types: one or more of people, clothing, bodyparts, animals, vehicles, instruments, scene, other.
        span: index of its first character in the plain sentence, and one past its last.
    """

    chain: str
    types: tuple[str, ...]
    span: tuple[int, int]


@dataclass(frozen=True)
class Annotations:
    """What the annotation file of one photograph says.

    Attributes:
        size_wh_px: width and height of the original photograph.
        boxes_of_chain: chain -> its boxes [x, y, width, height], clipped to the photograph.
    """

    size_wh_px: tuple[int, int]
    boxes_of_chain: dict[str, tuple[Box, ...]]


def read_entities(folder: Path, photos: list[str], dataset: str, dropped: Counter[str]) -> Iterator[PhraseRecord]:
    """One record per boxed phrase of the listed photographs, ids `DATASET:<photo>#<sentence>/<phrase>`.

    Args:
        folder: holds `Sentences` and `Annotations`.
        photos: image ids of the photographs, as `flickr30k.read_split_list` gives them.
        dataset: the prefix of the record ids.
        dropped: counts phrases and boxes that are left out, by reason.

    Raises:
        DataError: a file is missing or invalid; all errors of a file are reported together, with their lines.
    """
    for image_id in photos:
        photo = image_id.partition(":")[2]
        annotations = read_annotations(folder / "Annotations" / f"{photo}.xml", dropped)
        for number, (sentence, phrases) in enumerate(read_sentences(folder / "Sentences" / f"{photo}.txt")):
            for index, phrase in enumerate(phrases):
                boxes = annotations.boxes_of_chain.get(phrase.chain, ())
                if phrase.chain == NOT_VISUAL or not boxes:
                    dropped[
                        "phrases that are not visible" if phrase.chain == NOT_VISUAL else "phrases without a box"
                    ] += 1
                    continue
                yield PhraseRecord(
                    id=f"{dataset}:{photo}#{number}/{index}",
                    image_id=image_id,
                    sentence=sentence,
                    span=phrase.span,
                    phrase_types=phrase.types,
                    boxes_xywh_px=boxes,
                    image_wh_px=annotations.size_wh_px,
                )


def read_sentences(path: Path) -> list[tuple[str, tuple[MarkedPhrase, ...]]]:
    """The sentences of one photograph without their marks, each with its phrases.

    Raises:
        DataError: the file cannot be read, or some lines have broken marks (all reported together).
    """
    errors = RowErrors(path, "sentences with marked phrases")
    sentences = []
    for number, line in enumerate(iterate_lines(path), start=1):
        if not line.strip():
            continue
        try:
            sentences.append(parse_sentence(text_line(line)))
        except ValueError as error:
            errors.add(f"line {number:,}", error)
    errors.raise_if_any()
    return sentences


def parse_sentence(marked: str) -> tuple[str, tuple[MarkedPhrase, ...]]:
    """The plain sentence and its phrases.

    Raises:
        ValueError: a bracket is left over once all marks are taken out.
    Example: "[/EN#7/people A girl] runs ." gives "A girl runs ." and one phrase with span (0, 6).
    """
    plain, phrases, end = "", [], 0
    for match in _MARK.finditer(marked):
        plain += marked[end : match.start()]
        chain, types, words = match.groups()
        phrases.append(MarkedPhrase(chain, tuple(types.split("/")), (len(plain), len(plain) + len(words))))
        plain += words
        end = match.end()
    plain += marked[end:]
    if broken := re.search(r"[\[\]]|/EN#", plain):
        raise ValueError(f"a phrase mark is broken near {plain[max(0, broken.start() - 20) : broken.start() + 30]!r}")
    return plain.rstrip(), tuple(phrases)


def read_annotations(path: Path, dropped: Counter[str]) -> Annotations:
    """The size and boxes of one photograph.

    Args:
        path: an official annotation file.
        dropped: counts boxes without width or height inside the photograph.

    Raises:
        DataError: the file is missing, is not XML, declares entities, or lacks a size, a name or a corner.
    """
    what = f"cannot use {path} as annotations of Flickr30k Entities"
    try:
        data = path.read_bytes()
        if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
            raise ValueError("it declares a document type or entities, which annotation files never do")
        root = ET.fromstring(data)
        size_wh_px = (_whole_number(root, "size/width"), _whole_number(root, "size/height"))
        if min(size_wh_px) < 1:
            raise ValueError(f"the size is {size_wh_px[0]} x {size_wh_px[1]}")
        boxes: dict[str, list[Box]] = {}
        for number, thing in enumerate(root.iter("object"), start=1):
            corners = thing.find("bndbox")
            if corners is None:
                continue
            try:
                box = _clipped_box(corners, size_wh_px)
            except ValueError as error:
                raise ValueError(f"object {number}: {error}") from None
            if box is None:
                dropped["boxes without width or height inside the photograph"] += 1
                continue
            for name in thing.findall("name"):
                boxes.setdefault((name.text or "").strip(), []).append(box)
    except OSError as error:
        raise DataError(what, f"the system says: {error.strerror}", "download the annotations again") from error
    except (ET.ParseError, ValueError, RecursionError) as error:
        raise DataError(what, str(error), "download the file again") from error
    return Annotations(size_wh_px, {chain: tuple(found) for chain, found in boxes.items()})


def _clipped_box(corners: ET.Element, size_wh_px: tuple[int, int]) -> Box | None:
    """[x, y, width, height] from 1-based corners, clipped to the photograph; None where nothing is left."""
    width, height = size_wh_px
    x1, y1, x2, y2 = (_whole_number(corners, name) - 1 for name in ("xmin", "ymin", "xmax", "ymax"))
    x1, x2 = (min(max(x, 0), width) for x in (x1, x2))
    y1, y2 = (min(max(y, 0), height) for y in (y1, y2))
    return (float(x1), float(y1), float(x2 - x1), float(y2 - y1)) if x2 > x1 and y2 > y1 else None


def _whole_number(element: ET.Element, path: str) -> int:
    text = (element.findtext(path) or "").strip()
    if not re.fullmatch(r"-?\d{1,6}", text):
        raise ValueError(f'"{path}" should be a whole number, found {text[:40]!r}')
    return int(text)
