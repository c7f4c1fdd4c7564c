"""What `cmal pretrain` and `cmal finetune` share: their options, and the function that each process runs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

TORCHRUN = (
    "torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 "
    "--no-python cmal pretrain RECIPE"
)


def _refuse_machines(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        raise click.UsageError(
            "--nodes, --node-rank and --rendezvous are no longer options\n"
            "  several machines are started by torchrun, with the same command on each\n"
            f"  e.g. {TORCHRUN}"
        )


OPTIONS = (
    click.argument("recipe", type=click.Path(exists=True, dir_okay=False, path_type=Path)),
    click.option(
        "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Replace one recipe value; repeatable."
    ),
    click.option("--resume", "start", flag_value="resume", help="Require a checkpoint and resume from the last one."),
    click.option("--fresh", "start", flag_value="fresh", help="Start over: remove what the run folder contains."),
    click.option("--dry-run", is_flag=True, help="Check everything, estimate time and memory; do not train."),
    click.option(
        "--gpus",
        type=click.IntRange(1),
        help=f"Processes, one per GPU of this machine. For several machines use torchrun: {TORCHRUN}",
    ),
    click.option("--cpu-procs", type=click.IntRange(1), help="Processes on the CPU of this machine."),
    click.option(
        "--nodes",
        "--node-rank",
        "--rendezvous",
        "nodes",
        hidden=True,
        expose_value=False,
        callback=_refuse_machines,
        help="Replaced by torchrun.",
    ),
    click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Default: cuda if there is a GPU."),
    click.option("--quiet", is_flag=True, help="Print errors only."),
)


def training_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the argument and the options of both training commands."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def run_training_command(command: str, recipe: Any, options: dict[str, Any]) -> None:
    """Trains, or estimates with --dry-run, in as many processes as the options say."""
    from cmal.training.launch import Launch, launch
    from cmal_cli.dry_run import dry_run_here

    request = Launch.of(options["gpus"], options["cpu_procs"], options["device"])
    start, quiet = options["start"] or "auto", options["quiet"]
    if options["dry_run"]:
        launch(request, dry_run_here, recipe, start, request.device, quiet)
    else:
        launch(request, train_here, command, recipe, start, request.device, quiet)


def train_here(command: str, recipe: Any, start: str, device: str | None, quiet: bool) -> None:
    """Trains in one process; the first process shows progress and writes the report."""
    from cmal.errors import CmalError
    from cmal.reports.run_report import write_run_report
    from cmal.runs.finetune import run_finetuning
    from cmal.runs.folder import METRICS, read_metrics
    from cmal.runs.pretrain import run_pretraining
    from cmal_cli.display import ProgressDisplay

    run: Callable[..., Any] = run_pretraining if command == "pretrain" else run_finetuning
    is_first = os.environ.get("RANK", "0") == "0"
    display = ProgressDisplay(f"{command} {recipe.out}", "steps", quiet=quiet or not is_first)
    try:
        with display:
            summary = run(recipe, display.step, start=start, device=device, tick=display.tick)
    except (CmalError, KeyboardInterrupt):
        if is_first and read_metrics(Path(recipe.out) / METRICS):
            with contextlib.suppress(CmalError):
                write_run_report(Path(recipe.out))  # of the steps so far
        raise
    if is_first and not quiet:
        show_last_losses(command, summary.run, read_metrics(summary.run / METRICS))
    resumed = f", resumed from step {summary.resumed_from}" if summary.resumed_from else ""
    skipped = f", {summary.skipped} steps skipped for non-finite numbers" if summary.skipped else ""
    display.say(f"done: {summary.steps} steps{resumed}{skipped}; checkpoint {summary.run}/last")
    if is_first:
        display.say(f"report: {write_run_report(summary.run)}")


def show_last_losses(command: str, run: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints the last reported losses and the last validation, one measure per row."""
    from cmal_cli.display import show_table

    trained: Mapping[str, Any] = next((row for row in reversed(rows) if "losses" in row), {"losses": {}, "step": 0})
    validated: Mapping[str, float] = next((row["validation"] for row in reversed(rows) if "validation" in row), {})
    sides = (trained["losses"], validated) if validated else (trained["losses"],)
    names = ["loss", *sorted({*trained["losses"], *validated} - {"loss", "main"})]
    shown = [
        (name, *(f"{side[name]:.4f}" if name in side else "" for side in sides))
        for name in names
        if any(name in side for side in sides)
    ]
    title = f"{command} {run}, step {trained['step']:,}"
    show_table(title, ("measure", "training", "validation")[: 1 + len(sides)], shown)
