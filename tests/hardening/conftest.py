"""The stage and the inputs of the commands, made once; where cc is there, with the full disk that it can pretend."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hardening.jobs import build_inputs
from hardening.stage import Stage

SOURCE = Path(__file__).with_name("full_disk.c")


@pytest.fixture(scope="session")
def full_disk(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """The library that makes writes fail, or None where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    library = tmp_path_factory.mktemp("disk") / "full_disk.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
    return library if subprocess.run(command, capture_output=True).returncode == 0 else None


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory, full_disk: Path | None) -> Iterator[Stage]:
    with Stage(tmp_path_factory.mktemp("stage"), full_disk) as made:
        yield made


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory, stage: Stage) -> Path:
    return build_inputs(tmp_path_factory.mktemp("inputs"), stage)
