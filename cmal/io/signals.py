"""Requests to stop: SIGTERM from a person or a scheduler, SIGUSR1 from SLURM some time before it ends a job.

Work that can be resumed stops at once, by an exception (`stop_at_once`); training first writes a checkpoint
(`stop_noted`). A second signal ends the process with the system's default action.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Collection, Iterator
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess

STOPPING = (signal.SIGTERM, signal.SIGUSR1)


class Stopped(KeyboardInterrupt):
    """A request to stop arrived. A KeyboardInterrupt, so that `except Exception` does not catch it."""


def stop_at_once() -> contextlib.AbstractContextManager[None]:
    """Within the block SIGTERM and SIGUSR1 raise Stopped."""

    def stop(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Stopped(signal.Signals(number).name)

    return _handled_by(stop)


@contextlib.contextmanager
def stop_noted() -> Iterator[Callable[[], bool]]:
    """Within the block SIGTERM and SIGUSR1 do not end the process; the yielded function says whether one arrived."""
    came: list[int] = []
    with _handled_by(lambda number, frame: came.append(number)):
        yield lambda: bool(came)


def ignore_stopping() -> None:
    """Ignores SIGTERM and SIGUSR1, for worker processes: a scheduler signals them too, and their parent stops them."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)


def end_helpers(others: Collection[BaseProcess] = ()) -> None:
    """Kills all child processes except `others`: they ignore requests to stop, and joining them would block forever."""
    for child in multiprocessing.active_children():
        if child not in others:
            child.kill()


def start_resource_tracker() -> None:
    """Starts the process in which Python counts what worker processes share, deaf to SIGUSR1.

    It is deaf to SIGTERM by itself. A scheduler may signal every process of a job; without its tracker Python prints a
    traceback for each semaphore.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        resource_tracker.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, object], None]) -> Iterator[None]:
    try:
        before = {number: signal.signal(number, handler) for number in STOPPING}
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
