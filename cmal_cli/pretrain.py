"""`cmal pretrain`, and the options it shares with `cmal finetune`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click


def training_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of both training commands."""
    options = [
        click.argument("recipe", type=click.Path(exists=True, dir_okay=False, path_type=Path)),
        click.option(
            "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Replace one recipe value; repeatable."
        ),
        click.option(
            "--resume", "start", flag_value="resume", help="Go on from the last checkpoint; there must be one."
        ),
        click.option("--fresh", "start", flag_value="fresh", help="Start over: remove what the run folder holds."),
        click.option("--dry-run", is_flag=True, help="Check everything, estimate time and memory; do not train."),
        click.option("--gpus", type=click.IntRange(1), help="Processes, one a GPU of this machine."),
        click.option("--cpu-procs", type=click.IntRange(1), help="Processes on the CPU of this machine."),
        click.option("--nodes", type=click.IntRange(1), default=1, help="Machines that take part."),
        click.option("--node-rank", type=click.IntRange(0), default=0, help="Which of them this is, from 0."),
        click.option("--rendezvous", default="", metavar="HOST:PORT", help="Where the machines meet."),
        click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Default: cuda where there is one."),
        click.option("--quiet", is_flag=True, help="Print errors only."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command(
    short_help="Pre-train a model as a recipe describes.",
    epilog="""\b
Examples:
  cmal pretrain recipes/scenes.yaml
  cmal pretrain recipes/scenes.yaml --set train.steps=100 --set out=runs/short --dry-run
""",
)
@training_options
def pretrain(recipe: Path, overrides: tuple[str, ...], **options: Any) -> None:
    """Pre-train a model as RECIPE describes.

    A run that was stopped goes on from its last checkpoint when the same command is run again.
    """
    from cmal.runs.recipe import PretrainRecipe, load_recipe
    from cmal_cli.display import echo

    run_training_command("pretrain", load_recipe(PretrainRecipe, recipe, overrides, note=echo), options)


def run_training_command(command: str, recipe: Any, options: dict[str, Any]) -> None:
    """Trains (or estimates) here, or in as many processes as were asked for."""
    from cmal.training.launch import Launch, launch
    from cmal_cli.dry_run import dry_run_here

    wanted = Launch.of(
        options["gpus"],
        options["cpu_procs"],
        options["nodes"],
        options["node_rank"],
        options["rendezvous"],
        options["device"],
    )
    start, quiet = options["start"] or "auto", options["quiet"]
    if options["dry_run"]:
        launch(wanted, dry_run_here, recipe, start, wanted.device, quiet)
    else:
        launch(wanted, train_here, command, recipe, start, wanted.device, quiet)


def train_here(command: str, recipe: Any, start: str, device: str | None, quiet: bool) -> None:
    """One process's part of a training."""
    import contextlib
    import os

    from cmal.errors import CmalError
    from cmal.reports.run_report import write_run_report
    from cmal.runs.folder import METRICS, read_metrics
    from cmal_cli.display import TrainingDisplay

    if command == "pretrain":
        from cmal.runs.pretrain import run_pretraining as run
    else:
        from cmal.runs.finetune import run_finetuning as run
    is_first = os.environ.get("RANK", "0") == "0"
    display = TrainingDisplay(f"{command} {recipe.out}", "steps", quiet=quiet or not is_first)
    try:
        with display:
            summary = run(recipe, display.step, start=start, device=device, tick=display.tick)
    except (CmalError, KeyboardInterrupt):
        if is_first and read_metrics(Path(recipe.out) / METRICS):
            with contextlib.suppress(CmalError):
                write_run_report(Path(recipe.out))  # as far as it came
        raise
    if is_first and not quiet:
        show_last_losses(command, summary.run, read_metrics(summary.run / METRICS))
    went_on = f", went on from step {summary.resumed_from}" if summary.resumed_from else ""
    skipped = f", {summary.skipped} steps skipped for non-finite numbers" if summary.skipped else ""
    display.say(f"done: {summary.steps} steps{went_on}{skipped}; checkpoint {summary.run}/last")
    if is_first:
        display.say(f"report: {write_run_report(summary.run)}")


def show_last_losses(command: str, run: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The last reported losses and the last validation, a row a measure."""
    from cmal_cli.display import show_table

    trained = next((row for row in reversed(rows) if "losses" in row), {"losses": {}, "step": 0})
    validated = next((row["validation"] for row in reversed(rows) if "validation" in row), {})
    names = ["loss", *sorted({*trained["losses"], *validated} - {"loss", "main"})]
    shown = [
        (name, *(f"{side[name]:.4f}" if name in side else "" for side in (trained["losses"], validated)))
        for name in names
        if name in trained["losses"] or name in validated
    ]
    columns = ("measure", "training", "validation")
    count = 3 if validated else 2
    show_table(f"{command} {run}, step {trained['step']:,}", columns[:count], [row[:count] for row in shown])
