"""A stage on which commands of `cmal` run as processes of their own, without loading torch anew each time.

    with Stage(folder) as stage:
        act = stage.start(["pretrain", "recipe.yaml"], cwd=world)
        act.kill()                      # or act.send(signal.SIGTERM), or nothing
        print(act.wait(60), act.said())

A server process has imported everything heavy and forks a child for each command, which is thus at work a few
milliseconds after it was asked for; so a kill at a random moment hits the work and not the loading of libraries. The
server is a plain process of its own (`python tests/hardening/stage.py FOLDER`), not the one that runs the tests.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
HEAVY = (
    "cmal_cli.app cmal_cli.prepare cmal_cli.extract_regions cmal_cli.pretrain cmal_cli.finetune cmal_cli.evaluate "
    "cmal_cli.probe_anchors cmal_cli.dry_run cmal_cli.training cmal_cli.extract_images cmal_cli.store_tools "
    "cmal.datasets.prepare cmal.regions.extract cmal.regions.imports "
    "cmal.regions.store.verify cmal.regions.inspect cmal.scenes.detector cmal.runs.pretrain cmal.runs.finetune "
    "cmal.runs.evaluate cmal.runs.probe cmal.reports.run_report cmal.reports.evaluation cmal.reports.anchors lmdb msgpack "
    "concurrent.futures.process encodings.cp437"
)
POLL_S = 0.005
FAIL_ONCE, FAIL_ON, KILL, PAUSE = 0, 1, 2, 3  # modes of full_disk.c


class Act:
    """One command on the stage."""

    def __init__(self, folder: Path):
        self.folder, self.started = folder, time.monotonic()
        self.process = self._await("pid", 60)

    def _await(self, name: str, timeout_s: float) -> int:
        end = time.monotonic() + timeout_s
        while not (self.folder / name).exists():
            if time.monotonic() > end:
                raise TimeoutError(f"no {name} after {timeout_s} s; it said: {self.said()}")
            time.sleep(POLL_S)
        return int((self.folder / name).read_text())

    def send(self, number: int) -> None:
        """Sends a signal to the command's process alone, if it is still there."""
        if not self.is_over():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)

    def writes(self) -> int:
        """How often it changed something below the folder of `disk`, once it is over."""
        return int((self.folder / "writes").read_text())

    def is_stopped(self) -> bool:
        """Whether SIGSTOP has come to it (see PAUSE)."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            return Path(f"/proc/{self.process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"
        return False

    def is_over(self) -> bool:
        return (self.folder / "status").exists()

    def wait(self, timeout_s: float = 120) -> int:
        """Its exit status, -N for signal N.

        Raises:
            TimeoutError: it hangs; it is killed with all its children.
        """
        try:
            return self._await("status", timeout_s)
        except TimeoutError:
            self.end_family()
            raise

    def family(self) -> list[int]:
        """Processes of its session that are alive: itself, workers, what they started."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                except (FileNotFoundError, ProcessLookupError):
                    continue
                if int(fields[3]) == self.process and fields[0] != "Z":
                    found.append(int(entry.name))
        return found

    def end_family(self) -> None:
        for process in self.family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def orphans_after(self, seconds: float) -> list[int]:
        """Processes that outlive the command by more than some seconds; they are ended."""
        end = time.monotonic() + seconds
        while (left := self.family()) and time.monotonic() < end:
            time.sleep(0.05)
        self.end_family()
        return left

    def said(self) -> str:
        """Everything it wrote to standard output and error."""
        file = self.folder / "said"
        return file.read_text(errors="replace") if file.exists() else ""


class Stage:
    """The server, started and ended. Use as a context manager.

    Args:
        folder: for its files; made.
        preload: a shared library that the processes are started with (see `full_disk.c`).
    """

    def __init__(self, folder: Path, preload: Path | None = None):
        self.folder, self.preload, self.acts = Path(folder), preload, 0

    def __enter__(self) -> Stage:
        self.folder.mkdir(parents=True, exist_ok=True)
        given = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        if self.preload:
            given["LD_PRELOAD"] = str(self.preload)
        with (self.folder / "server").open("w") as said:
            self.server = subprocess.Popen(
                [sys.executable, __file__, str(self.folder)],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                env=os.environ | given,
                text=True,
            )
        while not (self.folder / "loaded").exists():  # minutes, on a busy machine
            assert self.server.poll() is None, (self.folder / "server").read_text()
            time.sleep(POLL_S)
        return self

    def __exit__(self, *error: object) -> None:
        self.server.stdin.close()
        self.server.wait(timeout=60)

    def start(self, arguments: Sequence[object], cwd: Path, **how: Any) -> Act:
        """Starts `cmal ARGUMENTS` in a folder.

        Args:
            how: of what follows, any: env, a mapping of environment variables; patches, {"module:NAME": value} of plain
                values to be set before the command starts; user, a numeric id to become; disk, (folder, k, mode): what
                happens at the k-th write below the folder (see `full_disk.c`); memory, bytes of address space that it may
                have beyond what it has; clock, seconds by which the clock on the wall jumps at each look.
        """
        self.acts += 1
        place = self.folder / f"act-{self.acts:05d}"
        place.mkdir()
        place.chmod(0o777)  # for commands that become another user
        order = {"arguments": [str(word) for word in arguments], "cwd": str(cwd), "place": str(place)} | how
        print(json.dumps(order), file=self.server.stdin, flush=True)
        return Act(place)

    def run(self, arguments: Sequence[object], cwd: Path, timeout_s: float = 120, **how: Any) -> tuple[int, str]:
        """Runs a command to its end -> exit status, and what it said."""
        act = self.start(arguments, cwd, **how)
        return act.wait(timeout_s), act.said()


def serve() -> None:
    """The server: an order a line, a child for each."""
    for name in HEAVY.split():
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # children share these pages for as long as nobody walks through them
    put(Path(sys.argv[1]) / "loaded", os.getpid())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those who wait for the commands are not waited for
    for line in sys.stdin:
        if os.fork() == 0:
            return wait_for_command(json.loads(line))


def wait_for_command(order: Mapping[str, Any]) -> None:
    """Starts the command in a child and writes down how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    place = Path(order["place"])
    command = os.fork()
    if command == 0:
        return run_command(order, place)
    put(place / "pid", command)
    _, status = os.waitpid(command, 0)
    put(place / "status", os.waitstatus_to_exitcode(status))
    os._exit(0)


def put(path: Path, value: int) -> None:
    temporary = path.with_suffix(".part")
    temporary.write_text(str(value))
    temporary.rename(path)


def run_command(order: Mapping[str, Any], place: Path) -> NoReturn:
    """Becomes the command; never returns."""
    os.setsid()
    said = os.open(place / "said", os.O_WRONLY | os.O_CREAT, 0o666)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, file in ((0, nothing), (1, said), (2, said)):
        os.dup2(file, number)
    sys.stdin = os.fdopen(os.dup(0))  # the server's has orders buffered
    os.chdir(order["cwd"])
    os.environ.update(order.get("env", {}))
    for name, value in order.get("patches", {}).items():
        module, _, attribute = name.partition(":")
        setattr(importlib.import_module(module), attribute, value)
    if "disk" in order:
        folder, number, mode = order["disk"]
        ctypes.CDLL(os.environ["LD_PRELOAD"]).watch(os.fsencode(folder), number, mode)
    if "clock" in order:
        ctypes.CDLL(os.environ["LD_PRELOAD"]).move_clock(order["clock"])
    if "user" in order:
        os.setgroups([])
        os.setgid(order["user"])
        os.setuid(order["user"])
    if "memory" in order:
        import resource

        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + order["memory"],) * 2)
    sys.argv = ["cmal", *order["arguments"]]
    from cmal_cli.app import main

    status = 70  # of an exception that nobody foresaw; its traceback is in what was said
    try:
        main()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    if "disk" in order:
        (place / "writes").write_text(str(ctypes.CDLL(os.environ["LD_PRELOAD"]).writes_seen()))
    sys.stdout.flush()
    os._exit(status)  # without taking hundreds of modules apart, which takes longer than many a command


if __name__ == "__main__":
    serve()
