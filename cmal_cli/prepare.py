"""`cmal prepare`: official files in, records out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cmal.errors import printable

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
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="scenes: seed of everything drawn."
)
@click.option(
    "--answers", type=click.Path(path_type=Path), help="vqa: a given answer vocabulary, list or map, as JSON."
)
@click.option(
    "--detections", type=click.Path(path_type=Path), help="refcoco, refcoco+, refcocog: detected boxes, as JSON."
)
@click.option("--split-by", type=click.Choice(["unc", "google", "umd"]), help="refcoco, refcocog: whose split.")
@click.option("--allow-leakage", is_flag=True, help="Keep evaluation images in pre-training records; results say so.")
@click.option("--workers", type=click.IntRange(min=0), default=0, help="scenes: processes; 0 = one a core.")
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
    quiet: bool,
) -> None:
    """Turn the official files of DATASET into records: OUT/DATASET/<split>.jsonl and manifest.json.

    DATASET is one of coco-captions, vg-captions, cc3m, sbu, flickr30k, vqa, snli-ve, refcoco, refcoco+, refcocog, nlvr2,
    pairs (your own), or scenes (generated; needs nothing). Evaluation images of everything prepared before are kept out of
    pre-training records.
    """
    from cmal.datasets.prepare import DEFAULT_SCENES, Options, prepare_dataset

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
    with _Progress(quiet) as progress:
        prepared = prepare_dataset(
            dataset,
            raw,
            out,
            images=count or DEFAULT_SCENES,
            seed=seed,
            workers=workers,
            options=options,
            report=progress.line,
            progress=progress.step,
        )
    if not quiet:
        _show(prepared)


def _count_or_folder(dataset: str, images: str | None) -> tuple[int | None, Path | None]:
    """--images is a number for scenes and a folder for the sets whose images are one's own."""
    if images is None:
        return None, None
    if dataset != "scenes":
        return None, Path(images)
    if not (images.isascii() and images.isdigit() and 0 < int(images) <= 1_000_000):
        raise click.BadParameter(
            f"for scenes it is a number from 1 to 1,000,000, found {images!r}", param_hint="--images"
        )
    return int(images), None


class _Progress:
    """A bar on a terminal, now and then a plain line elsewhere."""

    LINE_EVERY_S = 10.0

    def __init__(self, quiet: bool):
        self.quiet = quiet

    def __enter__(self) -> _Progress:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console = Console(stderr=True, quiet=self.quiet)
        self._bars, self._tasks, self._last = None, {}, 0.0
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bars = Progress(*columns, console=self._console, transient=True)
            self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bars:
            self._bars.stop()

    def line(self, text: str) -> None:
        (self._bars.console if self._bars else self._console).print(
            printable(text), markup=False, highlight=False, soft_wrap=True
        )

    def step(self, what: str, done: int, wanted: int) -> None:
        """`wanted` is 0 where it is not known."""
        import time

        if self._bars:
            task = self._tasks.setdefault(what, self._bars.add_task(what) if what not in self._tasks else None)
            self._bars.update(task, completed=done, total=wanted or None)
        elif time.monotonic() - self._last > self.LINE_EVERY_S:
            self._last = time.monotonic()
            self.line(f"{what}: {done:,}" + (f" of {wanted:,}" if wanted else ""))


def _show(prepared: Sequence[PreparedDataset]) -> None:
    """One table of records and images by split, then what was left out and why, and where it all is."""
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
