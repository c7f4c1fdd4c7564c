"""NLVR2 lines -> records about two photos."""

import json
from collections import Counter

import pytest

from cmal.data.records import PairRecord
from cmal.datasets.nlvr2 import read_nlvr2
from cmal.errors import DataError

ROW = {"identifier": "dev-850-0-1", "sentence": "Both show dogs.", "label": "False"}


def read(tmp_path, *rows):
    path = tmp_path / "dev.json"
    path.write_text("\n".join(map(json.dumps, rows)))
    return list(read_nlvr2(path, "nlvr2", Counter()))


def test_the_photos_are_told_by_the_identifier(tmp_path):
    left, right = "nlvr2:dev-850-0-img0", "nlvr2:dev-850-0-img1"
    assert read(tmp_path, ROW) == [
        PairRecord("nlvr2:dev-850-0-1", left, right, "Both show dogs.", "dev-850-0-1", "False")
    ]


def test_faults_are_reported_together(tmp_path):
    with pytest.raises(DataError) as error:
        read(tmp_path, ROW | {"label": "maybe"}, ROW | {"identifier": "850"}, ROW | {"sentence": " "}, ROW)
    assert "3 rows" in str(error.value)
    assert 'line 2: "identifier" should be like dev-850-0-1' in str(error.value)


def test_real_rows_are_all_read(real_data):
    dropped = Counter()
    records = list(read_nlvr2(real_data / "nlvr2" / "dev.json", "nlvr2", dropped))
    assert (len(records), len(dropped)) == (108, 0)
    images = {f"nlvr2:{path.stem}" for path in (real_data / "nlvr2" / "images").glob("*.png")}
    assert images and images <= {name for r in records for name in (r.left_image_id, r.right_image_id)}
