"""Does each promise have a test that can fail? Breaks one central line after another and runs the tests that guard it.

    python tests/mutations.py            # a table; status 1 if a broken line passed, or a line is no longer there
    python tests/mutations.py swap       # only those whose name or file holds the word

The lines are in assets/mutations.yaml. Works on a copy of the checkout in a temporary folder; the checkout itself is never
touched. A test run is a forked child of a process that has loaded the heavy libraries, so that it takes a second or two.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("cmal", "cmal_cli", "tests", "recipes", "pyproject.toml", "README.md")
LISTED = ROOT / "tests" / "assets" / "mutations.yaml"
HEAVY = (
    "torch",
    "torchvision",
    "transformers",
    "timm",
    "h5py",
    "hypothesis",
    "rich.progress",
    "click.testing",
    "pytest",
)
GREEN, RED = 0, 1  # pytest's exit status: all passed, some failed


@dataclass(frozen=True)
class Mutation:
    """One broken line.

    Attributes:
        promise: what it breaks.
        file: below the checkout; `old` stands in it exactly once and becomes `new`.
        guards: test files that should see it.
    """

    promise: str
    file: str
    old: str
    new: str
    guards: tuple[str, ...]


def read_mutations() -> list[Mutation]:
    """All of assets/mutations.yaml."""
    rows = yaml.safe_load(LISTED.read_text(encoding="utf-8"))
    return [Mutation(**row | {"guards": tuple(row["guards"])}) for row in rows]


def copy_checkout(folder: Path) -> None:
    """What the tests need of the checkout, into a folder."""
    for name in COPIED:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".pytest_cache"))
        else:
            shutil.copy(source, target)


def run_tests(folder: Path, files: Iterable[str]) -> int:
    """Exit status of pytest over test files of the copy, in a forked child that imports `cmal` from there."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    log = os.open(folder / "pytest.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(folder)
    os.environ["PYTHONPATH"] = str(folder)
    sys.path[:] = [str(folder), *(p for p in sys.path if Path(p).resolve() not in (ROOT, ROOT / "tests"))]
    status = 3
    with contextlib.suppress(BaseException):
        import pytest

        import cmal

        assert Path(cmal.__file__).is_relative_to(folder), "the copy's own code is tested"
        status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *files])
    os._exit(int(status))


def write_source(path: Path, text: str) -> None:
    """A module's source; what was compiled of it before goes, since Python tells old from new by whole seconds only."""
    path.write_text(text, encoding="utf-8")
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        compiled.unlink()


def try_mutation(mutation: Mutation, folder: Path) -> str:
    """ "caught", or what is wrong: "SURVIVED", "no such line", "tests do not run"."""
    path = folder / mutation.file
    before = path.read_text(encoding="utf-8")
    if before.count(mutation.old) != 1:
        return "no such line" if mutation.old not in before else "the line is there several times"
    write_source(path, before.replace(mutation.old, mutation.new))
    try:
        status = run_tests(folder, mutation.guards)
    finally:
        write_source(path, before)
    return {GREEN: "SURVIVED", RED: "caught"}.get(status, f"the tests do not run (status {status})")


def main(words: list[str]) -> int:
    """Runs those whose promise or file holds one of the words; 1 when one was not caught."""
    for library in HEAVY:  # loaded once, before the children are forked
        importlib.import_module(library)
    wanted = [m for m in read_mutations() if not words or any(w in m.promise or w in m.file for w in words)]
    bad = []
    with tempfile.TemporaryDirectory(prefix="cmal-mutations-") as name:
        folder = Path(name).resolve()
        copy_checkout(folder)
        guards = dict.fromkeys(guard for m in wanted for guard in m.guards)
        if run_tests(folder, guards) != GREEN:
            print((folder / "pytest.log").read_text()[-3000:])
            print("the tests are not green before anything is broken")
            return 1
        for mutation in wanted:
            started = time.perf_counter()
            outcome = try_mutation(mutation, folder)
            if outcome != "caught":
                bad.append(mutation)
            took_s = time.perf_counter() - started
            print(f"{outcome:10} {mutation.promise:55} {mutation.file:30} {took_s:5.1f} s", flush=True)
    print(f"{len(wanted) - len(bad)} of {len(wanted)} caught")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
