"""A disk that is full at any moment: three lines and status 1, and nothing half written under a name of ours.

The disk is a small file system in memory, which only an administrator may mount; elsewhere these tests skip.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from cmal.regions.store.store import RegionStore
from cmal.training.checkpoint import load_weights
from cmal.training.state import load_progress
from cmal_cli.app import main

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT_FILES = {"config.json", "model.safetensors", "optimizer.pt", "state.json", "vocab.txt"}


@pytest.fixture
def disk_of(tmp_path) -> Iterator[Callable[[int], Path]]:
    """disk_of(KILOBYTES) is an empty folder that holds no more; the one before it is gone."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o"]

    def free() -> None:
        with contextlib.suppress(OSError):
            subprocess.run(["umount", "-l", str(place)], capture_output=True)

    def make(kilobytes: int) -> Path:
        free()
        try:
            done = subprocess.run([*mount, f"size={kilobytes}k", "tmpfs", str(place)], capture_output=True, text=True)
        except OSError as error:
            pytest.skip(f"no small disk can be made here: {error}")
        if done.returncode:
            pytest.skip(f"no small disk can be made here: {done.stderr.strip()}")
        return place

    yield make
    free()


def reported(*arguments: object) -> str:
    """The message of a command that must fail as it should."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert isinstance(result.exception, SystemExit) and result.exit_code == 1, result.exception or result.output
    lines = result.output[result.output.index("Error: ") :].splitlines()
    assert len(lines) == 3 and lines[0].startswith("Error: cannot ") and "space" in lines[2], lines
    return "\n".join(lines)


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("kilobytes", [4, 16, 100])
def test_prepare_leaves_nothing(disk_of, tmp_path, tiny_world, kilobytes):
    (tmp_path / "photos").mkdir()
    shutil.copy(next((tiny_world / "data/scenes/images/test").glob("*.jpg")), tmp_path / "photos/a.jpg")
    rows = "".join(f"a.jpg,a dog that is the {number}th\n" for number in range(3000))
    (tmp_path / "c.csv").write_text("image,caption\n" + rows)
    disk = disk_of(kilobytes)
    own = ("--images", tmp_path / "photos", "--captions", tmp_path / "c.csv", "--out", disk)
    assert "No space left" in reported("prepare", "pairs", *own)
    assert files_in(disk) == []


@pytest.mark.parametrize("kilobytes", [4, 64, 200, 300])
def test_drawing_the_world_leaves_whole_pictures_at_most(disk_of, kilobytes):
    disk = disk_of(kilobytes)
    assert "No space left" in reported("prepare", "scenes", "--images", 12, "--workers", 1, "--out", disk)
    left = files_in(disk)
    assert all(name.startswith("scenes/images/") and name.endswith(".jpg") for name in left), left
    assert all((disk / name).read_bytes().endswith(b"\xff\xd9") for name in left), "whole to the end marker"


@pytest.mark.parametrize("kilobytes", [4, 8, 16, 290, 320, 340])
def test_extraction_stores_whole_shards_at_most(disk_of, tiny_world, monkeypatch, kilobytes):
    """HDF5 ends the process where a disk fills up under it; the room is taken before."""
    disk, images = disk_of(kilobytes), tiny_world / "data/scenes/images"
    monkeypatch.setattr("cmal.regions.extract.check_disk_space", lambda *facts: "somebody fills the disk after this")
    reported("extract-regions", images, "--out", disk / "s", "--shard-size", 4)
    assert {name.rpartition(".")[2] for name in files_in(disk)} <= {"json", "h5"}
    if not (disk / "s/index.json").exists():
        return
    index = json.loads((disk / "s/index.json").read_text())
    assert len(index["shards"]) == len(list((disk / "s").glob("*.h5"))), "no shard that the index does not know"
    whole = RegionStore.open(tiny_world / "data/scenes/regions")
    for image_id in (store := RegionStore.open(disk / "s")).image_ids:
        assert (store[image_id].object_ids == whole[image_id].object_ids).all()


def test_extraction_is_refused_where_the_disk_cannot_hold_it(disk_of, tiny_world):
    disk = disk_of(100)
    message = reported("extract-regions", tiny_world / "data/scenes/images", "--out", disk / "s")
    assert "the disk has 0.1 MB free" in message and list(disk.rglob("*.h5")) == []


@pytest.mark.parametrize("kilobytes", [4, 8, 12, 16, 100, 300, 500, 800, 1100])
def test_training_keeps_the_checkpoint_before(disk_of, tiny_world, kilobytes):
    """Steps 1, 2, 3 each write a checkpoint of about 350 kB; the disk is full before, in or between them."""
    disk, scenes = disk_of(kilobytes), tiny_world / "data/scenes"
    sets = (
        *(
            f"out={disk}/run",
            f"data.records=[{scenes}/val.jsonl]",
            f"data.regions={scenes}/regions",
            "data.validation=",
        ),
        *(
            "train.steps=9",
            "train.batch_size=8",
            "train.micro_batch_size=8",
            "train.save_every=1",
            "train.report_every=1",
        ),
        *("model.width=32", "model.heads=2", "model.inner=64", "model.text_layers=1", "model.unified_layers=1"),
        "train.keep_checkpoints=9",
    )
    reported(
        "pretrain", ROOT / "recipes/scenes.yaml", "--device", "cpu", *(word for s in sets for word in ("--set", s))
    )
    folders = sorted((disk / "run/checkpoints").glob("*"))
    for number, folder in enumerate(folders, start=1):
        assert {path.name for path in folder.iterdir()} == CHECKPOINT_FILES
        assert load_progress(folder).step == number and load_weights(folder)
    assert (disk / "run/last").exists() == bool(folders)
    if folders:
        assert (disk / "run/last").resolve() == folders[-1]


@pytest.mark.parametrize("option", ["--json", "--predictions", "--html"])
def test_evaluation_writes_all_or_nothing(disk_of, tiny_world, tiny_tasks, tmp_path, option):
    scenes, run = tiny_world / "data/scenes", shutil.copytree(tiny_tasks["ve"], tmp_path / "ve", symlinks=True)
    disk = disk_of(4)
    (disk / "rest").write_bytes(b"x" * 4096)
    out = (option, disk / "answers.json")
    reported(
        "eval", "scenes-ve", "--split", "test", "--checkpoint", run, "--regions", scenes / "regions", "--quiet", *out
    )
    assert files_in(disk) == ["rest"]


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_probing_writes_all_or_nothing(disk_of, tiny_world, option):
    scenes, disk = tiny_world / "data/scenes", disk_of(8)
    (disk / "rest").write_bytes(b"x" * 8192)
    reported(
        "probe-anchors", "--records", scenes / "test.jsonl", "--regions", scenes / "regions", option, disk / "a.html"
    )
    assert files_in(disk) == ["rest"]


def test_merging_leaves_no_half_store(disk_of, tiny_world):
    disk = disk_of(360)
    shutil.copytree(tiny_world / "data/scenes/regions", disk / "s")
    assert "No space left" in reported("extract-regions", "--out", disk / "s", "--merge")
    assert not (disk / "s.h5").exists() and not [name for name in files_in(disk) if name.endswith(".tmp")]


def test_output_that_cannot_be_written_is_told_too(tiny_world):
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no /dev/full here")
    with full.open("w") as out:
        command = ["-c", "from cmal_cli.app import main; main()", "extract-regions", "--inspect", "data/scenes/regions"]
        done = subprocess.run(
            ["python", *command], cwd=tiny_world, stdout=out, stderr=subprocess.PIPE, text=True, timeout=120
        )
    assert done.returncode == 1 and done.stderr.startswith("Error: cannot write"), done.stderr
    assert "Traceback" not in done.stderr
