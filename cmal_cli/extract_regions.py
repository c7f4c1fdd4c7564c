"""`cmal extract-regions`: images, or published features, into a region store; and checks of a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cmal_cli.extract_images import extract
from cmal_cli.store_tools import import_into, inspect, merge, verify

EXAMPLES = """\b
Examples:
  cmal extract-regions data/scenes/images --out data/scenes/regions
  cmal extract-regions --inspect data/scenes/regions
"""


@click.command("extract-regions", epilog=EXAMPLES, short_help="Detect regions in images and store them.")
@click.argument("images", required=False, type=click.Path(path_type=Path), metavar="[IMAGES|RECORDS]")
@click.option("--out", type=click.Path(path_type=Path), help="The store: a folder, created or continued.")
@click.option(
    "--detector",
    metavar="NAME",
    help="nanodet (default for photographs), scenes (default for the drawn scenes), frcnn-vg, torchvision:NAME, hf:MODEL, "
    "or boxes:FILE (COCO instances json).",
)
@click.option(
    "--features",
    metavar="NAME",
    help="nanodet: timm:NAME; boxes:FILE: timm:NAME or a detector; hf:MODEL: decoder or backbone.",
)
@click.option("--feature-weights", metavar="FILE", help="nanodet: state file of the timm backbone of --features.")
@click.option(
    "--windows",
    metavar="GRIDS",
    help='nanodet: windows without a tag, columns x rows; default 1x1,1x2,1x3; "" for none.',
)
@click.option("--weights", metavar="FILE", help="Weight file, folder or hub name in place of the detector's own.")
@click.option(
    "--images", "images_folder", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the images of RECORDS."
)
@click.option("--dataset", metavar="NAME", help="Data set of the images, for their ids. Default: guessed.")
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Images per batch.")
@click.option("--shard-size", type=click.IntRange(1), default=1000, show_default=True, help="Images per file.")
@click.option("--max-regions", type=click.IntRange(1), help="Largest number of regions per image.")
@click.option("--min-regions", type=click.IntRange(0), help="Smallest number of regions per image.")
@click.option("--min-confidence", type=click.FloatRange(0, 1), help="Leave out regions with less confidence.")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), help="Number format of the detector.")
@click.option("--device", help="cpu, cuda, cuda:1, ...; default: the first GPU, or the CPU.")
@click.option(
    "--gpus",
    type=click.IntRange(1),
    metavar="N",
    help="One process per GPU of this machine; for several machines, run the command by torchrun.",
)
@click.option("--shard", default="0/1", metavar="I/N", help="Do part I (0 to N-1) of N parts.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Threads that read images.")
@click.option("--verify", is_flag=True, help="Check every shard's hash; drop damaged ones; with IMAGES, redo them.")
@click.option("--merge", is_flag=True, help="Write all shards into one file OUT.h5.")
@click.option(
    "--import",
    "import_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Convert published features: BUTD or VinVL tsv, UNITER or volta LMDB, MMF npy.",
)
@click.option("--import-format", metavar="NAME", help="Format of FILE, if it is not recognised.")
@click.option("--class-names", type=click.Path(path_type=Path), metavar="FILE", help="Imports: one name per line.")
@click.option("--attribute-names", type=click.Path(path_type=Path), metavar="FILE", help="Imports: one name per line.")
@click.option("--sizes", type=click.Path(path_type=Path), metavar="FILE", help="Imports: json of image sizes.")
@click.option(
    "--inspect", "inspect_store", type=click.Path(path_type=Path), metavar="STORE", help="Print a summary of a store."
)
@click.option("--preview", type=click.IntRange(1), metavar="N", help="Draw N images of IMAGES with boxes and tags.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
def extract_regions(images: Path | None, **options: Any) -> None:
    """Find the regions of IMAGES (a folder, or the RECORDS of a prepared set with --images DIR) and store them.

    The same command again continues with the images that are not in the store yet. Images that cannot be read are
    listed in failed.jsonl with the reason. Other uses: --import FILE, --inspect STORE [--preview N], --verify, --merge.
    """
    if options["inspect_store"] is not None:
        return inspect(options["inspect_store"], images, options)
    out = options["out"]
    if out is None:
        raise click.UsageError("--out is missing: the store to write, e.g. --out data/coco/regions")
    if options["import_file"] is not None:
        return import_into(out, options)
    if options["verify"]:
        verify(out, is_redone=images is not None)
    if images is not None:
        extract(images, options)
    elif not (options["verify"] or options["merge"]):
        raise click.UsageError("IMAGES is missing: a folder of images, or a records file (.jsonl)")
    if options["merge"]:
        merge(out)
    if options["preview"]:
        inspect(out, images, options)
