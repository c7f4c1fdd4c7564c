"""Flickr30k's token file and split lists."""

from collections import Counter

import pytest

from cmal.data.records import ImageTextRecord
from cmal.datasets.flickr30k import read_split_list, read_tokens
from cmal.errors import DataError


def test_a_line_becomes_a_record(tmp_path):
    path, dropped = tmp_path / "results_20130124.token", Counter()
    path.write_text("36979.jpg#0\tA dog .\r\n36979.jpg#1\t\n\n", newline="")
    assert list(read_tokens(path, "flickr30k", dropped)) == [
        ImageTextRecord("flickr30k:36979#0", "flickr30k:36979", "A dog .")
    ]
    assert dropped == {"empty captions": 1, "blank lines": 1}


def test_faults_are_reported_together_with_their_lines(tmp_path):
    path = tmp_path / "results_20130124.token"
    path.write_bytes(b"36979.jpg A dog\n36979.jpg#0\ta\n36979.jpg#0\tb\nx.jpg#1\tc\n5.jpg#1\t\xff\n")
    with pytest.raises(DataError) as error:
        list(read_tokens(path, "flickr30k", Counter()))
    assert [line.split(":")[0] for line in str(error.value).splitlines()[1:-1]] == [
        "  line 1", "  line 3", "  line 4", "  line 5"
    ]  # fmt: skip


def test_split_lists_are_read_with_and_without_ending(tmp_path):
    path = tmp_path / "val.txt"
    path.write_text("36979\n5.jpg\n")
    assert list(read_split_list(path, Counter())) == ["flickr30k:36979", "flickr30k:5"]


def test_real_rows_are_all_read(real_data):
    folder, dropped = real_data / "flickr30k", Counter()
    records = list(read_tokens(folder / "derived" / "results_20130124.token", "flickr30k", dropped))
    assert (len(records), len({r.image_id for r in records})) == (1790, 358)
    counts = [
        len(set(read_split_list(folder / "entities_split" / f"{s}.txt", dropped))) for s in ("train", "val", "test")
    ]
    assert counts == [29783, 1000, 1000]
    assert not dropped
