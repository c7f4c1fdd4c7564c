"""Reads a recipe: YAML -> the dataclasses of `schema.py`. The only reader of YAML files that users write.

All errors of a recipe are shown together, each with its line and the nearest known key. An override `section.key=value`
replaces one value and goes through the same checks. A key of an earlier version is accepted under its new name.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import yaml

from cmal.errors import RecipeError, list_errors, short, shown
from cmal.runs.recipe.schema import OLD_KEYS, OTHER_TOOLKITS

MAX_BYTES = 1 << 20
TYPE_NAMES: dict[object, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


class Recipe(Protocol):
    """A dataclass whose fields are values or sections, with a check of what involves several of them."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    def errors(self) -> Iterable[str]:
        """One line per error."""
        ...


RecipeType = TypeVar("RecipeType", bound=Recipe)


def load_recipe(
    kind: type[RecipeType],
    path: Path,
    overrides: Iterable[str] = (),
    note: Callable[[str], None] = lambda line: None,
) -> RecipeType:
    """The recipe in a file, with `key=value` overrides applied.

    Args:
        note: called with one line for every key of an earlier version, which names the key's new name.

    Raises:
        RecipeError: the file cannot be read or is not YAML, or keys or values are wrong; the message lists all of them.
    """
    tree, lines = _read_tree(Path(path))
    errors: list[str] = []
    for old, new in rename_old_keys(tree).items():
        note(f'{path}, line {lines[old]}: "{old}" is now "{new}"')
        if new in lines:
            errors.append(f'line {lines[old]}: "{old}" is the old name of "{new}", which is set too')
        lines[new] = lines[old]
    for override in overrides:
        _override(tree, lines, override, errors, note)
    recipe = _section(kind, tree, "", lines, errors)
    if not errors:
        errors.extend(recipe.errors())
    if errors:
        raise RecipeError(f"cannot use the recipe {path}", list_errors(errors), "fix this and run again")
    return recipe


def rename_old_keys(tree: dict[str, Any]) -> dict[str, str]:
    """Gives keys of earlier versions their new names, in place. Returns {old name: new name} of those that were found."""
    found = {}
    for old, new in OLD_KEYS.items():
        section, key = old.split(".")
        values = tree.get(section)
        if isinstance(values, dict) and key in values:
            values[new.split(".")[1]] = values.pop(key)
            found[old] = new
    return found


def recipe_as_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as dicts, lists and plain values, ready for YAML or JSON."""
    return json.loads(json.dumps(dataclasses.asdict(recipe)))  # lists for tuples


def recipe_text(recipe: Recipe) -> str:
    """The recipe as YAML, defaults included; `load_recipe` reads it back to an equal recipe."""
    return yaml.safe_dump(recipe_as_dict(recipe), sort_keys=False, allow_unicode=True)


def recipe_differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """One line "key: old -> new" for every value that differs."""
    lines = []
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key, "(absent)"), new.get(key, "(absent)")
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += recipe_differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {before} -> {after}")
    return lines


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 3e-5 as a number (YAML 1.1: text) and refuses aliases, which can expand without bound."""

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"line {self.peek_event().start_mark.line + 1}: aliases are not used in recipes")
        return super().compose_node(parent, index)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


# PyYAML raises these for tagged scalars it cannot convert: `!!bool maybe`, `!!int ''`, `!!timestamp x`
_BAD_SCALAR = (ValueError, KeyError, IndexError, AttributeError, TypeError)


def _read_tree(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The file as nested dictionaries, and the line of every dotted key."""
    hint = "see recipes/ for examples"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RecipeError(f"cannot read the recipe {path}", "it is larger than a megabyte", hint)
        loader = _Loader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        lines: dict[str, int] = {}
        _note_lines(node, "", lines)
        tree = loader.construct_document(node) if node is not None else {}
    except OSError as error:
        raise RecipeError(f"cannot read the recipe {path}", f"the system says: {error.strerror}", hint) from error
    except (yaml.YAMLError, *_BAD_SCALAR, RecursionError) as error:
        found = f"it is not plain YAML: {_yaml_error(error)}"
        raise RecipeError(f"cannot read the recipe {path}", found, hint) from error
    if not isinstance(tree, dict):
        raise RecipeError(f"cannot read the recipe {path}", "it is not a set of keys and values", hint)
    return tree, lines


def _note_lines(node: yaml.Node | None, prefix: str, lines: dict[str, int]) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        name = f"{prefix}{key.value}" if isinstance(key, yaml.ScalarNode) else f"{prefix}{type(key).__name__}"
        if name in lines:
            raise ValueError(f'line {key.start_mark.line + 1}: "{short(name)}" is given twice')
        lines[name] = key.start_mark.line + 1
        _note_lines(value, f"{name}.", lines)


def _override(
    tree: dict[str, Any], lines: dict[str, int], text: str, errors: list[str], note: Callable[[str], None]
) -> None:
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not key:
        errors.append(f"--set {short(text)}: should be KEY=VALUE, e.g. train.steps=100")
        return
    name = OLD_KEYS.get(key, key)
    if name != key:
        note(f'--set: "{key}" is now "{name}"')
    *parents, last = name.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            errors.append(f"--set {short(text)}: {short(parent)} is no section")
            return
    try:
        tree[last] = yaml.load(value, _Loader)  # a SafeLoader: no object is built
    except (yaml.YAMLError, *_BAD_SCALAR, RecursionError) as error:
        errors.append(f"--set {short(text)}: {_yaml_error(error)[:200]}")
    lines[name] = 0


def _yaml_error(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _where(name: str, lines: Mapping[str, int]) -> str:
    line = lines.get(name, 0)
    return f"line {line}: " if line else "--set: " if name in lines else ""


def _section(kind: type[Any], tree: dict[str, Any], prefix: str, lines: Mapping[str, int], errors: list[str]) -> Any:
    """The dataclass `kind` from its dictionary. Errors are appended to `errors`; a wrong value is left at its default."""
    fields = {f.name: f for f in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if key not in fields:
            errors.append(_unknown_key(name, str(key), list(fields), lines))
        elif not dataclasses.is_dataclass(hints[key]):
            try:
                values[key] = _value(value, hints[key], fields[key].metadata)
            except ValueError as error:
                errors.append(f'{_where(name, lines)}"{name}" {error}')
        elif isinstance(value, dict):
            values[key] = _section(hints[key], value, f"{name}.", lines, errors)
        else:
            errors.append(f'{_where(name, lines)}"{name}" is a section of keys, found {shown(value)}')
    return kind(**values)


def _unknown_key(name: str, key: str, known: list[str], lines: Mapping[str, int]) -> str:
    close = [OTHER_TOOLKITS[key]] if OTHER_TOOLKITS.get(key) in known else []
    close = close or difflib.get_close_matches(key, known, n=1, cutoff=0.4)
    hint = f'; did you mean "{close[0]}"?' if close else ""
    return f'{_where(name, lines)}unknown key "{short(name)}" (known: {", ".join(known)}){hint}'


def _value(value: Any, expected: Any, limits: Mapping[str, Any]) -> Any:
    """The value as the type of its field. Raises ValueError with the end of a sentence: "should be a number, found ..."."""
    if typing.get_origin(expected) is tuple:
        inner = typing.get_args(expected)[0]
        return tuple(_value(item, inner, {}) for item in (value if isinstance(value, list) else [value]))
    if expected is str and value is None:
        value = ""  # an empty value in YAML
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 1 << 1000 else math.inf
    if type(value) is not expected:
        raise ValueError(f"should be {TYPE_NAMES[expected]}, found {shown(value)}")
    if expected is float and not math.isfinite(value):
        raise ValueError(f"should be finite, found {shown(value)}")
    least, most, options = (limits.get(name) for name in ("least", "most", "options"))
    if least is not None and value < least:
        raise ValueError(f"should be at least {least}, found {shown(value)}")
    if most is not None and value > most:
        raise ValueError(f"should be at most {most}, found {shown(value)}")
    if options and value not in options:
        raise ValueError(f"should be one of {', '.join(options)}, found {shown(value)}")
    return value
