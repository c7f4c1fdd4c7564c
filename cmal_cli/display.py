"""rich tables and progress: a bar with rate and ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

PLAIN_EVERY_S = 10.0


def console() -> Console:
    """The console all commands write to; NO_COLOR and pipes are respected by rich."""
    return Console(highlight=False)


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table; numbers are right-aligned."""
    table = Table(title=title, title_justify="left", title_style="bold")
    rows = [[_text(cell) for cell in row] for row in rows]
    for place, column in enumerate(columns):
        is_number = bool(rows) and all(row[place].strip("%-.,0123456789 ") == "" for row in rows)
        table.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console().print(table)


def _text(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:.4g}"
    from rich.markup import escape

    return escape(f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else str(cell))


class ProgressDisplay:
    """One line of progress: a rich bar on a terminal; elsewhere a line every ten seconds and at the end.

    Use as a context manager; `update(done, total, note)` as often as wanted.
    """

    def __init__(self, label: str, unit: str = "", quiet: bool = False):
        self.label, self.unit, self.quiet = label, unit, quiet
        self.is_terminal = sys.stdout.isatty() and not quiet
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", style="dim"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console(),
            disable=not self.is_terminal,
        )
        self._task = self._bar.add_task(label, total=None, note="")
        self._started = self._told = time.monotonic()

    def __enter__(self) -> ProgressDisplay:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, done: int, total: int, note: str = "") -> None:
        """Shows that `done` of `total` are done."""
        if self.is_terminal:
            self._bar.update(self._task, completed=done, total=total, note=note)
        elif not self.quiet and (time.monotonic() - self._told > PLAIN_EVERY_S or done == total):
            self._told = time.monotonic()
            elapsed = self._told - self._started
            left = elapsed / max(1, done) * (total - done)
            print(
                f"{self.label} {done}/{total} {self.unit} {elapsed:.0f}s elapsed {left:.0f}s left {note}".strip(),
                flush=True,
            )

    def say(self, text: str) -> None:
        """A line above the bar."""
        if not self.quiet:
            self._bar.console.print(text, markup=False)


class StagesDisplay(ProgressDisplay):
    """Progress of work in several stages, one after the other, each with its own rate and ETA."""

    def stage(self, what: str, done: int, total: int) -> None:
        """Shows that `done` of `total` are done of the stage `what`."""
        if what != self.unit:
            self.unit, self._started = what, time.monotonic()
            if self.is_terminal:
                self._bar.reset(self._task, description=f"{self.label}: {what}")
        self.update(done, total)


class TrainingDisplay(ProgressDisplay):
    """Progress of a training: steps, losses and rate."""

    def step(self, report: object) -> None:
        """Shows one StepReport."""
        names = ("loss", *sorted(n for n in report.losses if n != "loss"))
        losses = " ".join(f"{name} {report.losses[name]:.3f}" for name in names if name in report.losses)
        skipped = f" skipped {report.skipped}" if report.skipped else ""
        note = f"{losses} lr {report.lr:.2e} {report.examples_per_s:.0f} examples/s{skipped}"
        self.update(report.step, report.steps, note)


def show_parameters(counts: Mapping[str, int]) -> None:
    """Parameters by part."""
    show_table("parameters", ("part", "parameters"), list(counts.items()))
