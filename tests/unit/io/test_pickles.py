"""Untrusted pickles: containers, numbers, text and arrays come through, everything else is refused before it runs."""

from __future__ import annotations

import collections
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from cmal.errors import DataError
from cmal.io.isolated import run_isolated
from cmal.io.pickles import PickleRefused, read_pickle, unpickle

PYTHON_2_ARRAY = (  # {"a": numpy.array([1, 2], dtype="<i2")}, as Python 2 wrote it: bytes as text, protocol 2
    b"\x80\x02}q\x01U\x01aq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85q\x05U\x01bq\x06"
    b"\x87q\x07Rq\x08(K\x01K\x02\x85q\tcnumpy\ndtype\nq\nU\x02i2q\x0bK\x00K\x01\x87q\x0cRq\r(K\x03U\x01<q\x0eNNN"
    b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0fb\x89U\x04\x01\x00\x02\x00q\x10tq\x11bs."
)
PLAIN = [{"ref_id": 7, "sentences": [{"sent": "the dog", "box": (1.5, None, True)}], "ids": {1, 2}, "big": 1 << 80}]
PROTOCOLS = pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))


class Calls:
    """Pickled, it calls a function when a trusting reader opens it."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@PROTOCOLS
@pytest.mark.parametrize(
    "value",
    [
        PLAIN,
        {"a": 1, "b": [1.5, None, True, "x", b"\xff\x00", b""], "c": (2**80, -3), "d": frozenset([4])},
        {"nested": {"deeper": [np.arange(3)]}},
    ],
)
def test_plain_values_come_back(value, protocol):
    assert repr(unpickle(pickle.dumps(value, protocol))) == repr(value)


@PROTOCOLS
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "<i8", "u1", "?", "<f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back_with_type_shape_and_order(protocol, dtype, order):
    array = np.array(np.arange(6).reshape(2, 3), dtype=dtype, order=order)
    found = unpickle(pickle.dumps({"x": array, "empty": array[:0], "one": array[0, 1]}, protocol))
    assert np.array_equal(found["x"], array) and found["x"].dtype == array.dtype
    assert found["empty"].shape == (0, 3)
    assert found["one"] == array[0, 1]


def test_what_python_2_wrote_is_read():
    found = unpickle(PYTHON_2_ARRAY)
    assert found["a"].tolist() == [1, 2] and found["a"].dtype == np.dtype("<i2")
    # [{'sent': 'dog', u'id': 5L}], protocol 2: U = byte text, \x8a = long, X = unicode
    data = b"\x80\x02]q\x01}q\x02(U\x04sentq\x03U\x03dogq\x04X\x02\x00\x00\x00idq\x05\x8a\x01\x05ua."
    assert unpickle(data) == [{"sent": "dog", "id": 5}]


def test_an_ordered_dict_is_a_dict():
    assert unpickle(pickle.dumps(collections.OrderedDict(a=1))) == {"a": 1}


@PROTOCOLS
def test_no_function_is_called(tmp_path, protocol):
    mark = tmp_path / "mark"
    for trap in (
        Calls(open, str(mark), "w"),
        Calls(os.system, f"touch {mark}"),
        Calls(eval, f"open({str(mark)!r}, 'w')"),
        Calls(np.load, str(mark)),
        Calls(getattr, "x", "upper"),
        Calls(np.fromfile, str(mark)),
    ):
        with pytest.raises(PickleRefused, match=r"asks for .* no plain container; nothing was run"):
            unpickle(pickle.dumps([trap], protocol))
    assert not mark.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"(S'true'\nios\nsystem\n.",  # INST
        b"cbuiltins\neval\n(S'1'\ntR.",  # GLOBAL of builtins
        b"cbuiltins\ngetattr\n.",
        b"Pfile\n.",  # persistent id
        b"\x80\x02Px\n.",
        b"\x80\x02\x82\x01.",  # extension registry
        b"\x80\x02c_codecs\nencode\n}U\x0c__defaults__Nsb.",  # a state for a function
        b"\x80\x02c_codecs\nencode\n(N}U\x09_functionNstb.",
        b"\x80\x02cnumpy\nndarray\nJ\x00\xca\x9a\x3b\x85\x85R.",  # an array of a billion numbers
        b"\x80\x02cbuiltins\nbytes\nJ\x00\xca\x9a\x3b\x85R.",  # a billion bytes
        b"\x80\x02cbuiltins\nlist\n}U\x06appendNsb.",  # an attribute of a builtin
        b"\x80\x02cnumpy\ndtype\n.",  # a name alone
        b"\x80\x02\x8bA\x00\x00\x00" + b"\x01" * 65 + b".",  # a number of 65 bytes
    ],
)
def test_other_ways_to_reach_code_or_memory_are_refused(data):
    with pytest.raises(PickleRefused, match="nothing was run"):
        unpickle(data)
    assert unpickle(pickle.dumps(b"\xff", 2)) == b"\xff", "the allowed names still work"


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02]r\xff\xff\xff\x7f.",  # a memo number far away
        b"\x80\x02\x8b\xff\xff\xff\x7f.",  # a long that lies about its length
    ],
)
def test_numbers_that_ask_for_gigabytes_do_no_harm(tmp_path, data):
    path = tmp_path / "refs(unc).p"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"more than 2 GB of memory|is damaged"):
        read_pickle(path)


@pytest.mark.parametrize("dtype", [object, "S3", "U2", "V4", "M8[s]", [("a", "f4")], complex])
def test_arrays_of_other_things_than_numbers_are_refused_or_become_lists(dtype):
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


def test_every_cut_of_a_good_pickle_is_refused():
    data = pickle.dumps({"features": np.arange(6.0), "boxes": b"abc", "n": 2}, 4)
    for length in range(len(data)):
        with pytest.raises(PickleRefused):
            unpickle(data[:length])


def test_flipped_bytes_end_in_a_value_or_a_message(tmp_path):
    whole = pickle.dumps(PLAIN, 2)

    def outcomes() -> set[str]:
        found = set()
        for position in range(len(whole)):
            for flip in (1, 0x55, 0xFF):
                damaged = bytearray(whole)
                damaged[position] ^= flip
                try:
                    unpickle(bytes(damaged))
                    found.add("value")
                except PickleRefused:
                    found.add("message")
                except MemoryError:
                    found.add("message")
        return found

    assert run_isolated(tmp_path, outcomes) == {"value", "message"}


def test_a_file_is_read_and_a_missing_one_is_a_message(tmp_path):
    path = tmp_path / "refs(unc).p"
    path.write_bytes(pickle.dumps(PLAIN, 2))
    assert read_pickle(path) == PLAIN
    with pytest.raises(DataError, match="cannot read"):
        read_pickle(Path(tmp_path / "nothing.p"))
