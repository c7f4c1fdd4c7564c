"""`cmal extract-regions`: images, or features that others made, into a region store; and what one does with a store."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from cmal.errors import CmalError
from cmal_cli.display import ProgressDisplay, echo, show_table

EXAMPLES = """\b
Examples:
  cmal extract-regions data/scenes/images --out data/scenes/regions
  cmal extract-regions --inspect data/scenes/regions
"""


@click.command("extract-regions", epilog=EXAMPLES, short_help="Images become regions, in a store.")
@click.argument("images", required=False, type=click.Path(path_type=Path), metavar="[IMAGES|RECORDS]")
@click.option("--out", type=click.Path(path_type=Path), help="The store: a folder, made or continued.")
@click.option(
    "--detector",
    default="scenes",
    show_default=True,
    metavar="NAME",
    help="scenes, nanodet (photographs), frcnn-vg, torchvision:NAME, hf:MODEL, or boxes:FILE (COCO instances json).",
)
@click.option("--features", metavar="NAME", help="boxes:FILE: timm:NAME or a detector; hf:MODEL: decoder or backbone.")
@click.option("--weights", metavar="FILE", help="Weight file, folder or hub name in place of the detector's own.")
@click.option(
    "--images", "images_folder", type=click.Path(path_type=Path), metavar="DIR", help="Where the images of RECORDS lie."
)
@click.option("--dataset", metavar="NAME", help="Whose images these are, for their ids; guessed from the folder.")
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Images a forward.")
@click.option("--shard-size", type=click.IntRange(1), default=1000, show_default=True, help="Images a file.")
@click.option("--max-regions", type=click.IntRange(1), help="At most so many regions an image.")
@click.option("--min-regions", type=click.IntRange(0), help="At least so many, sure or not.")
@click.option("--min-confidence", type=click.FloatRange(0, 1), help="Regions of less confidence are left out.")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), help="Of the detector's forward.")
@click.option("--device", help="cpu, cuda, cuda:1, ...; the first GPU, or the CPU where there is none.")
@click.option("--gpus", type=click.IntRange(1), metavar="N", help="One process on each of N GPUs.")
@click.option("--shard", default="0/1", metavar="I/N", help="Do part I (0 to N-1) of N, beside the other parts.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Threads that read images.")
@click.option(
    "--verify", is_flag=True, help="Check every shard's hash; damaged ones are dropped, and redone if IMAGES is given."
)
@click.option("--merge", is_flag=True, help="Make one file OUT.h5 of the shards.")
@click.option(
    "--import",
    "import_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Convert features that others made: BUTD or VinVL tsv, UNITER or volta LMDB, MMF npy.",
)
@click.option("--import-format", metavar="NAME", help="Its format, where it cannot be told from the file.")
@click.option("--class-names", type=click.Path(path_type=Path), metavar="FILE", help="Imports: one name a line.")
@click.option("--attribute-names", type=click.Path(path_type=Path), metavar="FILE", help="Imports: one name a line.")
@click.option("--sizes", type=click.Path(path_type=Path), metavar="FILE", help="Imports: json of image sizes.")
@click.option(
    "--inspect", "inspect_store", type=click.Path(path_type=Path), metavar="STORE", help="Print what a store holds."
)
@click.option("--preview", type=click.IntRange(1), metavar="N", help="Draw N images of IMAGES with boxes and tags.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
@click.pass_context
def extract_regions(ctx: click.Context, images: Path | None, **options: Any) -> None:
    """Find the regions of IMAGES (a folder, or the RECORDS of a prepared set with --images DIR) and store them.

    Started again, it goes on with the images that are not in the store yet; images that cannot be read are listed in
    failed.jsonl with the reason. Other uses: --import FILE, --inspect STORE [--preview N], --verify, --merge.
    """
    if options["inspect_store"] is not None:
        return _inspect(images, options)
    out = options["out"]
    if out is None:
        raise click.UsageError("--out is missing: the store to write, e.g. --out data/coco/regions")
    if options["import_file"] is not None:
        return _import(options)
    if options["verify"]:
        _verify(out, redo_follows=images is not None)
    if images is not None:
        if options["gpus"] and options["gpus"] > 1:
            _on_gpus(options["gpus"])
        else:
            _extract(images, options)
    elif not (options["verify"] or options["merge"]):
        raise click.UsageError("IMAGES is missing: a folder of images, or a records file (.jsonl)")
    if options["merge"]:
        _merge(out)
    if options["preview"]:
        _inspect(images, {**options, "inspect_store": out})


def _extract(images: Path, options: dict[str, Any]) -> None:
    shard = _shard(options["shard"])
    from cmal.regions.detectors import build_detector
    from cmal.regions.extract import extract_regions as run

    pairs, root = _named_images(images, options)
    extra = {"dataset": pairs[0][0].partition(":")[0]} if pairs and options["detector"].startswith("boxes:") else {}
    detector = build_detector(
        options["detector"],
        weights=options["weights"],
        device=options["device"] or ("cuda:0" if options["gpus"] == 1 else None),
        precision=options["precision"],
        max_regions=options["max_regions"],
        min_regions=options["min_regions"],
        min_confidence=options["min_confidence"],
        features=options["features"],
        **extra,
    )
    with ProgressDisplay("extracting", "images") as progress:
        summary = run(
            pairs,
            detector,
            options["out"],
            root=root,
            batch_size=options["batch_size"],
            shard_size=options["shard_size"],
            shard=shard,
            workers=options["workers"],
            report=lambda event: _show(progress, event),
        )
    rate = summary.images / summary.seconds if summary.seconds else 0.0
    echo(
        f"{summary.images:,} images stored in {options['out']} in {summary.seconds:.1f} s ({rate:.1f} a second); "
        f"{summary.failed:,} failed, {summary.skipped:,} were there before"
    )
    if summary.failed:
        echo(f"the reasons are in {options['out'] / 'failed.jsonl'}")


def _show(progress: ProgressDisplay, event: Any) -> None:
    if event.note:
        progress.say(event.note)
    progress.update(event.done, event.total, *([f"{event.failed:,} failed"] if event.failed else []))


def _shard(text: str) -> tuple[int, int]:
    number, slash, count = text.partition("/")
    if not (slash and number.isdigit() and count.isdigit() and int(number) < int(count)):
        raise click.BadParameter(f'"{text}" is not I/N with I from 0 to N-1, e.g. 0/4', param_hint="--shard")
    return int(number), int(count)


def _named_images(images: Path, options: dict[str, Any]) -> tuple[list[tuple[str, Path]], Path]:
    from cmal.regions.image_lists import images_of_folder, images_of_records

    if not images.exists():
        raise CmalError(f"cannot extract regions of {images}", "there is no such file or folder", "check the path")
    if images.is_dir():
        return list(images_of_folder(images, options["dataset"])), images
    folder = options["images_folder"]
    if folder is None:
        raise click.UsageError("RECORDS needs --images DIR, the folder of its images")
    return list(images_of_records(images, folder, options["dataset"])), folder


def _on_gpus(count: int) -> None:
    """Runs this very command once per GPU, each with its share of the shards."""
    import torch

    there = torch.cuda.device_count()
    if there < count:
        raise CmalError(
            f"cannot use {count} GPUs", f"this machine has {there}", f"give --gpus {max(there, 1)} or fewer"
        )
    arguments = _without(sys.argv[1:], ("--gpus", "--shard", "--device"), ("--merge", "--verify"))
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from cmal_cli.app import main; main()",
                *arguments,
                "--device",
                f"cuda:{i}",
                "--shard",
                f"{i}/{count}",
            ]
        )
        for i in range(count)
    ]
    codes = [process.wait() for process in processes]
    if any(codes):
        raise CmalError("some GPUs' processes failed", f"exit statuses: {codes}", "see their messages above, run again")


def _without(arguments: list[str], options: tuple[str, ...], flags: tuple[str, ...]) -> list[str]:
    kept, skip = [], False
    for argument in arguments:
        if not skip and argument not in options and not argument.startswith(tuple(f"{o}=" for o in options)):
            if argument not in flags:
                kept.append(argument)
            skip = False
        else:
            skip = argument in options and not skip
    return kept


def _import(options: dict[str, Any]) -> None:
    from cmal.regions.imports import import_features

    with ProgressDisplay("importing", "images") as progress:
        summary = import_features(
            options["import_file"],
            options["out"],
            format=options["import_format"],
            dataset=options["dataset"],
            class_names=options["class_names"],
            attribute_names=options["attribute_names"],
            sizes=options["sizes"],
            report=lambda event: _show(progress, event),
        )
    echo(
        f"{summary.images:,} images with {summary.regions:,} regions ({summary.format}) imported into {options['out']} "
        f"in {summary.seconds:.1f} s; {summary.failed:,} failed, {summary.repeated:,} came again"
    )
    if summary.unknown_sizes:
        echo(f"{summary.unknown_sizes:,} images of unknown size; tell their sizes with --sizes FILE")


def _verify(out: Path, redo_follows: bool) -> None:
    from cmal.regions.store.verify import verify_store

    total = 0

    def show(done: int, count: int, name: str) -> None:
        nonlocal total
        total = count
        progress.update(done, count)

    with ProgressDisplay("verifying", "shards") as progress:
        damaged = verify_store(out, report=show)
    for name, fault in damaged:
        echo(f"{name} {fault}")
    echo(f"{total - len(damaged)} of {total} shards are whole")
    if damaged and not redo_follows:
        raise CmalError(
            f"the region store {out} had damaged shards",
            f"{len(damaged)} of {total} were dropped from its index",
            f"redo them: cmal extract-regions IMAGES --out {out}",
        )


def _merge(out: Path) -> None:
    from cmal.regions.store.verify import merge_store

    with ProgressDisplay("merging", "shards") as progress:
        file = merge_store(
            out, out.with_name(out.name + ".h5"), report=lambda done, total: progress.update(done, total)
        )
    echo(f"one file: {file} ({file.stat().st_size / 1e6:,.1f} MB)")


def _inspect(images: Path | None, options: dict[str, Any]) -> None:
    from cmal.regions.inspect import preview_regions, summarise_store
    from cmal.regions.store.store import RegionStore

    path = options["inspect_store"]
    summary = summarise_store(path)
    _print_summary(summary)
    if options["preview"]:
        if images is None:
            raise click.UsageError("--preview needs IMAGES, the folder of the store's images")
        pairs, _ = _named_images(images, options)
        folder = path.with_name(path.name + "-preview")
        written = preview_regions(RegionStore.open(path), pairs, folder, options["preview"])
        echo(f"{len(written)} pictures in {folder}")


def _print_summary(summary: Any) -> None:
    fewest, mean, most = summary.regions_an_image
    rows = {
        "detector": summary.detector,
        "weights": summary.weights_sha256[:16] or "none",
        "images": f"{summary.images:,} in {summary.shards:,} shard{'s' * (summary.shards != 1)}",
        "regions": f"{summary.regions:,} ({fewest} to {most} an image, {mean:.1f} on average)",
        "numbers a region": f"{summary.feature_size:,}",
        "on disk": f"{summary.bytes / 1e6:,.1f} MB",
        "confidence": ", ".join(f"{q:.0%} below {value:.2f}" for q, value in summary.confidence) or "-",
        f"classes seen: {len(summary.classes)}": _counts(summary.classes),
        f"attributes seen: {len(summary.attributes)}": _counts(summary.attributes),
        "failed images": f"{summary.failed:,}",
    }
    show_table(f"region store {summary.path}", ("what", "value"), list(rows.items()))


def _counts(ranked: tuple[tuple[str, int], ...]) -> str:
    shown = ", ".join(f"{name} {count:,}" for name, count in ranked[:12])
    return (shown + (", ..." if len(ranked) > 12 else "")) or "-"
