"""The extraction of `cmal extract-regions`: which images, which detector, in how many processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from cmal.errors import CmalError
from cmal_cli.display import ProgressDisplay, echo, is_quiet

DETECTOR_OPTIONS = (
    *("weights", "precision", "max_regions", "min_regions", "min_confidence", "features"),
    *("feature_weights", "windows"),
)


def extract(images: Path, options: dict[str, Any]) -> None:
    """Stores the regions of images that are not in the store yet, in one process per GPU with --gpus."""
    from cmal.training.launch import Launch, launch

    shard = _shard(options["shard"])
    named, root = named_images(images, options)
    request = Launch.of(options["gpus"], None, None)
    device = request.device or options["device"]
    launch(request, extract_here, named, root, {**options, "device": device, "quiet": is_quiet()}, shard)


def _shard(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not (slash and number.isdigit() and count.isdigit() and int(number) < int(count)):
        raise click.BadParameter(f'"{text}" is not I/N with I from 0 to N-1, e.g. 0/4', param_hint="--shard")
    return int(number), int(count)


def named_images(images: Path, options: dict[str, Any]) -> tuple[list[tuple[str, Path]], Path]:
    """(image id, file) of the images of a folder or a records file, and the folder that contains them."""
    from cmal.regions.image_lists import images_of_folder, images_of_records

    if not images.exists():
        raise CmalError(f"cannot extract regions of {images}", "there is no such file or folder", "check the path")
    if images.is_dir():
        return list(images_of_folder(images, options["dataset"])), images
    folder = options["images_folder"]
    if folder is None:
        raise click.UsageError("RECORDS needs --images DIR, the folder of its images")
    return list(images_of_records(images, folder, options["dataset"])), folder


def extract_here(named: list[tuple[str, Path]], root: Path, options: dict[str, Any], shard: tuple[int, int]) -> None:
    """Extracts in one process. One of several processes takes the shards and the GPU of its rank."""
    from cmal.regions.detectors import build_detector
    from cmal.regions.extract import extract_regions
    from cmal.training.launch import is_launched

    device, quiet, is_silent = options["device"], options["quiet"], options["quiet"]
    if is_launched():
        shard = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if device == "cuda" else device
        is_silent = quiet or shard[0] > 0
    dataset = named[0][0].partition(":")[0] if named else ""
    name = options["detector"] or ("scenes" if dataset == "scenes" else "nanodet")
    given = {key: options[key] for key in DETECTOR_OPTIONS}
    if dataset and name.startswith("boxes:"):
        given["dataset"] = dataset
    detector = build_detector(name, device=device, **given)
    with ProgressDisplay("extracting", "images", quiet=is_silent) as progress:
        summary = extract_regions(
            named,
            detector,
            options["out"],
            root=root,
            batch_size=options["batch_size"],
            shard_size=options["shard_size"],
            shard=shard,
            workers=options["workers"],
            report=lambda event: show_event(progress, event),
        )
    if quiet:
        return
    rate = summary.images / summary.seconds if summary.seconds else 0.0
    echo(
        f"{summary.images:,} images stored in {options['out']} in {summary.seconds:.1f} s ({rate:.1f} images/s); "
        f"{summary.failed:,} failed, {summary.skipped:,} were there before"
    )
    if summary.failed:
        echo(f"the reasons are in {options['out'] / 'failed.jsonl'}")


def show_event(progress: ProgressDisplay, event: Any) -> None:
    """Shows a report of an extraction or an import."""
    if event.note:
        progress.say(event.note)
    progress.update(event.done, event.total, *([f"{event.failed:,} failed"] if event.failed else []))
