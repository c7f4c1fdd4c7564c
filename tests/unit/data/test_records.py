"""Records: written and read back, every fault with its line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmal.data.records import (
    EntailmentRecord,
    ImageTextRecord,
    PairRecord,
    ReferringRecord,
    VqaRecord,
    parse_record,
    read_records,
    record_line,
)
from cmal.errors import DataError

TEXTS = st.text(st.characters(codec="utf-8"))
NUMBERS = st.floats(-1e6, 1e6)
SIDES = st.floats(0, 1e6)
BOXES = st.tuples(NUMBERS, NUMBERS, SIDES, SIDES)
IDS = st.text(st.characters(codec="utf-8"), min_size=1)
RECORDS = st.one_of(
    st.builds(ImageTextRecord, IDS, TEXTS, TEXTS),
    st.builds(VqaRecord, IDS, TEXTS, TEXTS, st.lists(TEXTS).map(tuple), TEXTS, TEXTS),
    st.builds(EntailmentRecord, IDS, TEXTS, TEXTS, TEXTS),
    st.builds(ReferringRecord, IDS, TEXTS, TEXTS, TEXTS, BOXES, st.lists(BOXES).map(tuple)),
    st.builds(PairRecord, IDS, TEXTS, TEXTS, TEXTS, TEXTS, TEXTS),
)


@given(RECORDS)
def test_a_line_gives_the_record_it_was_written_from(record):
    line = record_line(record)
    assert line.count("\n") == 1
    assert parse_record(line.encode("utf-8"), type(record)) == record


def test_a_line_is_plain_json_with_the_field_names():
    record = ReferringRecord("r:1", "1", "coco:9", "café", (1, 2, 3, 4.5), ((1, 2, 3, 4.5),))
    assert record_line(record) == (
        '{"id": "r:1", "ref_id": "1", "image_id": "coco:9", "expression": "café", '
        '"box_xywh_px": [1, 2, 3, 4.5], "candidate_boxes_xywh_px": [[1, 2, 3, 4.5]]}\n'
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"id": "a", "image_id": "b"}', 'key "caption" is missing'),
        ('{"id": "a", "image_id": "b", "caption": "c", "x": 1}', 'unknown key "x"'),
        ('{"id": 1, "image_id": "b", "caption": "c"}', '"id" should be a text, found 1'),
        ('{"id": "", "image_id": "b", "caption": "c"}', '"id" is empty'),
        ('{"id": "a", "image_id": "b", "caption": "\\ud800"}', '"caption" should be a text'),
        ("[]", "not a JSON object"),
        ("{", "not JSON"),
    ],
)
def test_a_faulty_line_says_what_is_wrong(line, reason):
    with pytest.raises(ValueError, match=reason):
        parse_record(line, ImageTextRecord)


@pytest.mark.parametrize(
    "box", ["[1, 2, 3]", "[1, 2, 3, NaN]", "[1, 2, 3, 1e400]", "[1, 2, 3, true]", "[1, 2, -3, 4]", '"x"']
)
def test_a_box_is_four_finite_numbers(box):
    line = '{"id": "a", "ref_id": "1", "image_id": "b", "expression": "c", "box_xywh_px": ' + box + "}"
    with pytest.raises(ValueError, match="box_xywh_px"):
        parse_record(line, ReferringRecord)


def test_all_faults_of_a_file_come_together(tmp_path):
    path = tmp_path / "train.jsonl"
    good = record_line(ImageTextRecord("a", "b", "c"))
    path.write_text(good + "x\n\n" + good.replace("caption", "text"))
    with pytest.raises(DataError) as error:
        read_records(path, ImageTextRecord)
    lines = str(error.value).splitlines()
    assert lines[0] == f"cannot read {path} as ImageTextRecord lines"
    assert lines[1].startswith("  line 2: not JSON")
    assert lines[2] == '  line 4: key "caption" is missing'


def test_a_repeated_id_is_an_error(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text(record_line(ImageTextRecord("a", "b", "c")) * 2)
    with pytest.raises(DataError, match='1 record ids appear twice, the first is "a"'):
        read_records(path, ImageTextRecord)


@pytest.mark.parametrize(("text", "reason"), [(None, "no such file"), ("\n", "holds no record")])
def test_a_missing_or_empty_file_is_a_message(tmp_path, text, reason):
    path = tmp_path / "train.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=reason):
        read_records(path, ImageTextRecord)
