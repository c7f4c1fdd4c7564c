"""Tables and progress: rich on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import click
from rich import box
from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from cmal.errors import printable

if TYPE_CHECKING:
    from cmal.training.loop import StepReport

PLAIN_EVERY_S = 10.0
RATE_OVER_S = 300.0  # a step may take minutes


def console() -> Console:
    """The console that all commands write to. NO_COLOR removes colours; piped lines are never wrapped."""
    plain = Console(highlight=False)
    return plain if plain.is_terminal else Console(highlight=False, width=10_000)


def is_quiet() -> bool:
    """True if the running command has --quiet; False outside a command."""
    context = click.get_current_context(silent=True)
    return bool(context and context.params.get("quiet"))


def echo(text: str) -> None:
    """Prints a line, unless --quiet. A terminal wraps it between words; elsewhere it stays one line."""
    if is_quiet():
        return
    out, text = console(), printable(text)
    if out.is_terminal:
        text = textwrap.fill(
            text, out.width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False, tabsize=1
        )
    click.echo(text)


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints a table with right-aligned numbers, unless --quiet: framed on a terminal, plain columns elsewhere."""
    if is_quiet():
        return
    out = console()
    table = Table(header_style="bold", box=box.ROUNDED)
    if not out.is_terminal:
        table = Table(header_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    cells = [[_text(cell) for cell in row] for row in rows]
    for index, column in enumerate(columns):
        is_number = bool(cells) and all(row[index].strip("%-.,0123456789 ") == "" for row in cells)
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for row in cells:
        table.add_row(*row)
    out.print(Text(printable(title), style="bold"))
    out.print(table)


def _text(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:.4g}"
    from rich.markup import escape

    return escape(f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else printable(str(cell)))


class RateColumn(ProgressColumn):
    """Rate, e.g. "12.3 steps/s", or "4.2 s/step" below one per second."""

    def __init__(self, unit: str):
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(rate_text(task.finished_speed or task.speed, self.unit), style="cyan")


class LeftColumn(TimeRemainingColumn):
    """Remaining time, e.g. "01:07 left"; empty if it is unknown or all is done."""

    def render(self, task: Task) -> Text:
        known = task.total is not None and task.time_remaining is not None and not task.finished
        return super().render(task).append(" left") if known else Text()


def rate_text(rate: float | None, unit: str) -> str:
    """A rate per second as text; "" if it is not known yet."""
    if not rate:
        return ""
    return (
        f"{rate:.1f} {unit}/s".replace(" /", "/")
        if rate >= 1
        else f"{1 / rate:.1f} s/{unit.removesuffix('s') or 'one'}"
    )


class ProgressDisplay:
    """Progress of a command: on a terminal a bar with rate, remaining time and notes; elsewhere a line every 10 s.

    A context manager. `update`, `stage`, `step` and `tick` may be called at any frequency.
    """

    def __init__(self, label: str, unit: str = "", quiet: bool | None = None):
        self.label, self.unit = label, unit
        self.quiet = is_quiet() if quiet is None else quiet
        self.is_terminal = sys.stdout.isatty() and not self.quiet
        self._console = console()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            RateColumn(unit),
            TimeElapsedColumn(),
            LeftColumn(compact=True),
            expand=True,
            speed_estimate_period=RATE_OVER_S,
            console=self._console,
        )
        self._task = self._bar.add_task(label, total=None)
        self._live = Live(self._bar, console=self._console, refresh_per_second=8)
        self._printed_s = time.monotonic()
        self._first: tuple[float, int] | None = None  # time and `done` of the first update
        self._notes: Sequence[str] = ()

    def __enter__(self) -> ProgressDisplay:
        if self.is_terminal:
            self._live.update(Group(self._bar, Text("starting", style="dim")))
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_terminal:
            self._live.stop()

    def update(self, done: int, total: int, *notes: str) -> None:
        """Shows that `done` of `total` are done (0: total unknown), with short notes such as "loss 1.5"."""
        self._move(done, total, notes)
        if (
            not self.is_terminal
            and not self.quiet
            and (time.monotonic() - self._printed_s > PLAIN_EVERY_S or done == total)
        ):
            self._printed_s = time.monotonic()
            parts = (self.label, f"{done}/{total}" if total else str(done), self.unit, self._pace(done, total), *notes)
            print(printable(" ".join(filter(None, parts))), flush=True)

    def _move(self, done: int, total: int, notes: Sequence[str]) -> None:
        """Moves the bar and shows the notes below it; without a terminal, only starts the clock."""
        if self._first is None:
            self._first = (time.monotonic(), done)
        if self.is_terminal:
            self._notes = notes
            self._bar.update(self._task, completed=done, total=total or None)
            below = Columns([Text(note, style="dim") for note in notes], padding=(0, 3))
            self._live.update(Group(self._bar, below) if notes else self._bar)

    def _pace(self, done: int, total: int) -> str:
        """Elapsed time, rate and remaining time since the first update; earlier work of a resumed run is not counted."""
        since, before = self._first or (time.monotonic(), done)
        elapsed = time.monotonic() - since
        known = done > before and elapsed > 0
        rate = rate_text((done - before) / elapsed, self.unit) if known and self.unit else ""
        left = f"{elapsed / (done - before) * (total - done):.0f}s left" if known and total else ""
        return " ".join(filter(None, (f"{elapsed:.0f}s elapsed", rate, left)))

    def say(self, text: str) -> None:
        """Prints a line above the bar."""
        if not self.quiet:
            self._console.print(printable(text), markup=False, soft_wrap=True)

    def stage(self, what: str, done: int, total: int) -> None:
        """Shows that `done` of `total` are done in the stage `what`; each stage has its own rate and remaining time."""
        if what != self.unit:
            self.unit, self._first = what, None
            if self.is_terminal:
                self._bar.reset(self._task, description=f"{self.label}: {what}")
        self.update(done, total)

    def step(self, report: StepReport) -> None:
        """Shows the step, losses, learning rate and speed of a training."""
        names = ("loss", *sorted(n for n in report.losses if n != "loss"))
        notes = [f"{name} {report.losses[name]:.3f}" for name in names if name in report.losses]
        notes += [f"lr {report.lr:.2e}", f"{report.examples_per_s:.0f} examples/s"]
        notes += [f"skipped {report.skipped}"] if report.skipped else []
        self.update(report.step, report.steps, *notes)

    def tick(self, done: int, total: int) -> None:
        """Moves the bar between two reports of a training. The losses stay; nothing is printed without a terminal."""
        self._move(done, total, self._notes)
