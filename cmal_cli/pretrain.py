"""`cmal pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cmal_cli.training import run_training_command, training_options


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

    A run that was stopped resumes from its last checkpoint when the same command is run again.
    """
    from cmal.runs.recipe import PretrainRecipe, load_recipe
    from cmal_cli.display import echo

    run_training_command("pretrain", load_recipe(PretrainRecipe, recipe, overrides, note=echo), options)
