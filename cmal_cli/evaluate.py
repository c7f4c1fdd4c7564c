"""`cmal eval`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(
    name="eval",
    short_help="Score it by the task's official protocol.",
    epilog="""\b
Examples:
  cmal eval scenes-rec --split testA --html answers.html
  cmal eval scenes-retrieval --split test --checkpoint runs/scenes --zero-shot --shortlist 16
""",
)
@click.argument("task")
@click.option("--split", required=True, help="Which split to score: val, test, testA, ...")
@click.option("--checkpoint", type=_FOLDER, help="Run or checkpoint folder. Default: runs/TASK")
@click.option("--regions", type=click.Path(path_type=Path), help="Region store. Default: what the run's recipe names.")
@click.option("--records", type=_FOLDER, help="Folder of the split files. Default: what the run's recipe names.")
@click.option(
    "--protocol",
    default="",
    help="vqa: official, albef. refcoco: official, uniter, albef, volta, mdetr. Retrieval: full, 1k (COCO).",
)
@click.option("--zero-shot", is_flag=True, help="Retrieval with the pre-trained matching head.")
@click.option(
    "--shortlist",
    type=click.IntRange(0),
    metavar="K",
    help="Retrieval: score each query's K best by a cheap first ranking; 0: all pairs. Default: the recipe's, 0.",
)
@click.option(
    "--predictions", type=_FILE, help="Write every answer here, in the task's submission format; det boxes beside it."
)
@click.option("--json", "json_file", type=_FILE, help="Write the result here.")
@click.option("--html", "html_file", type=_FILE, help="Write one self-contained page of right and wrong answers.")
@click.option(
    "--images", type=_FOLDER, metavar="DIR", help="Where the images for the page lie. Default: data/NAME/images"
)
@click.option("--examples", type=click.IntRange(1), default=40, show_default=True, help="Answers shown on the page.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Default: cuda where there is one.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
def evaluate(
    task: str,
    split: str,
    predictions: Path | None,
    json_file: Path | None,
    html_file: Path | None,
    images: Path | None,
    examples: int,
    quiet: bool,
    **options: Any,
) -> None:
    """Score a fine-tuned model on TASK by its official protocol.

    TASK: vqa snli-ve refcoco refcoco+ refcocog flickr30k coco-retrieval nlvr2 scenes-vqa scenes-ve scenes-rec
    scenes-retrieval
    """
    from cmal.io.files import write_json
    from cmal.runs.evaluate import EvaluationRequest, run_evaluation
    from cmal.runs.predictions import write_predictions
    from cmal_cli.display import ProgressDisplay

    device = options.pop("device")
    request = EvaluationRequest(task, split, answers_suffice=predictions is not None, **options)
    with ProgressDisplay(f"eval {task} {split}", quiet=quiet) as display:
        evaluations = run_evaluation(request, display.update, device)
    if "RANK" in os.environ and os.environ["RANK"] != "0":
        return  # of several processes the first one writes
    if predictions:
        for evaluation in evaluations:
            file = predictions if evaluation is evaluations[0] else predictions.with_suffix(f".{evaluation.boxes}.json")
            write_predictions(task, evaluation, file)
    evaluations = [evaluation for evaluation in evaluations if evaluation.result]
    if not quiet:
        for evaluation in evaluations:
            _show(evaluation)
        if not evaluations:
            click.echo(f"{predictions}: every answer; nothing is scored, the right answers are not in the records")
    if json_file and evaluations:
        results = [e.result.as_json() for e in evaluations if e.result]
        write_json(json_file, results[0] | ({"det": results[1]} if len(results) > 1 else {}))
    _keep(request, evaluations)
    if html_file and evaluations:
        from cmal.reports.evaluation import write_evaluation_page

        shown = write_evaluation_page(html_file, request, evaluations, images, examples)
        if not quiet:
            click.echo(f"page of {shown.answers} answers and {shown.pictures} pictures: {html_file}")


def _keep(request: Any, evaluations: Sequence[Any]) -> None:
    """Puts the results into the run folder and its report; a run folder that cannot be written costs no score."""
    from cmal.errors import CmalError
    from cmal.reports.run_report import RESULTS, write_run_report
    from cmal.runs.evaluation_inputs import resolve_inputs
    from cmal.runs.folder import run_of

    run = run_of(resolve_inputs(request).checkpoint)
    if run is None:
        return
    zero_shot = "zero-shot" if request.zero_shot else ""
    shortlist = f"shortlist-{request.shortlist}" if request.shortlist else ""
    try:
        for one in evaluations:
            parts = (request.task, request.split, one.boxes, request.protocol, zero_shot, shortlist)
            one.result.write_result(run / RESULTS / f"{'-'.join(filter(None, parts))}.json")
        write_run_report(run)
    except CmalError as error:
        click.echo(f"not kept in {run}: {error.found}", err=True)


def _show(evaluation: Any) -> None:
    from cmal.reports.result_rows import chance_rows, metric_rows, part_table
    from cmal_cli.display import echo, show_table

    result = evaluation.result
    boxes = f", {evaluation.boxes} boxes" if evaluation.boxes else ""
    rows = [*metric_rows(result), *chance_rows(result)]
    show_table(f"{result.task} {result.split}{boxes}", ("metric", "value", "95% interval"), rows)
    for name, part in result.tables.items():
        show_table(*part_table(name, part))
    counts = ", ".join(f"{count:,} {name}" for name, count in result.counts.items())
    facts = {"counts": counts, "protocol": result.protocol, "regions": result.proposal_set, "leakage": result.leakage}
    for name, fact in facts.items():
        echo(f"{name}: {fact}")
