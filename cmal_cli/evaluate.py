"""`cmal eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(
    name="eval",
    epilog="Examples:  cmal eval scenes-rec --split testA   |   "
    "cmal eval scenes-retrieval --split test --checkpoint runs/scenes --zero-shot --json zero_shot.json",
)
@click.argument("task")
@click.option("--split", required=True, help="Which split to score: val, test, testA, ...")
@click.option("--checkpoint", type=_FOLDER, help="Run or checkpoint folder. Default: runs/TASK")
@click.option("--regions", type=click.Path(path_type=Path), help="Region store. Default: what the run's recipe names.")
@click.option("--records", type=_FOLDER, help="Folder of the split files. Default: what the run's recipe names.")
@click.option("--protocol", default="", help="A peer's convention for the score; see the README.")
@click.option("--zero-shot", is_flag=True, help="Retrieval with the pre-trained matching head.")
@click.option("--predictions", type=_FILE, help="Write every answer here, in the task's submission format.")
@click.option("--json", "json_file", type=_FILE, help="Write the result here.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Default: cuda where there is one.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
def evaluate(
    task: str, split: str, predictions: Path | None, json_file: Path | None, quiet: bool, **options: Any
) -> None:
    """Score a fine-tuned model on TASK by its official protocol.

    TASK: vqa snli-ve refcoco refcoco+ refcocog flickr30k coco-retrieval nlvr2 scenes-vqa scenes-ve scenes-rec
    scenes-retrieval
    """
    from cmal.files import write_json
    from cmal.runs.evaluate import EvaluationRequest, run_evaluation
    from cmal.runs.predictions import write_predictions
    from cmal_cli.display import ProgressDisplay

    device = options.pop("device")
    request = EvaluationRequest(task, split, **options)
    with ProgressDisplay(f"eval {task} {split}", quiet=quiet) as display:
        evaluations = run_evaluation(request, display.update, device)
    if not quiet:
        for evaluation in evaluations:
            _show(evaluation)
    if predictions:
        write_predictions(task, evaluations[0], predictions)
    if json_file:
        results = [e.result.as_json() for e in evaluations]
        write_json(json_file, results[0] | ({"det": results[1]} if len(results) > 1 else {}))


def _show(evaluation: Any) -> None:
    from cmal_cli.display import show_table

    result = evaluation.result
    boxes = f", {evaluation.boxes} boxes" if evaluation.boxes else ""
    rows = []
    for name, metric in result.metrics.items():
        is_share = "rank" not in name
        scale = 100 if is_share else 1
        interval = "" if metric.low is None else f"{scale * metric.low:.2f} to {scale * metric.high:.2f}"
        rows.append((name, f"{scale * metric.value:.2f}{' %' if is_share else ''}", interval))
    rows.append(("chance", f"{100 * (result.chance or 0):.2f} %", ""))
    show_table(f"{result.task} {result.split}{boxes}", ("metric", "value", "95% interval"), rows)
    from click import echo

    echo(f"protocol: {result.protocol}\nregions: {result.proposal_set}\nleakage: {result.leakage}")
