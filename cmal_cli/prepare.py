"""`cmal prepare`: official files in, records out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from cmal.datasets.prepare import PreparedDataset

EPILOG = """\b
Examples:
  cmal prepare scenes --images 60 --out data
  cmal prepare coco-captions --raw downloads/coco --out data
"""


@click.command(epilog=EPILOG, short_help="Official files in, records out.")
@click.argument("dataset")
@click.option("--raw", type=click.Path(path_type=Path), help="Folder of the downloaded official files.")
@click.option(
    "--out", type=click.Path(path_type=Path), default="data", show_default=True, help="OUT/DATASET is written."
)
@click.option(
    "--images", metavar="N|DIR", help="scenes: how many training images (default 1200). pairs: the image folder."
)
@click.option("--image-folder", type=click.Path(path_type=Path), help="cc3m, sbu, pairs: the folder of the images.")
@click.option(
    "--captions", type=click.Path(path_type=Path), help="pairs: a .jsonl, .csv or .tsv of images and captions."
)
@click.option("--name", default="pairs", show_default=True, help="pairs: name of the data set; OUT/NAME is written.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="scenes: seed of all pictures and texts."
)
@click.option(
    "--answers", type=click.Path(path_type=Path), help="vqa: a given answer vocabulary, list or map, as JSON."
)
@click.option(
    "--detections", type=click.Path(path_type=Path), help="refcoco, refcoco+, refcocog: detected boxes, as JSON."
)
@click.option("--split-by", type=click.Choice(["unc", "google", "umd"]), help="refcoco, refcocog: whose split.")
@click.option("--allow-leakage", is_flag=True, help="Keep evaluation images in pre-training records; results say so.")
@click.option("--workers", type=click.IntRange(min=0), default=0, help="scenes: processes; 0 = one per core.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
def prepare(
    dataset: str,
    raw: Path | None,
    out: Path,
    images: str | None,
    image_folder: Path | None,
    captions: Path | None,
    name: str,
    seed: int,
    answers: Path | None,
    detections: Path | None,
    split_by: str | None,
    allow_leakage: bool,
    workers: int,
    quiet: bool,  # read by cmal_cli.display
) -> None:
    """Turn the official files of DATASET into records: OUT/DATASET/<split>.jsonl and manifest.json.

    DATASET is one of coco-captions, vg-captions, cc3m, sbu, flickr30k, vqa, snli-ve, refcoco, refcoco+, refcocog, nlvr2,
    pairs (your own), or scenes (generated; needs nothing). Evaluation images of everything prepared before are kept out of
    pre-training records.
    """
    from cmal.datasets.prepare import DEFAULT_SCENES, Options, prepare_dataset
    from cmal_cli.display import ProgressDisplay

    count, folder = _count_or_folder(dataset, images)
    options = Options(
        answers=answers,
        detections=detections,
        split_by=split_by or "",
        allow_leakage=allow_leakage,
        image_folder=image_folder or folder,
        captions=captions,
        name=name,
    )
    with ProgressDisplay(f"prepare {dataset}") as display:
        prepared = prepare_dataset(
            dataset,
            raw,
            out,
            images=count or DEFAULT_SCENES,
            seed=seed,
            workers=workers,
            options=options,
            report=display.say,
            progress=display.stage,
        )
    _show(prepared)


def _count_or_folder(dataset: str, images: str | None) -> tuple[int | None, Path | None]:
    """The value of --images: a number for scenes, a folder for the other data sets."""
    if images is None:
        return None, None
    if dataset != "scenes":
        return None, Path(images)
    if not (images.isascii() and images.isdigit() and 0 < int(images) <= 1_000_000):
        raise click.BadParameter(
            f"for scenes it is a number from 1 to 1,000,000, found {images!r}", param_hint="--images"
        )
    return int(images), None


def _show(prepared: Sequence[PreparedDataset]) -> None:
    """Prints a table of records and images by split, then remarks on what was left out, and the folder."""
    from cmal_cli.display import echo, show_table

    rows = [
        (one.name, split, counts["records"], counts["images"])
        for one in prepared
        for split, counts in one.splits.items()
    ]
    show_table("prepared", ("data set", "split", "records", "images"), rows)
    for one in prepared:
        for line in (*one.remarks(), f"written to {one.folder}"):
            echo(f"{one.name}: {line}")
