"""Captions of pictures on the web: Conceptual Captions' TSV and SBU's lists; and the folder of those that were fetched.

The lists hold addresses, many of them dead. A row is used if its picture is in the folder, found by

1. the `url` in the JSON that img2dataset writes beside each picture (`00000/000000012.jpg`, `000000012.json`),
2. a third column of the TSV, the picture's path below the folder,
3. Conceptual Captions: `<row from 0>_<CRC-32 of the address>`, as the usual download script names its files,
4. SBU: the address's own last part (`4385058960_b0f291553e.jpg`).

Sources: Sharma et al. 2018; Ordonez et al. 2011; naming: github.com/igorbrigadir/DownloadConceptualCaptions,
github.com/rom1504/img2dataset.
"""

from __future__ import annotations

import os
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from cmal.data.records import ImageTextRecord
from cmal.datasets.job import Job
from cmal.errors import DataError
from cmal.io.json_stream import iterate_arrays, parse_json
from cmal.io.rows import LeaveOut, clean_text, iterate_lines, parse_rows, text_line
from cmal.regions.image_ids import guess_dataset, image_id_for_file

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
DEAD_LINKS = "rows whose picture is not in the image folder (dead links)"


def write_web_captions(job: Job) -> None:
    """cc3m and sbu: every row whose picture was fetched; the others are counted."""
    images = ImageFolder(_image_folder(job))
    job.image_ids = guess_dataset(images.folder)
    job.notes["image folder"] = str(images.folder)
    job.begin_audit()
    rows = _cc3m_rows(job) if job.dataset == "cc3m" else _sbu_rows(job)
    for record in fetched_records(rows, images, job.dataset, job.image_ids, job.dropped):
        job.write("train", record, training=True)


def _image_folder(job: Job) -> Path:
    """The folder given, else `images` or `training` of the raw folder, else the raw folder itself."""
    usual = [job.raw.folder / name for name in ("images", "training")]
    return job.options.image_folder or next((folder for folder in usual if folder.is_dir()), job.raw.folder)


def _cc3m_rows(job: Job) -> Iterator[WebRow]:
    return read_caption_tsv(job.raw.need("Train_GCC-training.tsv", "Train-GCC-training.tsv"), job.dropped)


def _sbu_rows(job: Job) -> Iterator[WebRow]:
    together = job.raw.find("sbu-captions-all.json", "sbu_captions_all.json")
    if together:
        return read_caption_lists(together, job.dropped)
    urls, captions = (job.raw.need(f"SBU_captioned_photo_dataset_{what}.txt") for what in ("urls", "captions"))
    return read_caption_texts(urls, captions, job.dropped)


@dataclass(frozen=True)
class WebRow:
    """One row of a list: its number from 0, the caption, the address, and the picture's path where the list says."""

    number: int
    caption: str
    url: str
    path: str = ""


class ImageFolder:
    """The pictures of a folder, by path without ending and by the address they came from.

    Raises:
        DataError: there is no such folder, or no picture in it.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.path_of_stem: dict[str, str] = {}
        self.path_of_url: dict[str, str] = {}
        for parent, folders, files in os.walk(self.folder):
            folders.sort()
            below = os.path.relpath(parent, self.folder)
            for name in sorted(files):
                if name.lower().endswith(IMAGE_ENDINGS):
                    self._add(name if below == "." else f"{PurePosixPath(below)}/{name}", set(files))
        if not self.path_of_stem:
            raise DataError(
                f"cannot use {folder} as an image folder",
                "there is no picture in it" if self.folder.is_dir() else "there is no such folder",
                "give the folder the pictures were downloaded to with --image-folder",
            )

    def _add(self, path: str, beside: set[str]) -> None:
        stem = PurePosixPath(path).stem
        self.path_of_stem.setdefault(stem, path)
        if f"{stem}.json" in beside:
            try:
                url = parse_json((self.folder / path).with_name(f"{stem}.json").read_bytes()).get("url")
            except (OSError, ValueError, AttributeError):
                return
            if isinstance(url, str):
                self.path_of_url[url] = path

    def path_of(self, row: WebRow, dataset: str) -> str | None:
        """Path of a row's picture; None if it was not fetched."""
        if row.url in self.path_of_url:
            return self.path_of_url[row.url]
        if row.path:
            found = self.path_of_stem.get(PurePosixPath(row.path).stem)
            return row.path if found and (self.folder / row.path).is_file() else None
        if dataset == "sbu":
            return self.path_of_stem.get(PurePosixPath(row.url).stem)
        return self.path_of_stem.get(f"{row.number}_{zlib.crc32(row.url.encode('utf-8')) & 0xFFFFFFFF}")


def read_caption_tsv(path: Path, dropped: Counter[str]) -> Iterator[WebRow]:
    """Rows `<caption><tab><address>[<tab><path>]`, as Train_GCC-training.tsv has them.

    Raises:
        DataError: the file cannot be read, or some lines are invalid (all reported together).
    """
    lines = enumerate(iterate_lines(path))

    def parse(numbered: tuple[int, bytes]) -> WebRow:
        number, line = numbered
        cells = text_line(line).split("\t")
        if len(cells) not in (2, 3) or not cells[1].strip():
            raise ValueError(f"should be <caption><tab><address>, found {len(cells)} columns")
        return WebRow(number, clean_text(cells[0], "caption"), *(cell.strip() for cell in cells[1:]))

    return parse_rows(path, "captions and addresses", lines, parse, dropped, "line")


def read_caption_lists(path: Path, dropped: Counter[str]) -> Iterator[WebRow]:
    """Rows of SBU's JSON: `image_urls` and `captions`, two lists of equal length.

    Raises:
        DataError: the file is not of this form, the lists differ in length, or some rows are invalid.
    """
    lists: dict[str, list] = {"image_urls": [], "captions": []}
    for key, value in iterate_arrays(path):
        if key in lists:
            lists[key].append(value)
    return _join(path, lists["image_urls"], lists["captions"], dropped)


def read_caption_texts(urls_path: Path, captions_path: Path, dropped: Counter[str]) -> Iterator[WebRow]:
    """Rows of SBU's two text files, line by line together. Raises DataError as `read_caption_lists`."""
    urls = [line.decode("utf-8", "replace").strip() for line in iterate_lines(urls_path)]
    captions = [line.decode("utf-8", "replace") for line in iterate_lines(captions_path)]
    return _join(captions_path, urls, captions, dropped)


def _join(path: Path, urls: list, captions: list, dropped: Counter[str]) -> Iterator[WebRow]:
    if len(urls) != len(captions) or not urls:
        raise DataError(
            f"cannot use {path} as captions and addresses",
            f"it has {len(urls):,} addresses and {len(captions):,} captions",
            "give both lists of the same release",
        )

    def parse(numbered: tuple[int, tuple]) -> WebRow:
        number, (url, caption) = numbered
        return WebRow(number, clean_text(caption, "caption"), clean_text(url, "address"))

    return parse_rows(path, "captions and addresses", enumerate(zip(urls, captions)), parse, dropped, "row")


def fetched_records(
    rows: Iterator[WebRow], images: ImageFolder, dataset: str, image_ids: str, dropped: Counter[str]
) -> Iterator[ImageTextRecord]:
    """A record for every row whose picture is in the folder, ids `DATASET:<row from 0>`; the others are counted."""
    for row in rows:
        try:
            yield _fetched(row, images, dataset, image_ids)
        except LeaveOut as reason:
            dropped[str(reason)] += 1


def _fetched(row: WebRow, images: ImageFolder, dataset: str, image_ids: str) -> ImageTextRecord:
    path = images.path_of(row, dataset)
    if path is None:
        raise LeaveOut(DEAD_LINKS)
    if not row.caption:
        raise LeaveOut("empty captions")
    try:
        return ImageTextRecord(f"{dataset}:{row.number}", image_id_for_file(image_ids, path), row.caption)
    except DataError:
        raise LeaveOut("rows whose picture's path leads out of the image folder") from None
