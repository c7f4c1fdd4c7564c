"""A folder has one writer, and the second is told who it is."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cmal.errors import CmalError
from cmal.io.locks import HOLDER_NAME, hold_folder, lock_file

HOLD = """
import sys, pathlib
from cmal.io.locks import hold_folder
with hold_folder(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_second_is_told_who_holds_a_folder_and_a_dead_holder_holds_nothing(tmp_path):
    folder = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(CmalError, match=rf"process {other.pid} on .* has held it since") as error,
            hold_folder(folder),
        ):
            pass
        assert error.value.what == f"cannot write into {folder}"
        other.kill()
    with hold_folder(folder):  # the system freed it
        assert str(os.getpid()) in (folder / HOLDER_NAME).read_text()
    assert list(folder.iterdir()) == []


def test_who_holds_a_folder_alone_finds_it_without_what_killed_writers_left(tmp_path):
    for name in (".index.json.0a1b2c3d.tmp", "index.json", "mine.tmp"):
        (tmp_path / name).touch()
    with hold_folder(tmp_path, (0, 2)):
        assert (tmp_path / ".index.json.0a1b2c3d.tmp").exists(), "another slice may be writing it"
    with hold_folder(tmp_path):
        assert not (tmp_path / ".index.json.0a1b2c3d.tmp").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"index.json", "mine.tmp"}


def test_slices_share_a_folder_and_each_has_one_writer(tmp_path):
    with hold_folder(tmp_path, (0, 2)), hold_folder(tmp_path, (1, 2)):
        with pytest.raises(CmalError, match="has held it since"), hold_folder(tmp_path, (1, 2)):
            pass
        with pytest.raises(CmalError, match="cannot write into"), hold_folder(tmp_path):
            pass


def test_a_folder_that_cannot_be_made_is_a_message(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CmalError, match=r"cannot write .*file/folder"), hold_folder(tmp_path / "file" / "folder"):
        pass
    with pytest.raises(CmalError, match="cannot write"), lock_file(tmp_path / "nowhere" / "x.lock"):
        pass
