"""Command line that trains the `scenes` detector as a recipe describes.

python -m cmal.runs.train_scenes_detector recipes/scenes_detector.yaml --out scenes_detector.safetensors
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
from functools import partial
from pathlib import Path

from cmal.errors import RecipeError
from cmal.runs.recipe import load_recipe, recipe_text
from cmal.scenes.detector import WEIGHTS
from cmal.scenes.detector_training import ScenesDetectorRecipe, draw_pictures, save_weights, score_detector, train


def main(arguments: list[str] | None = None) -> None:
    """Trains and scores a network, prints the scores as JSON and saves the weights."""
    parser = argparse.ArgumentParser(description="Train the scenes detector from scratch.")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args(arguments)
    try:
        recipe = load_recipe(ScenesDetectorRecipe, options.recipe, options.overrides)
    except RecipeError as error:
        parser.exit(1, f"Error: {error}\n")
    net = train(recipe, report=partial(print, flush=True))
    scores = None
    if recipe.test_images:
        scores = score_detector(net, draw_pictures(recipe.test_seed, "test", recipe.test_images))
        print(json.dumps(dataclasses.asdict(scores), indent=2))
    save_weights(net, options.out, hashlib.sha256(recipe_text(recipe).encode()).hexdigest(), scores)


if __name__ == "__main__":
    main()
