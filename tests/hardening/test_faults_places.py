"""Places that cannot be used: folders of other people, inputs one may not read or that are not there; clocks that jump."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hardening.jobs import JOBS, differences, put_inputs, result_of
from hardening.messages import message_of

pytestmark = pytest.mark.slow

NOBODY = 65534
DAY_S = 86_400


@pytest.fixture(scope="module")
def open_inputs(inputs) -> Iterator[Path]:
    """The inputs where every user can come."""
    if os.getuid() != 0:
        pytest.skip("only an administrator can become somebody else")
    folder = Path(tempfile.mkdtemp())
    shutil.copytree(inputs, folder / "in", symlinks=True)
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o644))
    yield folder / "in"
    shutil.rmtree(folder)


@pytest.fixture
def open_place(open_inputs, request) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir=open_inputs.parent))
    folder.chmod(0o755)
    yield folder / "place"


@pytest.mark.parametrize("name", JOBS)
def test_a_folder_of_somebody_else_is_told(stage, open_inputs, open_place, name):
    job = JOBS[name]
    put_inputs(job, job.fresh(open_place, open_inputs))
    status, said = job.run(stage, open_place, user=NOBODY)
    assert status == 1, f"{status}: {said}"
    assert "Permission denied" in message_of(said)


def inputs_of(job, place: Path) -> list[Path]:
    """The files and folders that a job's arguments name."""
    return [(place / word).resolve() for word in job.arguments if word.startswith("in/")] or [place / "out/store"]


@pytest.mark.parametrize("name", [n for n in JOBS if not n.startswith("prepare scenes")])
def test_an_input_that_may_not_be_read_is_told(stage, open_inputs, open_place, name):
    job = JOBS[name]
    put_inputs(job, job.fresh(open_place, open_inputs))
    open_place.chmod(0o777)
    locked = inputs_of(job, open_place)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in locked}
    try:
        for path in locked:
            path.chmod(0)
        status, said = job.run(stage, open_place, user=NOBODY)
    finally:
        for path, mode in modes.items():
            path.chmod(mode)
    assert status in (1, 2), f"{status}: {said}"  # 2: click looks whether a recipe can be read
    assert status == 2 or "ermission denied" in message_of(said), said


@pytest.mark.parametrize("name", [n for n in JOBS if not n.startswith("prepare scenes")])
def test_an_input_that_is_not_there_is_told(stage, inputs, tmp_path, name):
    job = JOBS[name]
    place = job.fresh(tmp_path / "place", inputs)
    (place / "in").unlink()
    status, said = job.run(stage, place)
    assert status in (1, 2), f"{status}: {said}"
    assert status == 2 or message_of(said)
    assert not list(place.rglob("*.h5")) and not list(place.rglob("*.jsonl")) and not list(place.rglob("*.tmp"))


@pytest.mark.parametrize("name", JOBS)
def test_a_clock_that_jumps_changes_nothing(stage, inputs, tmp_path, name):
    """Every look at the clock on the wall finds it a day further or a day back."""
    if stage.preload is None:
        pytest.skip("there is no C compiler for the library that moves the clock")
    job, results = JOBS[name], []
    for jump in (0, DAY_S):
        place = job.fresh(tmp_path / f"jump-{jump}", inputs)
        put_inputs(job, place)
        status, said = job.run(stage, place, clock=jump)
        assert status == 0, said
        results.append(result_of(job, place))
    assert differences(*results) == []
