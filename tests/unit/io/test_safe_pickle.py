"""Pickles from strangers: plain values come through, everything else is refused before it runs."""

import os
import pickle

import pytest

from cmal.errors import DataError
from cmal.io.safe_pickle import load_plain_pickle, read_plain_pickle

PLAIN = [{"ref_id": 7, "sentences": [{"sent": "the dog", "box": (1.5, None, True)}], "ids": {1, 2}, "big": 1 << 80}]


class RunsACommand:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_come_through_in_every_protocol(protocol):
    assert load_plain_pickle(pickle.dumps(PLAIN, protocol), "refs") == PLAIN


def test_python_2_byte_texts_and_longs_are_read():
    # what Python 2.7 wrote for [{'sent': 'dog', u'id': 5L}], protocol 2: U = byte text, \x8a = long, X = unicode
    data = b"\x80\x02]q\x01}q\x02(U\x04sentq\x03U\x03dogq\x04X\x02\x00\x00\x00idq\x05\x8a\x01\x05ua."
    assert load_plain_pickle(data, "refs") == [{"sent": "dog", "id": 5}]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_runs_a_command_is_refused_and_nothing_runs(tmp_path, protocol):
    trace = tmp_path / "was_run"
    path = tmp_path / "refs(unc).p"
    path.write_bytes(pickle.dumps([RunsACommand(trace)], protocol))
    with pytest.raises(DataError, match=r"system.*no plain container; nothing was run"):
        read_plain_pickle(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "data",
    [
        b"(S'true'\nios\nsystem\n.",  # INST
        b"cbuiltins\neval\n(S'1'\ntR.",  # GLOBAL of builtins
        b"cbuiltins\ngetattr\n.",
        b"Pfile\n.",  # persistent id
        b"\x80\x02\x82\x01.",  # extension registry
    ],
)
def test_other_ways_to_reach_code_are_refused(data):
    with pytest.raises(DataError, match="nothing was run"):
        load_plain_pickle(data, "refs")


def test_a_memo_number_far_away_reserves_nothing():
    assert load_plain_pickle(b"\x80\x02]r\xff\xff\xff\x7f.", "refs") == []


@pytest.mark.parametrize("cut", [0, 1, 5, 20])
def test_a_cut_off_pickle_is_a_message(cut):
    with pytest.raises(DataError, match="cannot use the pickle refs"):
        load_plain_pickle(pickle.dumps(PLAIN, 2)[:cut], "refs")


def test_flipped_bytes_end_in_a_value_or_a_message():
    whole, outcomes = pickle.dumps(PLAIN, 2), set()
    for place in range(len(whole)):
        for flip in (1, 0x55, 0xFF):
            damaged = bytearray(whole)
            damaged[place] ^= flip
            try:
                load_plain_pickle(bytes(damaged), "refs")
                outcomes.add("value")
            except DataError:
                outcomes.add("message")
    assert outcomes == {"value", "message"}
