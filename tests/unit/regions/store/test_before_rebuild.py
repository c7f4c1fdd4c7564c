"""A region store that an earlier version wrote opens and gives its values; see `tests/assets/README.md`."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from cmal.regions.store.layout import read_index
from cmal.regions.store.plan import load_plan
from cmal.regions.store.store import RegionStore
from cmal.regions.store.verify import verify_store

STORE = Path(__file__).resolve().parents[3] / "assets" / "before_rebuild" / "regions"


def test_a_store_of_an_earlier_version_gives_its_values():
    store = RegionStore.open(STORE)
    assert (list(store), store.detector, store.weights_sha256) == (["coco:1", "coco:2", "coco:3"], "toy", "abc")
    assert (store.class_names, store.attribute_names) == (("dog", "tree", "cat"), ("red",))
    assert len(store["coco:2"]) == 0
    regions = store["coco:3"]
    assert np.array_equal(regions.features, (np.arange(12).reshape(3, 4) + 10) / 8)
    assert regions.features.dtype == np.float16
    assert regions.boxes_xyxy_px.tolist() == [[x, x + 1, x + 20, x + 30.5] for x in range(3)]
    assert (regions.object_ids.tolist(), regions.object_conf.tolist()) == ([0, 1, 2], [0.25, 0.5, 0.75])
    assert (regions.attribute_ids.tolist(), regions.attribute_conf.tolist()) == ([0, -1, -1], [0.5, 0, 0])
    assert regions.class_top_ids[:, 0].tolist() == [0, 1, 2] and regions.class_top_probs[:, 0].tolist() == [
        0.25,
        0.5,
        0.75,
    ]
    assert regions.image_wh_px == (64, 48)


def test_its_hashes_and_its_plan_are_still_right(tmp_path):
    header, _ = read_index(STORE)
    assert verify_store(Path(shutil.copytree(STORE, tmp_path / "copy"))) == []  # it locks the folder
    plan = load_plan(STORE, header, {"regions": "36"})
    assert plan is not None and list(plan.shards()) == [("coco:1", "coco:2"), ("coco:3",)]
