"""Imports point one way: the house has floors, and nobody reaches up.

Read out of the sources, without running them; imports within functions count too.
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

# ground floor first; a module lives where its longest prefix here says
FLOORS = (
    ("cmal", "cmal.errors"),
    (
        *("cmal.io.files", "cmal.io.locks", "cmal.io.signals", "cmal.io.safe_pickle", "cmal.runs.recipe.reader"),
        *("cmal.anchors.thesaurus", "cmal.anchors.mentions", "cmal.tasks.metrics", "cmal.io.characters"),
    ),
    ("cmal.regions.image_ids", "cmal.io.json_stream", "cmal.data.records", "cmal.datasets", "cmal.scenes"),
    ("cmal.regions", "cmal.anchors.finder"),
    ("cmal.model", "cmal.model.losses", "cmal.data"),
    ("cmal.model.pretraining", "cmal.tasks.anchor_probe", "cmal.tasks.association_probe", "cmal.tasks"),
    ("cmal.tasks", "cmal.training", "cmal.runs.results"),
    ("cmal.runs",),
    ("cmal.reports", "cmal.hub.model", "cmal.hub.model_card"),
    ("cmal_cli",),
)
# who may be asked for what, beside the floors
ONLY = {
    "cmal.model": ("cmal.model", "cmal.errors"),  # tensors alone
    "cmal.model.losses": ("cmal.model", "cmal.errors"),
    "cmal.tasks.metrics": ("cmal.tasks.metrics", "cmal.errors"),
    "cmal.training": (
        "cmal.training",
        "cmal.data.micro_batches",
        "cmal.io.files",
        "cmal.io.locks",
        "cmal.io.signals",
        "cmal.errors",
        "cmal.model.transformer",
        "cmal.model.cpu.kernels",
    ),  # something with a loss
    "cmal.runs.recipe.reader": ("cmal.errors",),
}
TASKS = ("vqa", "snli_ve", "rec", "retrieval", "nlvr2")
TERMINAL = ("click", "rich", "cmal_cli")


def modules() -> dict[str, Path]:
    """Dotted name -> file, of the library and the terminal."""
    files = sorted(path for package in ("cmal", "cmal_cli") for path in (ROOT / package).rglob("*.py"))
    return {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


def imported(source: str, known: frozenset[str]) -> set[str]:
    """All modules a source imports; `from cmal.data import batch` is cmal.data.batch."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            within = {f"{node.module}.{alias.name}" for alias in node.names} & known
            found |= within or {node.module}
    return found


@lru_cache
def edges() -> dict[str, set[str]]:
    """Module -> what it imports."""
    files = modules()
    return {name: imported(path.read_text(encoding="utf-8"), frozenset(files)) for name, path in files.items()}


def is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def floor_of(module: str) -> int:
    """The floor a module lives on, 0 the ground floor."""
    homes = [(len(p), n) for n, packages in enumerate(FLOORS) for p in packages if is_in(module, p) and p != "cmal"]
    assert homes or module == "cmal", f"{module} has no floor: give it one in FLOORS"
    return max(homes)[1] if homes else 0


def reaching_up(imports: dict[str, set[str]]) -> list[str]:
    """ "a -> b" for every import of something on a higher floor."""
    return [
        f"{module} -> {other}"
        for module, others in imports.items()
        for other in sorted(others)
        if other.partition(".")[0] in ("cmal", "cmal_cli") and floor_of(other) > floor_of(module)
    ]


def test_nobody_imports_from_a_floor_above():
    assert reaching_up(edges()) == []


def test_the_check_sees_an_import_that_reaches_up():
    source = "def f():\n    from cmal.runs import pretrain\n    import cmal.errors\n"
    found = imported(source, frozenset(modules()))
    assert reaching_up({"cmal.model.transformer": found}) == ["cmal.model.transformer -> cmal.runs.pretrain"]


@pytest.mark.parametrize("package", ONLY)
def test_some_know_few(package):
    strangers = [
        f"{module} -> {other}"
        for module, others in edges().items()
        if is_in(module, package)
        for other in sorted(others)
        if is_in(other, "cmal") and not any(is_in(other, allowed) for allowed in ONLY[package])
    ]
    assert strangers == []


def test_the_library_knows_nothing_of_the_terminal():
    strangers = [
        f"{module} -> {other}"
        for module, others in edges().items()
        if is_in(module, "cmal")
        for other in others
        if any(is_in(other, name) for name in TERMINAL)
    ]
    assert strangers == []


def test_tasks_meet_only_through_their_base():
    imports = edges()
    for task in TASKS:
        others = {f"cmal.tasks.{other}" for other in TASKS if other != task}
        assert not imports[f"cmal.tasks.{task}"] & others
        assert "cmal.tasks.base" in imports[f"cmal.tasks.{task}"]


def test_no_module_imports_itself_by_way_of_others():
    imports = edges()
    names = set(imports)
    try:
        TopologicalSorter({m: {o for o in others if o in names and o != m} for m, others in imports.items()}).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_yaml_recipes_are_read_in_one_place():
    """Others may load YAML that they wrote themselves (a run's saved recipe)."""
    readers = {module for module, others in edges().items() if "yaml" in others}
    assert readers <= {"cmal.runs.recipe.reader", "cmal.runs.folder"}


def test_starting_the_command_loads_none_of_the_heavy_libraries():
    code = "import sys, cmal_cli.app; print([m for m in ('torch', 'transformers', 'timm', 'h5py') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
