"""The inspector counts right, and draws boxes where they are."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cmal.errors import StoreError
from cmal.regions.inspect import _free_place, draw_regions, preview_regions, summarise_store
from cmal.regions.store.layout import StoreHeader
from cmal.regions.store.shards import write_index, write_shard
from cmal.regions.store.store import RegionStore
from cmal.regions.types import Regions

HEADER = StoreHeader("toy", "abc", 2, ("dog", "tree", "cup"), ("red", "blue"))


def regions(kinds: list[int], colours: list[int], confidences: list[float]) -> Regions:
    """Regions of a 40 x 30 picture, all at the box 10, 10, 30, 20."""
    count = len(kinds)
    return Regions(
        np.zeros((count, 2), np.float32),
        np.tile(np.array([10, 10, 30, 20], np.float32), (count, 1)),
        np.array(kinds, int),
        np.array(confidences),
        np.array(colours, int),
        np.zeros(count),
        np.zeros((count, 10), int),
        np.zeros((count, 10)),
        (40, 30),
    )


@pytest.fixture
def store(tmp_path):
    """Three images: dog+tree, dog, none; in two shards."""
    folder = tmp_path / "s"
    infos = [
        write_shard(
            folder / "part-00000.h5",
            [("toy:a", regions([0, 1], [0, -1], [0.2, 0.4])), ("toy:b", regions([0], [0], [0.8]))],
            HEADER,
        ),
        write_shard(folder / "part-00001.h5", [("toy:c", regions([], [], []))], HEADER),
    ]
    write_index(folder, HEADER, infos)
    (folder / "failed.jsonl").write_text('{"image_id": "toy:d", "path": "d.png", "reason": "empty"}\n')
    return folder


def test_the_summary_counts_what_is_there(store):
    summary = summarise_store(store)
    assert (summary.images, summary.regions, summary.shards, summary.failed) == (3, 3, 2, 1)
    assert summary.regions_an_image == (0, 1.0, 2)
    assert summary.classes == (("dog", 2), ("tree", 1)) and summary.attributes == (("red", 2),)
    assert dict(summary.confidence)[0.5] == pytest.approx(0.4, abs=1e-3)
    assert summary.bytes == sum(path.stat().st_size for path in store.glob("*.h5"))


def test_a_class_id_without_a_name_is_told(store):
    write_shard(store / "part-00001.h5", [("toy:c", regions([7], [0], [1.0]))], HEADER)
    with pytest.raises(StoreError, match="ids from 7 to 7, where 3 names are known"):
        summarise_store(store)


def test_boxes_are_drawn_where_they_are(store):
    picture = np.asarray(
        draw_regions(np.full((30, 40, 3), 255, np.uint8), regions([0], [0], [1.0]), ("dog",), ("red",))
    )
    scale = picture.shape[1] // 40
    assert scale == 16 and picture.shape == (480, 640, 3)
    edge = picture[19 * scale + scale - 1, 20 * scale]  # lower edge of the box
    assert edge.tolist() == [0xE6, 0x19, 0x4B]
    assert picture[25 * scale, 5 * scale].tolist() == [255, 255, 255], "outside the box nothing is drawn"


def test_tags_move_out_of_each_others_way_while_there_is_room():
    taken = [(0.0, 0.0, 50.0, 10.0), (0.0, 11.0, 50.0, 21.0)]
    assert _free_place((0, 2, 36, 10), (5, 5), taken, (100, 100)) == (5, 22, 45, 32)
    assert _free_place((0, 2, 36, 10), (60, 5), taken, (100, 100)) == (60, 5, 100, 15)
    assert _free_place((0, 2, 36, 10), (95, 98), [], (100, 100)) == (60, 90, 100, 100), "inside the picture"
    assert _free_place((0, 2, 36, 10), (5, 5), taken, (100, 25)) == (5, 5, 45, 15), "no room below: it stays"


def test_the_preview_writes_the_asked_number_of_pictures(store, tmp_path):
    for name in "abc":
        Image.new("RGB", (40, 30)).save(tmp_path / f"{name}.png")
    files = [(f"toy:{name}", tmp_path / f"{name}.png") for name in "abcx"]
    written = preview_regions(RegionStore.open(store), files, tmp_path / "out", 2)
    assert [path.name for path in written] == ["toy_a.png", "toy_b.png"]
    with pytest.raises(StoreError, match="none of the images given is in the store"):
        preview_regions(RegionStore.open(store), [("other:1", tmp_path / "a.png")], tmp_path / "out", 2)
