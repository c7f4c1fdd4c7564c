"""Files are whole or absent."""

import hashlib

import pytest

from cmal.errors import CmalError, DataError
from cmal.io.files import atomic_path, read_json, sha256_of, write_json


def test_a_failed_block_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_finished_block_replaces_the_file(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic_path(path) as temporary:
        assert not path.exists()
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_full_disk_is_a_message(tmp_path):
    path = tmp_path / "a.txt"
    with pytest.raises(CmalError, match="No space left on device"), atomic_path(path):
        raise OSError(28, "No space left on device")
    assert not path.exists()


def test_a_folder_that_is_a_file_is_a_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CmalError, match="cannot write"):
        write_json(tmp_path / "file" / "a.json", {})


def test_json_is_written_as_it_is_read(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"b": 1, "a": ["é"]})
    assert path.read_text(encoding="utf-8") == '{\n  "b": 1,\n  "a": [\n    "é"\n  ]\n}\n'
    assert read_json(path) == {"b": 1, "a": ["é"]}


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_what_is_not_json_is_a_message(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match="it is not JSON"):
        read_json(tmp_path / "a.json")


def test_a_missing_file_is_a_message(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        read_json(tmp_path / "a.json")


def test_hash_of_a_file_longer_than_one_block(tmp_path):
    data = b"cmal" * 600_000
    (tmp_path / "a").write_bytes(data)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(data).hexdigest()
