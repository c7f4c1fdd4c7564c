"""Mutated inputs of every reader: right data or a CmalError, in bounded memory and time; see `fuzzing.py`."""

from __future__ import annotations

import os
import time

import pytest
import torch
from hardening.fuzzing import MEMORY_BYTES, Reader, fuzz, mutated, shares, table
from hardening.readers import all_readers

from cmal.errors import DataError

pytest.importorskip("lmdb")
pytest.importorskip("msgpack")

FAST, SLOW = 1_000, 20_000


def fuzz_all(inputs: int, seed: int) -> list[str]:
    """What went wrong, a text each; prints the table."""
    readers = all_readers()
    outcomes = {one.name: fuzz(one, count, seed) for one, count in zip(readers, shares(readers, inputs))}
    print("\n" + table(outcomes))
    assert sum(one.inputs for one in outcomes.values()) >= inputs
    return [f"{name} {number}: {what}" for name, one in outcomes.items() for number, what in one.failures]


def test_a_thousand_mutated_inputs():
    assert fuzz_all(FAST, seed=0) == []


@pytest.mark.slow
def test_twenty_thousand_mutated_inputs():
    assert fuzz_all(SLOW, seed=1) == []


@pytest.mark.parametrize("reader", all_readers(), ids=lambda reader: reader.name)
def test_what_is_not_mutated_is_read(reader, tmp_path):
    from hardening.fuzzing import outcome_of, write_files

    assert outcome_of(reader, write_files(tmp_path, reader.files)) == ("read", "")


def test_a_number_of_a_seed_is_always_the_same_input():
    reader = all_readers()[0]
    assert mutated(reader, 3, 14) == mutated(reader, 3, 14) != mutated(reader, 3, 15)


def _refuse(folder) -> None:
    raise DataError("cannot", "found", "mend")


def _endless(folder) -> None:
    while True:
        time.perf_counter()


FAULTS = {
    "ValueError": lambda folder: int("x"),
    "MemoryError": lambda folder: bytearray(3 * MEMORY_BYTES),
    "died": lambda folder: os.abort(),
    "AssertionError": lambda folder: exec("assert False"),
}


@pytest.mark.parametrize("says", FAULTS)
def test_the_harness_sees_what_goes_wrong_and_goes_on(says):
    reader = Reader("toy", {"a": b"123"}, {"a": None}, FAULTS[says])
    outcomes = fuzz(reader, 2)
    assert [number for number, _ in outcomes.failures] == [0, 1] and all(says in what for _, what in outcomes.failures)
    assert outcomes.read == outcomes.refused == 0


def test_the_harness_stops_an_endless_reader(monkeypatch):
    monkeypatch.setattr("hardening.fuzzing.CPU_S", 0.2)
    outcomes = fuzz(Reader("toy", {"a": b"123"}, {"a": None}, _endless), 1)
    assert "processor time" in outcomes.failures[0][1]


def test_a_reader_may_use_many_tensors_after_the_parent_used_threads():
    torch.ones(4_000_000).sum()
    assert fuzz(Reader("toy", {"a": b"123"}, {"a": None}, lambda folder: torch.ones(4_000_000).sum()), 1).read == 1


def test_the_harness_counts_what_is_read_and_refused():
    assert fuzz(Reader("toy", {"a": b"123"}, {"a": None}, _refuse), 3).refused == 3
    assert fuzz(Reader("toy", {"a": b"123"}, {"a": None}, lambda folder: None), 3).read == 3
