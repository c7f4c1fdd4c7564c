"""Visual Genome's files -> records, and other ids of its images."""

import json
from collections import Counter

import pytest

from cmal.data.records import ImageTextRecord
from cmal.datasets.visual_genome import read_image_data, read_question_answers, read_regions
from cmal.errors import DataError


def write(path, value):
    path.write_text(json.dumps(value))
    return path


def region(number, phrase, **changes):
    return {"region_id": number, "image_id": 1, "phrase": phrase, "x": 1, "y": 2, "width": 3, "height": 4} | changes


def test_every_region_is_a_caption_of_its_image(tmp_path):
    path, dropped = (
        write(tmp_path / "r.json", [{"id": 1, "regions": [region(5, "a clock "), region(6, " ")]}]),
        Counter(),
    )
    assert list(read_regions(path, "vg-captions", dropped)) == [ImageTextRecord("vg-captions:5", "vg:1", "a clock")]
    assert dropped == {"empty phrases": 1}


def test_faults_name_the_image_entry_and_the_row(tmp_path):
    rows = [region(5, "a"), region(5, "b"), region(7, None), region(8, "c", image_id=2)]
    path = write(tmp_path / "r.json", [{"id": 1, "regions": rows}, {"id": 2}, 3])
    with pytest.raises(DataError) as error:
        list(read_regions(path, "vg-captions", Counter()))
    assert str(error.value).splitlines()[1:-1] == [
        "  image entry 1, row 2: id 5 appears twice, with different content",
        '  image entry 1, row 3: "phrase" should be a text, found None',
        "  image entry 1, row 4: its image 2 is not its entry's, 1",
        '  image entry 2: key "regions" is missing',
        "  image entry 3: should be an object, found 3",
    ]


def test_a_question_counts_as_ten_equal_answers_and_long_answers_are_left_out(tmp_path):
    qas = [
        {"qa_id": 1, "image_id": 4, "question": "What?", "answer": "A sail."},
        {"qa_id": 2, "image_id": 4, "question": "Why?", "answer": "Because of the wind out there."},
    ]
    path, dropped = write(tmp_path / "q.json", [{"id": 4, "qas": qas}]), Counter()
    (record,) = read_question_answers(path, "vqa", dropped)
    assert (record.id, record.image_id, record.answers) == ("vqa:vg-1", "vg:4", ("A sail",) * 10)
    assert dropped == {"Visual Genome answers of more than 5 words": 1}


def test_other_ids_of_an_image(tmp_path):
    rows = [
        {"image_id": 1, "coco_id": 139, "flickr_id": 36979, "width": 8, "height": 6, "url": "x"},
        {"image_id": 2, "coco_id": None, "flickr_id": None},
        {"image_id": 3, "coco_id": None, "flickr_id": 5},
    ]
    found = read_image_data(write(tmp_path / "i.json", rows), Counter())
    assert found == {"vg:1": ("coco:139", "flickr30k:36979"), "vg:3": ("flickr30k:5",)}


def test_real_rows_are_all_read(real_data):
    folder, dropped = real_data / "visual_genome", Counter()
    regions = list(read_regions(folder / "region_descriptions.json", "vg-captions", dropped))
    assert [(r.id, r.image_id) for r in regions[:1]] == [("vg-captions:1382", "vg:1")]
    assert len(regions) == 4
    questions = list(read_question_answers(folder / "question_answers.json", "vqa", dropped))
    assert len(questions) + sum(dropped.values()) == 8
    assert {q.image_id for q in questions} <= {"vg:4", "vg:5", "vg:1"}
