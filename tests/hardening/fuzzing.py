"""Mutation fuzzing of readers: seeded, in forked workers of bounded memory and time.

Each input is one of a reader's files, mutated; number i of a seed is always the same input. Whatever it is, reading it
must end in data that pass the reader's own check, or in a CmalError of three parts. Everything else is a failure: another
exception, data that do not pass, a numpy overflow told as a warning, more memory or time than allowed, a dead process.

    PYTHONPATH=.:tests python -m hardening.fuzzing --inputs 20000 [--seed 0] [--only NAME] [--from I] [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from hardening.formats import Format, scratch
from hardening.mutate import mutate_bytes, mutate_tree

MEMORY_BYTES = 2 << 30  # beyond what the process has mapped before it begins
CPU_S, WALL_S = 10, 120  # of one input; the second is for readers that sleep or hang in C
LONGEST_MESSAGE = 20_000


@dataclass(frozen=True)
class Reader:
    """Something that reads files of others.

    Attributes:
        name: of the reader.
        files: its valid input, name -> bytes.
        formats: the files that are mutated, and how they become trees; None mutates bytes alone.
        read: reads the folder with the files and checks what it got; AssertionError where that is wrong.
        share: of the inputs, against the other readers.
    """

    name: str
    files: Mapping[str, bytes]
    formats: Mapping[str, Format | None]
    read: Callable[[Path], object]
    share: float = 1.0


@dataclass
class Outcomes:
    """What came of a reader's inputs; `failures` are (number, what happened)."""

    read: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    failures: list[tuple[int, str]] = field(default_factory=list)

    @property
    def inputs(self) -> int:
        return self.read + self.refused + len(self.failures)


def mutated(reader: Reader, seed: int, number: int) -> dict[str, bytes]:
    """The files of one input: one of them mutated once to three times, its bytes or its structure."""
    rng = random.Random(f"{reader.name} {seed} {number}")
    name = rng.choice(sorted(reader.formats))
    form, data = reader.formats[name], reader.files[name]
    other = reader.files[rng.choice(sorted(reader.formats))]
    rounds = rng.choice((1, 1, 1, 2, 3))
    if form is not None and rng.random() < 0.65:
        try:
            tree = form.parse(data)
            for _ in range(rounds):
                tree = mutate_tree(rng, tree, form.allows_raw)
            return {**reader.files, name: form.build(tree)}
        except Exception:  # a tree that its format cannot write: the bytes are mutated instead
            pass
    for _ in range(rounds):
        data = mutate_bytes(rng, data, other)
    return {**reader.files, name: data}


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Puts an input into a new folder."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


class TooSlow(BaseException):
    """An input took more processor time than allowed; no `except Exception` catches it."""


def outcome_of(reader: Reader, folder: Path) -> tuple[str, str]:
    """("read" | "refused" | "failed", what happened) of the files in a folder."""
    from cmal.errors import CmalError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # numpy tells overflow by it
            reader.read(folder)
    except CmalError as error:
        parts = (error.what, error.found, error.hint)
        if not all(isinstance(part, str) and part.strip() for part in parts) or len(str(error)) > LONGEST_MESSAGE:
            return "failed", f"a message of empty or endless parts: {str(error)[:300]}"
        return "refused", str(error)
    except (Exception, TooSlow):
        return "failed", traceback.format_exc(limit=-6)
    return "read", ""


def _work(reader: Reader, seed: int, numbers: Sequence[int], place: str, results: Connection) -> None:
    """A worker process: sends (number, kind, what happened, seconds) for every input."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY_BYTES, mapped + MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, _too_slow)
    torch.set_num_threads(
        1
    )  # the threads of the parent's OpenMP pool are not there after a fork: waiting for them hangs
    sys.setrecursionlimit(1000)
    for number in numbers:
        folder = Path(place, str(number))
        write_files(folder, mutated(reader, seed, number))
        started = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, CPU_S)
        kind, what = outcome_of(reader, folder)
        signal.setitimer(signal.ITIMER_PROF, 0)
        results.send((number, kind, what if kind == "failed" else "", time.process_time() - started))
        shutil.rmtree(folder, ignore_errors=True)
    results.send(None)


def _too_slow(number: int, frame: object) -> None:
    raise TooSlow(f"more than {CPU_S} s of processor time")


def fuzz(reader: Reader, inputs: int, seed: int = 0, first: int = 0) -> Outcomes:
    """Runs so many inputs of a reader; a worker that dies or hangs costs the input it was at, and a new one goes on."""
    outcomes, numbers = Outcomes(), list(range(first, first + inputs))
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory(dir=scratch()) as place:
        while numbers:
            ours, theirs = context.Pipe(duplex=False)
            worker = context.Process(target=_work, args=(reader, seed, numbers, place, theirs), daemon=True)
            worker.start()
            theirs.close()
            numbers = numbers[_listen(ours, worker, numbers, outcomes) :]
            worker.kill()
            worker.join()
            ours.close()
    return outcomes


def _listen(results: Connection, worker: multiprocessing.Process, numbers: list[int], outcomes: Outcomes) -> int:
    """Counts what a worker sends; gives how many of its inputs are done with."""
    for done in range(len(numbers) + 1):
        try:
            what = results.recv() if results.poll(WALL_S) else "hung"
        except EOFError:
            worker.join(10)
            what = f"the process died with {worker.exitcode}"
        if what is None:
            return done
        if isinstance(what, str):
            outcomes.failures.append((numbers[done], what))
            return done + 1
        number, kind, text, seconds = what
        outcomes.seconds += seconds
        outcomes.slowest = max(outcomes.slowest, seconds)
        if kind == "failed":
            outcomes.failures.append((number, text))
        else:
            setattr(outcomes, kind, getattr(outcomes, kind) + 1)
    return len(numbers)


def shares(readers: Sequence[Reader], inputs: int) -> list[int]:
    """How many inputs each reader gets, at least `inputs` together."""
    total = sum(reader.share for reader in readers)
    return [max(1, -int(-inputs * reader.share // total)) for reader in readers]


def table(outcomes: Mapping[str, Outcomes]) -> str:
    """Reader, inputs, read rightly, refused, failed; milliseconds of processor time an input, and of the slowest."""
    lines = [f"{'reader':28} {'inputs':>7} {'read':>7} {'refused':>8} {'failed':>7} {'ms each':>8} {'slowest ms':>11}"]
    rows = [*outcomes.items(), ("all", _sum(outcomes.values()))]
    for name, one in rows:
        each = 1000 * one.seconds / max(one.inputs, 1)
        counts = f"{one.inputs:>7,} {one.read:>7,} {one.refused:>8,} {len(one.failures):>7,}"
        lines.append(f"{name:28} {counts} {each:>8.1f} {1000 * one.slowest:>11.0f}")
    return "\n".join(lines)


def _sum(outcomes: Sequence[Outcomes]) -> Outcomes:
    total = Outcomes()
    for one in outcomes:
        total.read, total.refused = total.read + one.read, total.refused + one.refused
        total.seconds, total.slowest = total.seconds + one.seconds, max(total.slowest, one.slowest)
        total.failures += one.failures
    return total


def main() -> None:
    from hardening.readers import all_readers

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="readers whose names begin so")
    parser.add_argument("--from", dest="first", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="put the failing inputs there")
    options = parser.parse_args()
    readers = [reader for reader in all_readers() if reader.name.startswith(options.only)]
    outcomes = {}
    for reader, count in zip(readers, shares(readers, options.inputs)):
        one = outcomes[reader.name] = fuzz(reader, count, options.seed, options.first)
        for number, what in one.failures:
            print(f"== {reader.name} {number}\n{what}", flush=True)
            if options.keep:
                write_files(options.keep / reader.name / str(number), mutated(reader, options.seed, number))
    print(table(outcomes))


if __name__ == "__main__":
    main()
