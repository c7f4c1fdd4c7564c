"""Anybody's own pairs, from .jsonl, .csv and .tsv."""

import json
from collections import Counter

import pytest

from cmal.data.records import ImageTextRecord
from cmal.datasets.pairs import read_pairs
from cmal.errors import DataError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    for name in ("a.jpg", "sub/b.png"):
        (tmp_path / "photos" / name).write_bytes(b"picture")
    (tmp_path / "secret.jpg").write_bytes(b"picture")
    return tmp_path / "photos"


def read(folder, name, text, dropped=None):
    path = folder.parent / name
    path.write_text(text, encoding="utf-8")
    return list(read_pairs(path, folder, "mine", "photos", Counter() if dropped is None else dropped))


EXPECTED = [
    ("train", ImageTextRecord("mine:1", "photos:a", 'A dog, "Rex"')),
    ("val", ImageTextRecord("mine:x", "photos:sub/b", "a cat")),
]


def test_the_three_forms_give_the_same_records(folder):
    rows = [
        {"image": "a.jpg", "caption": 'A dog, "Rex"'},
        {"image": "sub/b.png", "caption": "a cat", "id": "x", "split": "val"},
    ]
    assert read(folder, "c.jsonl", "\n".join(map(json.dumps, rows))) == EXPECTED
    assert (
        read(folder, "c.csv", 'image,caption,id,split\na.jpg,"A dog, ""Rex""",,\nsub/b.png,a cat,x,val\n') == EXPECTED
    )
    assert (
        read(folder, "c.tsv", 'caption\timage\tid\tsplit\nA dog, "Rex"\ta.jpg\na cat\tsub/b.png\tx\tval\n') == EXPECTED
    )


def test_faults_are_reported_together(folder):
    rows = "image,caption,id,split\na.jpg,x,1,\ngone.jpg,x,2,\na.jpg,y,1,\n../secret.jpg,x,4,\na.jpg,x,5,dev\n"
    with pytest.raises(DataError) as error:
        read(folder, "c.csv", rows)
    assert str(error.value).splitlines()[1:-1] == [
        f'  row 2: there is no picture "gone.jpg" in {folder}',
        "  row 3: id 1 appears twice, with different content",
        "  row 4: found '../secret.jpg'; it should be a plain path below the image folder",
        '  row 5: "split" should be one of train, val, test, found "dev"',
    ]


def test_a_link_out_of_the_folder_is_not_followed(folder):
    (folder / "link.jpg").symlink_to(folder.parent / "secret.jpg")
    with pytest.raises(DataError, match="is outside"):
        read(folder, "c.csv", "image,caption\nlink.jpg,x\n")


def test_a_wrong_column_is_named_with_the_columns_there_are(folder):
    with pytest.raises(DataError, match=r"no column 'caption'; its columns are image, text"):
        read(folder, "c.csv", "image,text\na.jpg,x\n")


def test_an_unknown_ending_is_a_message(folder):
    with pytest.raises(DataError, match=r"give one of .jsonl, .csv, .tsv"):
        read(folder, "c.xlsx", "")


def test_a_broken_table_is_a_message(folder):
    with pytest.raises(DataError, match="it is no table"):
        read(folder, "c.csv", 'image,caption\na.jpg,"never closed\n')


def test_empty_captions_are_counted(folder):
    dropped = Counter()
    assert read(folder, "c.csv", "image,caption\na.jpg, \n", dropped) == []
    assert dropped == {"empty captions": 1}
