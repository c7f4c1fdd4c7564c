"""The restricted reader of pickles: what it gives back, and what it refuses before anything happens."""

from __future__ import annotations

import collections
import os
import pickle
import pickletools

import numpy as np
import pytest

from cmal.regions.imports.unpickle import PickleRefused, unpickle

PYTHON_2_ARRAY = (  # {"a": numpy.array([1, 2], dtype="<i2")}, as Python 2 wrote it: bytes as text, protocol 2
    b"\x80\x02}q\x01U\x01aq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85q\x05U\x01bq\x06"
    b"\x87q\x07Rq\x08(K\x01K\x02\x85q\tcnumpy\ndtype\nq\nU\x02i2q\x0bK\x00K\x01\x87q\x0cRq\r(K\x03U\x01<q\x0eNNN"
    b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0fb\x89U\x04\x01\x00\x02\x00q\x10tq\x11bs."
)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "value",
    [
        {"a": 1, "b": [1.5, None, True, "x", b"\xff\x00"], "c": (2**80, -3)},
        {"nested": {"deeper": [np.arange(3)]}},
    ],
)
def test_plain_values_come_back(value, protocol):
    assert repr(unpickle(pickle.dumps(value, protocol))) == repr(value)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "<i8", "u1", "?", "<f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back_with_type_shape_and_order(protocol, dtype, order):
    array = np.array(np.arange(6).reshape(2, 3), dtype=dtype, order=order)
    found = unpickle(pickle.dumps({"x": array, "empty": array[:0], "one": array[0, 1]}, protocol))
    assert np.array_equal(found["x"], array) and found["x"].dtype == array.dtype
    assert found["empty"].shape == (0, 3)
    assert found["one"] == array[0, 1]


def test_arrays_that_python_2_wrote_are_read():
    found = unpickle(PYTHON_2_ARRAY)
    assert found["a"].tolist() == [1, 2] and found["a"].dtype == np.dtype("<i2")


def test_an_ordered_dict_is_a_dict():
    assert unpickle(pickle.dumps(collections.OrderedDict(a=1))) == {"a": 1}


class Calls:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def test_no_function_is_called(tmp_path):
    mark = tmp_path / "mark"
    for trap in (
        Calls(open, str(mark), "w"),
        Calls(os.system, f"touch {mark}"),
        Calls(eval, f"open({str(mark)!r}, 'w')"),
        Calls(np.load, str(mark)),
        Calls(getattr, "x", "upper"),
        Calls(np.fromfile, str(mark)),
    ):
        with pytest.raises(PickleRefused, match="asks for"):
            unpickle(pickle.dumps([trap]))
    assert not mark.exists()


def test_the_admitted_names_cannot_be_changed_or_used_to_fill_the_memory():
    hostile = {
        "a state set on a function": b"\x80\x02c_codecs\nencode\n}U\x0c__defaults__Nsb.",
        "ndarray of a billion numbers": b"\x80\x02cnumpy\nndarray\nJ\x00\xca\x9a\x3b\x85\x85R.",
        "an extension": b"\x80\x02\x82\x01.",
        "a persistent id": b"\x80\x02Px\n.",
        "a memo place far away": b"\x80\x02K\x01r\xff\xff\xff\x7f.",
        "a long that lies about its length": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    }
    for name, data in hostile.items():
        if name == "a memo place far away":
            assert unpickle(data) == 1  # and no memory was taken for the two thousand million places before it
        else:
            with pytest.raises(PickleRefused):
                unpickle(data)


@pytest.mark.parametrize("dtype", [object, "S3", "U2", "V4", "M8[s]", [("a", "f4")], complex])
def test_arrays_of_other_things_than_numbers_are_refused_or_stay_lists(dtype):
    array = np.zeros(2, dtype=dtype)
    if dtype is object:
        assert unpickle(pickle.dumps(array)) == [0, 0]
        return
    with pytest.raises(PickleRefused):
        unpickle(pickle.dumps(array))


def test_an_array_whose_bytes_do_not_fit_is_refused():
    data = pickle.dumps(np.arange(4, dtype=np.int16), 2)
    assert b"K\x04\x85" in data  # the shape (4,)
    with pytest.raises(PickleRefused, match="do not fit"):
        unpickle(data.replace(b"K\x04\x85", b"K\x05\x85"))


def test_every_cut_of_a_good_pickle_is_refused_and_nothing_else_happens():
    data = pickle.dumps({"features": np.arange(6.0), "boxes": b"abc", "n": 2}, 4)
    assert list(pickletools.genops(data))
    for length in range(len(data)):
        with pytest.raises(PickleRefused):
            unpickle(data[:length])
