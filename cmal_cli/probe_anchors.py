"""`cmal probe-anchors`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from cmal.runs.probe import Probe

_FILE = click.Path(dir_okay=False, path_type=Path)
SHOWN_CONCEPTS = 12
EXAMPLES = """\b
Examples:
  cmal probe-anchors --records data/scenes/test.jsonl --regions data/scenes/regions
  cmal probe-anchors --records data/scenes/test.jsonl --regions data/scenes/regions \\
    --checkpoint runs/scenes --html anchors.html --json anchors.json
"""


@click.command("probe-anchors", epilog=EXAMPLES, short_help="Where tags match words; what a model associates.")
@click.option("--records", required=True, type=_FILE, help="Image-text pairs, as cmal prepare writes them.")
@click.option("--regions", required=True, type=click.Path(path_type=Path), help="The region store of their images.")
@click.option(
    "--checkpoint",
    type=click.Path(file_okay=False, path_type=Path),
    help="A pre-trained run, to measure its associations.",
)
@click.option(
    "--thesaurus", multiple=True, metavar="FILE", help="A thesaurus in addition to the package's; repeatable."
)
@click.option("--json", "json_file", type=_FILE, help="Write all measurements here.")
@click.option("--html", "html_file", type=_FILE, help="Write one self-contained page with images, boxes and words.")
@click.option(
    "--images",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="The folder of the images for the page. Default: images beside the records.",
)
@click.option("--examples", type=click.IntRange(1), default=48, show_default=True, help="Pairs shown on the page.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Default: cuda where there is one.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
def probe_anchors(
    records: Path,
    regions: Path,
    checkpoint: Path | None,
    thesaurus: tuple[str, ...],
    json_file: Path | None,
    html_file: Path | None,
    images: Path | None,
    examples: int,
    device: str | None,
    quiet: bool,  # read by cmal_cli.display
) -> None:
    """Show where object tags match words: how many anchors there are, how correct they are, and what a model associates.

    Precision and recall are shown if there are gold anchors beside the records (gold_anchors/, written by
    cmal prepare scenes).
    """
    from cmal.io.files import write_json
    from cmal.runs.probe import ProbeRequest, run_probe
    from cmal_cli.display import ProgressDisplay, echo

    with ProgressDisplay("probe-anchors") as display:
        probe = run_probe(ProbeRequest(records, regions, checkpoint, thesaurus), display.stage, device)
    _show(probe)
    if json_file:
        write_json(json_file, probe.as_json())
    if html_file:
        from cmal.reports.anchors import write_anchors_page

        shown = write_anchors_page(html_file, probe, images, examples)
        echo(f"page of {shown.pairs} pairs and {shown.pictures} pictures: {html_file}")


def _show(probe: Probe) -> None:
    from cmal_cli.display import show_table

    statistics = probe.statistics
    show_table("anchors", ("measure", "value"), _coverage_rows(statistics))
    concepts = list(statistics["concepts"].items())[:SHOWN_CONCEPTS]
    if concepts:
        show_table(f"anchors by concept, the {len(concepts)} most frequent", ("concept", "anchors"), concepts)
    if gold := statistics.get("gold"):
        _show_gold(gold)
    if probe.association_by:
        _show_association(probe.association_by)


def _coverage_rows(statistics: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("pairs", f"{statistics['pairs']:,}"),
        ("pairs with an anchor", f"{statistics['pairs_with_anchor']:,} ({_percent(statistics['coverage'])})"),
        ("anchors", f"{statistics['anchors']:,}"),
        ("anchors per pair", f"{statistics['anchors_per_pair']:.2f}"),
        ("object anchors per pair", f"{statistics['object_anchors_per_pair']:.2f}"),
        ("attribute anchors per pair", f"{statistics['attribute_anchors_per_pair']:.2f}"),
    ]


def _show_gold(gold: dict[str, Any]) -> None:
    from cmal_cli.display import show_table

    rows = [
        (role, _percent(gold[role]["precision"]), _percent(gold[role]["recall"]), f"{gold[role]['found']:,}")
        for role in ("all", "object", "attribute")
    ]
    show_table(f"against gold anchors of {gold['pairs']:,} pairs", ("anchors", "precision", "recall", "found"), rows)
    missed = [(row["role"], row["words"], row["count"]) for row in gold["missed"]]
    if missed:
        show_table(f"missed: the {len(missed)} most common", ("role", "words", "times"), missed)
    false = [(row["role"], row["words"], row["tag"], row["count"]) for row in gold["false"]]
    if false:
        show_table(f"false: the {len(false)} most common", ("role", "words", "tag", "times"), false)


def _show_association(by: dict[str, Any]) -> None:
    from cmal.tasks.association_probe import COLUMNS, accuracies_and_controls
    from cmal_cli.display import show_table

    rows = []
    for kind in ("all", "object", "attribute"):
        for direction, name in (("t2v", "word to region"), ("v2t", "region to word")):
            rows.append((kind, name, *map(_percent, accuracies_and_controls(by[kind], direction))))
    show_table(
        f"associations at {by['all']['anchors']:,} swapped anchors, among {by['candidates']:.0f} candidates each",
        ("anchors", "direction", *COLUMNS),
        rows,
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"
