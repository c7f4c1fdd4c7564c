"""Recipes: `schema.py` defines the keys, `reader.py` reads YAML files and overrides."""

from cmal.runs.recipe.reader import load_recipe, recipe_text
from cmal.runs.recipe.schema import FinetuneRecipe, PretrainRecipe

__all__ = ["FinetuneRecipe", "PretrainRecipe", "load_recipe", "recipe_text"]
