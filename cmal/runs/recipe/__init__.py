"""Recipes: `schema.py` defines the keys, `reader.py` reads YAML files and overrides."""

from cmal.runs.recipe.reader import (
    Recipe,
    load_recipe,
    recipe_as_dict,
    recipe_differences,
    recipe_text,
    rename_old_keys,
)
from cmal.runs.recipe.schema import FinetuneRecipe, PretrainRecipe

__all__ = [
    "FinetuneRecipe",
    "PretrainRecipe",
    "Recipe",
    "load_recipe",
    "recipe_as_dict",
    "recipe_differences",
    "recipe_text",
    "rename_old_keys",
]
