"""Asked to stop: at once, or noted; and a second time in the system's own way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from cmal.io.signals import STOPPING, Stopped, stop_at_once, stop_noted


@pytest.mark.parametrize("number", STOPPING)
def test_at_once_it_is_an_exception_that_nobody_catches_by_mistake(number):
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match=signal.Signals(number).name), stop_at_once():
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        except Exception:
            pytest.fail("like Ctrl-C it is no Exception")
    assert signal.getsignal(number) is before and issubclass(Stopped, KeyboardInterrupt)


def test_noted_it_waits_for_a_good_moment_and_within_it_can_be_at_once():
    with stop_at_once(), stop_noted() as is_stopping:
        assert not is_stopping()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        assert is_stopping()
        with pytest.raises(Stopped), stop_at_once():
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(10)
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.01)


def test_a_second_signal_ends_a_process_that_does_not_heed_the_first():
    code = """
import time
from cmal.io.signals import Stopped, stop_at_once
with stop_at_once():
    while True:
        try:
            print("at work", flush=True)
            time.sleep(60)
        except Stopped:
            pass
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        for _ in range(2):
            assert process.stdout.readline() == "at work\n"
            process.terminate()
        assert process.wait(timeout=20) == -signal.SIGTERM


def test_in_a_thread_signals_are_left_alone():
    seen = []

    def work() -> None:
        with stop_at_once(), stop_noted() as is_stopping:
            seen.append(is_stopping())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
