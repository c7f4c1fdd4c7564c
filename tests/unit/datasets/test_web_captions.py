"""Lists of web pictures beside a folder of those that were fetched."""

import json
import zlib
from collections import Counter

import pytest

from cmal.datasets.web_captions import (
    DEAD_LINKS,
    ImageFolder,
    fetched_records,
    read_caption_lists,
    read_caption_texts,
    read_caption_tsv,
)
from cmal.errors import DataError

URLS = ["http://a.com/dog.jpg", "http://b.com/dead.jpg", "http://c.com/cat.jpg"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


def picture(folder, name):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"jpeg")


def fetched(rows, folder, dataset, dropped):
    return [
        (r.id, r.image_id, r.caption) for r in fetched_records(rows, ImageFolder(folder), dataset, dataset, dropped)
    ]


def write_tsv(tmp_path, extra=("", "", "")):
    path = tmp_path / "Train_GCC-training.tsv"
    path.write_text("".join(f"caption {n}\t{url}{more}\n" for n, (url, more) in enumerate(zip(URLS, extra))))
    return path


def test_row_and_checksum_names_are_found_and_dead_links_counted(tmp_path, folder):
    for n in (0, 2):
        picture(folder, f"{n}_{zlib.crc32(URLS[n].encode())}.jpg")
    dropped = Counter()
    found = fetched(read_caption_tsv(write_tsv(tmp_path), dropped), folder, "cc3m", dropped)
    assert [(id, caption) for id, _, caption in found] == [("cc3m:0", "caption 0"), ("cc3m:2", "caption 2")]
    assert found[0][1] == f"cc3m:0_{zlib.crc32(URLS[0].encode())}"
    assert dropped == {DEAD_LINKS: 1}


def test_img2dataset_names_are_found_by_the_address_beside_them(tmp_path, folder):
    picture(folder, "00000/000000007.jpg")
    (folder / "00000" / "000000007.json").write_text(json.dumps({"url": URLS[2], "key": "000000007"}))
    dropped = Counter()
    found = fetched(read_caption_tsv(write_tsv(tmp_path), dropped), folder, "cc3m", dropped)
    assert found == [("cc3m:2", "cc3m:00000/000000007", "caption 2")]
    assert dropped == {DEAD_LINKS: 2}


def test_a_third_column_names_the_picture_but_never_one_outside_the_folder(tmp_path, folder):
    picture(folder, "sub/a.jpg")
    picture(tmp_path, "a.jpg")
    dropped = Counter()
    rows = read_caption_tsv(write_tsv(tmp_path, ("\tsub/a.jpg", "\tgone.jpg", "\t../a.jpg")), dropped)
    assert fetched(rows, folder, "cc3m", dropped) == [("cc3m:0", "cc3m:sub/a", "caption 0")]
    assert dropped == {DEAD_LINKS: 1, "rows whose picture's path leads out of the image folder": 1}


def test_sbu_in_both_forms(tmp_path, folder):
    picture(folder, "cat.jpg")
    (tmp_path / "sbu-captions-all.json").write_text(json.dumps({"image_urls": URLS, "captions": ["a", "b", "c "]}))
    (tmp_path / "urls.txt").write_text("\n".join(URLS))
    (tmp_path / "captions.txt").write_text("a\nb\nc\n")
    dropped = Counter()
    one = fetched(read_caption_lists(tmp_path / "sbu-captions-all.json", dropped), folder, "sbu", dropped)
    two = fetched(read_caption_texts(tmp_path / "urls.txt", tmp_path / "captions.txt", dropped), folder, "sbu", dropped)
    assert one == two == [("sbu:2", "sbu:cat", "c")]
    assert dropped == {DEAD_LINKS: 4}


def test_lists_of_different_length_are_an_error(tmp_path):
    path = tmp_path / "sbu-captions-all.json"
    path.write_text(json.dumps({"image_urls": URLS, "captions": ["a"]}))
    with pytest.raises(DataError, match="3 addresses and 1 captions"):
        read_caption_lists(path, Counter())


def test_lines_of_other_columns_are_faults(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("only a caption\na\tb\nc\t\n")
    with pytest.raises(DataError) as error:
        list(read_caption_tsv(path, Counter()))
    assert "line 1: should be <caption><tab><address>, found 1 columns" in str(error.value)
    assert "line 3" in str(error.value)


def test_a_folder_without_pictures_is_an_error(folder):
    with pytest.raises(DataError, match="no picture in it"):
        ImageFolder(folder)
