"""SNLI-VE lines of both releases -> records."""

import json
from collections import Counter

import pytest

from cmal.data.records import EntailmentRecord
from cmal.datasets.snli_ve import read_snli_ve
from cmal.errors import DataError

ROW = {"Flickr30K_ID": "36979", "pairID": "36979.jpg#0r1c", "sentence2": "A cat.", "gold_label": "contradiction"}


def read(tmp_path, *rows, image_ids="flickr30k"):
    path, dropped = tmp_path / "snli_ve_dev.jsonl", Counter()
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return list(read_snli_ve(path, "snli-ve", image_ids, dropped)), dict(dropped)


def test_both_spellings_of_the_image_key_give_the_same_image(tmp_path):
    old = {key: value for key, value in ROW.items() if key != "Flickr30K_ID"} | {
        "Flikr30kID": "36979.jpg",
        "pairID": "x",
    }
    (new_record, old_record), _ = read(tmp_path, ROW, old)
    assert new_record == EntailmentRecord("snli-ve:36979.jpg#0r1c", "flickr30k:36979", "A cat.", "contradiction")
    assert old_record.image_id == new_record.image_id


def test_rows_without_an_agreed_label_are_counted_and_left_out(tmp_path):
    found, dropped = read(tmp_path, ROW | {"gold_label": "-"}, "", ROW)
    assert len(found) == 1
    assert dropped == {'rows without an agreed label ("-")': 1, "blank lines": 1}


def test_faults_are_reported_together_with_their_lines(tmp_path):
    with pytest.raises(DataError) as error:
        read(tmp_path, ROW, "{broken", "[]", ROW | {"gold_label": "maybe"}, ROW | {"Flickr30K_ID": "../x"})
    message = str(error.value)
    assert "line 2: Expecting property name" in message
    assert "line 3: should be an object" in message
    assert 'line 4: "gold_label" should be one of contradiction, entailment, neutral, found "maybe"' in message
    assert "line 5: found '../x'" in message


def test_scenes_rows_name_their_picture_by_path(tmp_path):
    found, _ = read(tmp_path, ROW | {"Flickr30K_ID": "train/000012"}, image_ids="scenes")
    assert found[0].image_id == "scenes:train/000012"


def test_real_rows_are_all_read(real_data):
    folder, dropped = real_data / "snli_ve", Counter()
    counts = {}
    for name in (
        "snli_ve_sample",
        "snli_ve_sample_old_key",
        *(f"derived/snli_ve_{s}" for s in ("train", "dev", "test")),
    ):
        records = list(read_snli_ve(folder / f"{name}.jsonl", "snli-ve", "flickr30k", dropped))
        counts[name] = (len(records), len({r.image_id for r in records}))
    assert counts == {
        "snli_ve_sample": (15, 1),
        "snli_ve_sample_old_key": (3, 3),
        "derived/snli_ve_train": (275, 89),
        "derived/snli_ve_dev": (6, 2),
        "derived/snli_ve_test": (3, 1),
    }
    assert not dropped
