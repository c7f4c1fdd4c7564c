"""Reading untrusted files in a child process, whose memory and time are limited.

A damaged or hostile LMDB can crash the library that reads it, and a pickle of a few hundred bytes can ask for more memory
or time than there is. Such files are read in a child process; when it dies, the parent raises a DataError.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import gc
import os
import re
import resource
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from cmal.errors import CmalError, DataError

T = TypeVar("T")
MAX_CHILD_BYTES = 2 << 30  # data the child may allocate beyond what it starts with
SECONDS_PER_ITEM = 10  # processor time
PIPE_BYTES = 1 << 20  # Linux's largest; an image takes half of it


def iterate_isolated(path: Path, read: Callable[[], Iterable[T]], seconds: int = SECONDS_PER_ITEM) -> Iterator[T]:
    """The items of `read()`, which runs in a child process; they travel through a pipe, so they have to be picklable.

    Args:
        path: the file that is read, for the message.
        read: reads the file.
        seconds: processor time the child may spend on one item.

    Raises:
        DataError: the child crashed, or needed more memory or time than it may take.
        Exception: whatever `read` raised.
    """
    receiver, sender = Pipe(duplex=False)
    with contextlib.suppress(AttributeError, OSError):  # not Linux, or the user has too many pipes
        fcntl.fcntl(sender.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    child = os.fork()  # multiprocessing would import the user's script again, or refuse to run in a worker process
    if child == 0:
        _serve(sender, read, seconds)
    sender.close()
    is_running = True
    try:
        while True:
            try:
                item = receiver.recv()
            except EOFError:
                is_running = False
                raise _ended(path, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), seconds) from None
            if isinstance(item, _End):
                if item.error is None:
                    return
                raise item.error
            yield item
    finally:
        if is_running:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        receiver.close()


def run_isolated(path: Path, function: Callable[[], T], seconds: int = SECONDS_PER_ITEM) -> T:
    """The value of `function()`, which runs in a child process. Raises as `iterate_isolated`."""
    return next(iterate_isolated(path, lambda: [function()], seconds))


@dataclass
class _End:
    """The last message of a child, with the exception that ended it."""

    error: Exception | None = None


def _serve(sender: Connection, read: Callable[[], Iterable[Any]], seconds: int) -> NoReturn:
    """The child: sends the items, then ends without running the parent's exit handlers."""
    exit_code = 1
    try:
        gc.freeze()  # a collection would copy every page of the parent's objects
        _forget_the_parent(sender)
        _limit_memory()
        signal.setitimer(signal.ITIMER_PROF, seconds)
        for item in read():
            sender.send(item)
            signal.setitimer(signal.ITIMER_PROF, seconds)
        sender.send(_End())
    except MemoryError:
        exit_code = _OUT_OF_MEMORY
    except BrokenPipeError:  # the parent is gone
        pass
    except Exception as error:
        sender.send(_End(error))
    finally:
        os._exit(exit_code)


def _forget_the_parent(sender: Connection) -> None:
    """Closes inherited files (locks among them), silences crash messages of C libraries, ignores requests to stop."""
    faulthandler.disable()  # it would write into whatever file has its number by then
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    os.closerange(3, sender.fileno())
    os.closerange(sender.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)


def _limit_memory() -> None:
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:  # not Linux: no such limit there
        return
    used = re.search(r"VmData:\s+(\d+) kB", status)
    most = (int(used[1]) << 10 if used else 0) + MAX_CHILD_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (most, resource.getrlimit(resource.RLIMIT_DATA)[1]))


_OUT_OF_MEMORY = 77  # exit code


def _ended(path: Path, exit_code: int, seconds: int) -> CmalError:
    if exit_code == _OUT_OF_MEMORY:
        found = f"one item needs more than {MAX_CHILD_BYTES >> 30} GB of memory"
    elif exit_code == -signal.SIGPROF:
        found = f"one item needs more than {seconds} s of processor time"
    else:
        name = signal.Signals(-exit_code).name if exit_code < 0 else f"exit code {exit_code}"
        found = f"the process that read it crashed ({name}): the file is damaged"
    return DataError(f"cannot read {path}", found, "download the file again, or get it from its publisher")
