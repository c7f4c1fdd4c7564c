"""Big JSON read piece by piece gives what `json.load` gives, whatever the window's size, and notices every cut."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmal.errors import DataError
from cmal.io import json_stream
from cmal.io.json_stream import iterate_array, iterate_arrays, parse_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture
def small_window(monkeypatch):
    monkeypatch.setattr(json_stream, "WINDOW_CHARS", 7)


def write(path, value, **form):
    path.write_text(json.dumps(value, **form), encoding="utf-8")
    return path


def test_elements_of_a_named_array_before_and_after_other_keys(tmp_path):
    path = write(tmp_path / "a.json", {"info": {"annotations": [9]}, "annotations": [1, {"a": [2]}], "licenses": [3]})
    assert list(iterate_array(path, "annotations")) == [1, {"a": [2]}]


def test_a_document_that_is_one_array(tmp_path):
    assert list(iterate_array(write(tmp_path / "a.json", [1, "x"]))) == [1, "x"]


def test_all_arrays_with_their_keys(tmp_path):
    path = write(tmp_path / "a.json", {"images": [1], "n": 5, "annotations": [2, 3]})
    assert list(iterate_arrays(path)) == [("images", 1), ("annotations", 2), ("annotations", 3)]


@settings(max_examples=60, deadline=None)
@given(
    value=st.lists(VALUES, max_size=6),
    indent=st.sampled_from([None, 1]),
    ascii=st.booleans(),
    window=st.integers(1, 40),
)
def test_same_as_json_load_for_any_window(tmp_path_factory, value, indent, ascii, window):
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(json.dumps({"x": 1, "rows": value}, indent=indent, ensure_ascii=ascii), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "WINDOW_CHARS", window)
        assert list(iterate_array(path, "rows")) == value


def test_a_number_cut_by_the_window_is_not_taken_for_whole(tmp_path, small_window):
    assert list(iterate_array(write(tmp_path / "a.json", [1234567890, 12345678901234]))) == [1234567890, 12345678901234]


@pytest.mark.parametrize("window", range(1, 30))
def test_a_number_cut_at_its_point_or_exponent_is_read_whole(tmp_path, monkeypatch, window):
    monkeypatch.setattr(json_stream, "WINDOW_CHARS", window)
    value = [0.5, -1.25e-300, 7e10, 12]
    assert list(iterate_array(write(tmp_path / "a.json", {"x": 0.25, "rows": value, "y": 1.5}), "rows")) == value


def test_every_cut_off_file_is_noticed(tmp_path, small_window):
    whole = json.dumps({"info": {"year": 2017}, "rows": [{"id": 1, "caption": "a dog"}, 22]})
    for cut in range(len(whole)):
        path = tmp_path / "cut.json"
        path.write_text(whole[:cut])
        with pytest.raises(DataError):
            list(iterate_array(path, "rows"))


@pytest.mark.parametrize("text", ["[1,]", "[1 2]", "[NaN]", "[1]]", '{"rows": 1', "[1e]", "nonsense", '["\x01"]'])
def test_what_is_not_json_is_a_message(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match="it is not JSON"):
        list(iterate_array(path))


def test_a_missing_key_is_named(tmp_path):
    with pytest.raises(DataError, match='no list "annotations"'):
        list(iterate_array(write(tmp_path / "a.json", {"images": []}), "annotations"))


def test_a_key_that_is_no_list_is_named(tmp_path):
    with pytest.raises(DataError, match='"annotations" is not a list'):
        list(iterate_array(write(tmp_path / "a.json", {"annotations": 5}), "annotations"))


def test_nesting_beyond_reason_is_a_message(tmp_path):
    path = tmp_path / "deep.json"
    path.write_text("[" * 200_000)
    with pytest.raises(DataError, match="nested too deeply"):
        list(iterate_array(path))


def test_bytes_that_are_no_utf8_are_a_message(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'["\xff"]')
    with pytest.raises(DataError, match="it is not JSON"):
        list(iterate_array(path))


def test_one_line_is_read_strictly():
    assert parse_json(b'{"a": 1}') == {"a": 1}
    with pytest.raises(ValueError, match="NaN is not a JSON number"):
        parse_json("NaN")
