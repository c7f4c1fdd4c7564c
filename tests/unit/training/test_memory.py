"""How a program starts anew with glibc's thread cache off. What that is good for is measured by bench/long_run.py."""

import os
import subprocess
import sys

import pytest

from cmal.training.memory import NO_THREAD_CACHE, TUNABLES, has_glibc, start_without_thread_cache

PROGRAM = """
import os, sys
print("started", os.getpid(), flush=True)
import cmal_cli.app as app
app.main = lambda: print("ran", os.getpid(), os.environ.get("GLIBC_TUNABLES"), sys.argv[1:])
app.command_line()
"""

glibc = pytest.mark.skipif(not has_glibc(), reason="only glibc has a thread cache of this kind")


def run(*arguments, **environment):
    """-> the lines the program printed, starts and runs."""
    kept = {name: value for name, value in os.environ.items() if name != TUNABLES}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=kept | environment, check=True)
    return [line.split(maxsplit=2) for line in done.stdout.splitlines()]


@glibc
@pytest.mark.parametrize("words", [["pretrain", "a recipe.yaml"], ["--debug", "finetune", "x"], ["extract-regions"]])
def test_a_long_command_starts_anew_as_the_same_process_with_the_same_words(words):
    *starts, ran = run(*words)
    assert len(starts) == 2
    assert {line[1] for line in [*starts, ran]} == {ran[1]}, "one process number"
    assert ran[2] == f"{NO_THREAD_CACHE} {words}"


@pytest.mark.parametrize("words", [["prepare", "scenes"], ["pretrain", "--help"], ["--version"]])
def test_a_short_command_does_not(words):
    *starts, ran = run(*words)
    assert len(starts) == 1 and ran[2] == f"None {words}"


@glibc
def test_other_tunables_are_kept_and_an_own_choice_is_left_alone():
    other = "glibc.malloc.arena_max=2"
    assert run("pretrain", **{TUNABLES: other})[-1][2] == f"{other}:{NO_THREAD_CACHE} ['pretrain']"
    own = "glibc.malloc.tcache_count=3"
    *starts, ran = run("pretrain", **{TUNABLES: own})
    assert len(starts) == 1 and ran[2] == f"{own} ['pretrain']"


def test_a_program_that_cannot_be_started_again_goes_on(monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "execve", refuse)
    monkeypatch.delenv(TUNABLES, raising=False)
    start_without_thread_cache()
    assert TUNABLES not in os.environ
