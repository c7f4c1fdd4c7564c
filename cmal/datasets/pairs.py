"""The user's own image-text pairs: a folder of pictures and a table of captions (.jsonl, .csv, .tsv).

A row has `image` (path below the folder) and `caption`, and may have `id` and `split`; other columns are ignored.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cmal.data.records import ImageTextRecord
from cmal.datasets.job import Job
from cmal.errors import DataError, short
from cmal.io.rows import LeaveOut, UniqueIds, get_text, iterate_lines, json_line, parse_rows
from cmal.regions.image_ids import guess_dataset, image_id_for_file

COLUMNS = ("image", "caption")
SPLITS = ("train", "val", "test")
ENDINGS = (".jsonl", ".csv", ".tsv")


def write_pairs(job: Job) -> None:
    """Pictures and captions of the user."""
    assert job.options.captions is not None  # `prepare_dataset` checks it
    folder = job.raw.folder
    job.image_ids = guess_dataset(folder)
    job.notes["image folder"] = str(folder)
    job.begin_audit()
    for split, record in read_pairs(job.options.captions, folder, job.dataset, job.image_ids, job.dropped):
        job.write(split, record, training=split == "train")


def read_pairs(
    path: Path, folder: Path, dataset: str, image_ids: str, dropped: Counter[str]
) -> Iterator[tuple[str, ImageTextRecord]]:
    """One (split, record) per row; ids `DATASET:<id, or the row's number from 1>`.

    Args:
        path: the table, of one of the three endings.
        folder: the image folder; no picture outside of it is taken.
        dataset: the record ids' prefix.
        image_ids: the data set in the image ids, `guess_dataset(folder)`.
        dropped: counts blank lines and empty captions.

    Raises:
        DataError: the table cannot be read or lacks a column, or some rows are invalid: a picture that is not there, a
            repeated id, an unknown split (all reported together).
    """
    if path.suffix.lower() not in ENDINGS:
        raise DataError(
            f"cannot read captions from {path}", f'its ending is "{path.suffix}"', f"give one of {', '.join(ENDINGS)}"
        )
    root, unique = folder.resolve(), UniqueIds()

    def parse(numbered: tuple[int, bytes | dict]) -> tuple[str, ImageTextRecord]:
        number, line = numbered
        row = json_line(line) if isinstance(line, bytes) else line
        name, caption = get_text(row, "image"), get_text(row, "caption")
        image_id = image_id_for_file(image_ids, name)
        try:
            picture = (root / name).resolve()
            is_there = picture.is_file()
        except (OSError, RuntimeError) as error:  # a name too long, links in a circle
            raise ValueError(f'the picture "{short(name)}" cannot be looked for: {error}') from None
        if not picture.is_relative_to(root):
            raise ValueError(f'the picture "{name}" is outside {folder}')
        if not is_there:
            raise ValueError(f'there is no picture "{name}" in {folder}')
        if not caption:
            raise LeaveOut("empty captions")
        split, own_id = _optional(row, "split") or "train", _optional(row, "id") or str(number)
        if split not in SPLITS:
            raise ValueError(f'"split" should be one of {", ".join(SPLITS)}, found "{split}"')
        unique.check(own_id, str(number))
        return split, ImageTextRecord(f"{dataset}:{own_id}", image_id, caption)

    rows: Iterator[bytes | dict] = iterate_lines(path) if path.suffix.lower() == ".jsonl" else _table_rows(path)
    row_name = "line" if path.suffix.lower() == ".jsonl" else "row"
    return parse_rows(path, "image-text pairs", enumerate(rows, start=1), parse, dropped, row_name)


def _optional(row: dict, name: str) -> str:
    value = row.get(name)
    return "" if value is None else get_text({name: str(value) if type(value) is int else value}, name)


def _table_rows(path: Path) -> Iterator[dict]:
    """Rows of a .csv or .tsv with a heading line. Raises DataError where it cannot be read or lacks a column."""
    is_tsv = path.suffix.lower() == ".tsv"
    form = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if is_tsv else {"strict": True}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, **form)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(
                    f"cannot read captions from {path}",
                    f"there is no column {missing[0]!r}; its columns are {', '.join(reader.fieldnames or ())[:120]}",
                    "the first line names the columns: image, caption, and id or split if you like",
                )
            for row in reader:
                row.pop(None, None)  # cells beyond the headings
                yield {name: value if value is not None else "" for name, value in row.items()}
    except OSError as error:
        raise DataError(f"cannot read {path}", f"the system says: {error.strerror}", "check the path") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"cannot read captions from {path}", f"it is no table: {error}", "save it as UTF-8") from error
