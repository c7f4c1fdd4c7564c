"""`cmal finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cmal_cli.training import run_training_command, training_options


@click.command(
    short_help="Fine-tune a pre-trained model on a task.",
    epilog="""\b
Examples:
  cmal finetune recipes/finetune/scenes_vqa.yaml
  cmal finetune recipes/finetune/scenes_ve.yaml --set train.seed=1 --set out=runs/ve1
""",
)
@training_options
def finetune(recipe: Path, overrides: tuple[str, ...], **options: Any) -> None:
    """Fine-tune a pre-trained model on a downstream task as RECIPE describes."""
    from cmal.runs.recipe import FinetuneRecipe, load_recipe
    from cmal_cli.display import echo

    run_training_command("finetune", load_recipe(FinetuneRecipe, recipe, overrides, note=echo), options)
