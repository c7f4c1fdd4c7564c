"""`cmal extract-regions` from the terminal: stores, goes on, verifies, merges, inspects, and says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cmal.regions.store.store import RegionStore
from cmal.scenes.drawing import encode_jpeg, make_scene
from cmal_cli.app import main


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["extract-regions", *(str(argument) for argument in arguments)])


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Five pictures of the folder scenes/images and a file that is none."""
    folder = tmp_path_factory.mktemp("data") / "scenes" / "images"
    (folder / "train").mkdir(parents=True)
    for number in range(5):
        picture, _ = make_scene(11, "train", number)
        (folder / "train" / f"{number:06d}.jpg").write_bytes(encode_jpeg(picture))
    (folder / "train" / "000009.jpg").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def store(images) -> Path:
    out = images.parent / "regions"
    result = run(images, "--out", out, "--dataset", "scenes", "--shard-size", 2)
    assert result.exit_code == 0, result.output
    assert "5 images stored in" in result.output and "1 failed, 0 were there before" in result.output
    return out


def test_images_are_stored_under_their_ids_and_the_size_was_foretold(images, store):
    assert RegionStore.open(store).image_ids == [f"scenes:train/{number:06d}" for number in range(5)]
    line = json.loads((store / "failed.jsonl").read_text())
    assert line == {
        "image_id": "scenes:train/000009",
        "path": "train/000009.jpg",
        "reason": "the file is empty (zero bytes)",
    }


def test_again_there_is_nothing_to_do(images, store):
    result = run(images, "--out", store, "--dataset", "scenes")
    assert result.exit_code == 0 and "0 images stored" in result.output and "6 were there before" in result.output


def test_other_options_than_the_store_was_begun_with_are_refused(images, store):
    result = run(images, "--out", store, "--dataset", "scenes", "--min-confidence", 0.9)
    assert result.exit_code == 1
    assert "Error: cannot continue the region store" in result.output
    assert "settings.min_confidence: 0.25 in the store, 0.9 now" in result.output


def test_a_damaged_shard_is_found_and_only_it_is_redone(images, store):
    path = store / "part-00001.h5"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    result = run("--out", store, "--verify")
    assert (
        result.exit_code == 1 and "part-00001.h5 has" in result.output and "2 of 3 shards are intact" in result.output
    )
    result = run(images, "--out", store, "--dataset", "scenes", "--verify")
    assert result.exit_code == 0 and "2 images stored" in result.output
    assert path.read_bytes() == whole
    assert run("--out", store, "--verify").exit_code == 0


def test_the_records_of_a_set_choose_their_images(images, tmp_path):
    records = tmp_path / "train.jsonl"
    records.write_text("".join(json.dumps({"image_id": f"scenes:train/{n:06d}"}) + "\n" for n in (3, 1, 3)))
    result = run(records, "--images", images, "--out", tmp_path / "s")
    assert result.exit_code == 0, result.output
    assert RegionStore.open(tmp_path / "s").image_ids == ["scenes:train/000001", "scenes:train/000003"]
    assert run(records, "--out", tmp_path / "s").exit_code == 2


def test_records_of_other_images_are_told_apart(images, tmp_path):
    (tmp_path / "r.jsonl").write_text('{"image_id": "coco:1"}\n')
    result = run(tmp_path / "r.jsonl", "--images", images, "--out", tmp_path / "s", "--dataset", "scenes")
    assert result.exit_code == 1 and "the records want e.g. 'coco:1'" in result.output
    (tmp_path / "r.jsonl").write_text('{"image_id": "coco:1"}\nnot json\n')
    result = run(tmp_path / "r.jsonl", "--images", images, "--out", tmp_path / "s")
    assert result.exit_code == 1 and "r.jsonl (line 2)" in result.output


def test_parts_and_merge_make_one_file(images, store, tmp_path):
    for part in ("1/2", "0/2"):
        options = ("--dataset", "scenes", "--shard-size", 2, "--shard", part)
        assert run(images, "--out", tmp_path / "s", *options).exit_code == 0
    result = run("--out", tmp_path / "s", "--merge")
    assert result.exit_code == 0 and "one file:" in result.output
    assert RegionStore.open(tmp_path / "s.h5").image_ids == RegionStore.open(store).image_ids
    result = run("--out", tmp_path / "s.h5", "--verify")
    assert result.exit_code == 1 and "it is one file" in result.output


def test_inspect_prints_a_table_and_preview_draws(images, store):
    result = run(images, "--inspect", store, "--preview", 2, "--dataset", "scenes")
    assert result.exit_code == 0, result.output
    for text in ("scenes", "5 in 3 shards", "classes seen", "confidence", "failed images", "2 pictures in"):
        assert text in result.output
    assert len(list(store.with_name("regions-preview").glob("*.png"))) == 2


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        ((), 2, "--out is missing"),
        (("--out", "s"), 2, "IMAGES is missing"),
        (("nowhere", "--out", "s"), 1, "there is no such file or folder"),
        (("IMAGES", "--out", "s", "--detector", "yolo"), 1, "known: nanodet, scenes, boxes:FILE, frcnn-vg"),
        (("IMAGES", "--out", "s", "--shard", "4/4"), 2, "is not I/N"),
        (("IMAGES", "--out", "s", "--gpus", "64"), 1, "cannot use 64 GPUs"),
        (("--inspect", "nowhere"), 1, "there is no such file or folder"),
        (("--out", "nowhere", "--verify"), 1, "cannot open the region store nowhere"),
    ],
)
def test_mistakes_get_a_message_and_no_traceback(images, tmp_path, monkeypatch, arguments, status, says):
    monkeypatch.chdir(tmp_path)
    result = run(*(images if argument == "IMAGES" else argument for argument in arguments))
    assert result.exit_code == status and says in result.output and "Traceback" not in result.output


def test_the_help_ends_with_examples():
    assert "cmal extract-regions data/scenes/images --out data/scenes/regions" in run("--help").output
