"""Recipes: `schema` says what they may contain, `reader` reads YAML into it."""
