"""The other uses of `cmal extract-regions`: import published features; verify, merge and inspect a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cmal.errors import CmalError
from cmal_cli.display import ProgressDisplay, echo, show_table
from cmal_cli.extract_images import named_images, show_event


def import_into(out: Path, options: dict[str, Any]) -> None:
    """Converts published features into a store."""
    from cmal.regions.imports import import_features

    with ProgressDisplay("importing", "images") as progress:
        summary = import_features(
            options["import_file"],
            out,
            format=options["import_format"],
            dataset=options["dataset"],
            class_names=options["class_names"],
            attribute_names=options["attribute_names"],
            sizes=options["sizes"],
            report=lambda event: show_event(progress, event),
        )
    echo(
        f"{summary.images:,} images with {summary.regions:,} regions ({summary.format}) imported into {out} "
        f"in {summary.seconds:.1f} s; {summary.failed:,} failed, {summary.repeated:,} came again"
    )
    if summary.unknown_sizes:
        echo(f"{summary.unknown_sizes:,} images of unknown size; give their sizes with --sizes FILE")


def verify(out: Path, is_redone: bool) -> None:
    """Checks every shard and drops damaged ones.

    Raises:
        CmalError: shards were dropped, and the command does not extract them again.
    """
    from cmal.regions.store.verify import verify_store

    total = 0

    def show(done: int, count: int, name: str) -> None:
        nonlocal total
        total = count
        progress.update(done, count)

    with ProgressDisplay("verifying", "shards") as progress:
        damaged = verify_store(out, report=show)
    for name, reason in damaged:
        echo(f"{name} {reason}")
    echo(f"{total - len(damaged)} of {total} shards are intact")
    if damaged and not is_redone:
        raise CmalError(
            f"the region store {out} had damaged shards",
            f"{len(damaged)} of {total} were dropped from its index",
            f"extract them again: cmal extract-regions IMAGES --out {out}",
        )


def merge(out: Path) -> None:
    """Writes all shards of a store into one file beside it."""
    from cmal.regions.store.verify import merge_store

    with ProgressDisplay("merging", "shards") as progress:
        file = merge_store(out, out.with_name(out.name + ".h5"), report=progress.update)
    echo(f"one file: {file} ({file.stat().st_size / 1e6:,.1f} MB)")


def inspect(path: Path, images: Path | None, options: dict[str, Any]) -> None:
    """Prints a summary of a store and, with --preview, draws the regions of some images."""
    from cmal.regions.inspect import preview_regions, summarise_store
    from cmal.regions.store.store import RegionStore

    summary = summarise_store(path)
    _print_summary(summary)
    if options["preview"]:
        if images is None:
            raise click.UsageError("--preview needs IMAGES, the folder of the store's images")
        pairs, _ = named_images(images, options)
        folder = path.with_name(path.name + "-preview")
        written = preview_regions(RegionStore.open(path), pairs, folder, options["preview"])
        echo(f"{len(written)} pictures in {folder}")


def _print_summary(summary: Any) -> None:
    fewest, mean, most = summary.regions_an_image
    rows = {
        "detector": summary.detector,
        "weights": summary.weights_sha256[:16] or "none",
        "images": f"{summary.images:,} in {summary.shards:,} shard{'s' * (summary.shards != 1)}",
        "regions": f"{summary.regions:,} ({fewest} to {most} per image, {mean:.1f} on average)",
        "feature dimension": f"{summary.feature_size:,}",
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
