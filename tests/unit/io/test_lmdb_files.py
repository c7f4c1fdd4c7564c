"""LMDB files of other projects: their entries in order, and a message for what is none."""

from __future__ import annotations

import sys

import pytest

from cmal.errors import DataError
from cmal.io.isolated import iterate_isolated
from cmal.io.lmdb_files import count_entries, find_keys, is_lmdb, lmdb_entries

lmdb = pytest.importorskip("lmdb")
ENTRIES = {f"key {number:03}".encode(): b"x" * number * 100 for number in range(200)}


@pytest.fixture
def database(tmp_path):
    with lmdb.open(str(tmp_path / "db"), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for key, value in ENTRIES.items():
            transaction.put(key, value)
    return tmp_path / "db"


def test_all_entries_come_in_the_order_of_their_keys(database):
    for path in (database, database / "data.mdb"):
        assert is_lmdb(path)
        assert dict(iterate_isolated(path, lambda path=path: lmdb_entries(path))) == ENTRIES
        assert count_entries(path) == 200
    assert find_keys(database, b"key 007", b"keys") == {b"key 007"}


def test_what_is_no_lmdb_is_a_message(tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"nothing")
    assert not is_lmdb(tmp_path)
    with pytest.raises(DataError, match="not an LMDB"):
        find_keys(tmp_path, b"key")


def test_a_value_beyond_the_limit_is_a_message(database, monkeypatch):
    monkeypatch.setattr("cmal.io.lmdb_files.MAX_VALUE_BYTES", 10_000)
    with pytest.raises(DataError, match="a value of 10,100 bytes"):
        list(iterate_isolated(database, lambda: lmdb_entries(database)))


def test_without_the_package_the_message_says_what_to_install(database, monkeypatch):
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(DataError, match=r"pip install 'cmal\[import\]'"):
        find_keys(database, b"key")
