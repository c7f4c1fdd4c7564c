"""Imports point one way: every package has a floor, and no module imports from a floor above its own.

The check reads the sources without running them; imports inside functions count too.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FLOORS = (  # ground floor first
    ("cmal", "cmal.errors"),
    ("cmal.io", "cmal.model"),
    ("cmal.anchors", "cmal.regions"),
    ("cmal.data", "cmal.scenes"),
    ("cmal.datasets", "cmal.tasks", "cmal.training"),
    ("cmal.runs",),
    ("cmal.reports", "cmal.hub"),
    ("cmal_cli",),
)
ONLY = {  # what a package may import besides what its floor allows
    "cmal.model": ("cmal.model", "cmal.errors"),  # tensors alone
    "cmal.anchors": ("cmal.anchors", "cmal.errors"),  # arrays alone
    "cmal.training": ("cmal.training", "cmal.model", "cmal.io", "cmal.errors", "cmal.data.micro_batches"),
}
TASKS = ("vqa", "snli_ve", "rec", "retrieval", "nlvr2")


@lru_cache
def edges() -> dict[str, set[str]]:
    """Module -> the modules of ours, or the outside packages, that it imports.

    Without `cmal` itself: its public API is imported at first use (see tests/unit/test_public_api.py).
    """
    files = sorted(path for package in ("cmal", "cmal_cli") for path in (ROOT / package).rglob("*.py"))
    modules = {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}
    known = frozenset(modules)
    return {name: imported(path.read_text(encoding="utf-8"), known) for name, path in modules.items() if name != "cmal"}


def imported(source: str, known: frozenset[str]) -> set[str]:
    """All modules that a source imports; `from cmal.data import batch` is cmal.data.batch."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} & known or {node.module}
    return found


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def floor_of(module: str) -> int:
    """The floor of a module's package, 0 for the ground floor."""
    return next(number for number, packages in enumerate(FLOORS) if package_of(module) in packages)


def package_of(module: str) -> str:
    """ "cmal.data" for "cmal.data.batch"; "cmal_cli" for everything in it."""
    return ".".join(module.split(".")[:2]) if module.startswith("cmal.") else module.split(".")[0]


def reaching_up(imports: dict[str, set[str]]) -> list[str]:
    """ "a -> b" for every import from a higher floor, or from another package of the same floor."""
    ours = [(a, b) for a, others in imports.items() for b in sorted(others) if b.split(".")[0] in ("cmal", "cmal_cli")]
    return [
        f"{a} -> {b}"
        for a, b in ours
        if floor_of(b) > floor_of(a) or (floor_of(b) == floor_of(a) and package_of(a) != package_of(b) != "cmal")
    ]


def test_nobody_imports_from_a_floor_above_or_from_a_neighbour():
    allowed = {"cmal.errors"}  # beside `cmal` itself on the ground floor
    assert [arrow for arrow in reaching_up(edges()) if arrow.split(" -> ")[1] not in allowed] == []


def test_the_check_sees_an_import_that_reaches_up():
    source = "def f():\n    from cmal.runs import pretrain\n    import cmal.errors\n"
    found = imported(source, frozenset(edges()))
    assert reaching_up({"cmal.model.transformer": found}) == ["cmal.model.transformer -> cmal.runs.pretrain"]


@pytest.mark.parametrize("package", ONLY)
def test_some_packages_know_little(package):
    unexpected = [
        f"{module} -> {other}"
        for module, others in edges().items()
        if is_in(module, package)
        for other in sorted(others)
        if is_in(other, "cmal") and not any(is_in(other, allowed) for allowed in ONLY[package])
    ]
    assert unexpected == []


def test_the_library_knows_nothing_of_the_terminal():
    terminal = ("click", "rich", "cmal_cli")
    found = [(m, o) for m, others in edges().items() if is_in(m, "cmal") for o in others if o.split(".")[0] in terminal]
    assert found == []


def test_tasks_meet_only_through_their_base():
    for task in TASKS:
        others = {f"cmal.tasks.{other}" for other in TASKS if other != task}
        assert not edges()[f"cmal.tasks.{task}"] & others
        assert "cmal.tasks.base" in edges()[f"cmal.tasks.{task}"]


def test_there_is_no_circle():
    names = set(edges())
    try:
        TopologicalSorter({m: {o for o in others if o in names - {m}} for m, others in edges().items()}).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_no_module_lies_loose_in_the_package():
    assert sorted(path.name for path in (ROOT / "cmal").glob("*.py")) == ["__init__.py", "errors.py"]
    assert len([path for path in (ROOT / "cmal").iterdir() if (path / "__init__.py").exists()]) <= 14


def test_yaml_recipes_are_read_in_one_place():
    """`runs.folder` also loads YAML: the resolved recipe that a run wrote itself."""
    readers = {module for module, others in edges().items() if "yaml" in others}
    assert readers <= {"cmal.runs.recipe.reader", "cmal.runs.folder"}


def test_starting_the_command_loads_none_of_the_heavy_libraries():
    code = "import sys, cmal_cli.app; print([m for m in ('torch', 'transformers', 'timm', 'h5py') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
