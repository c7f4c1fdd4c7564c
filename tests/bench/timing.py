"""What the benchmarks of training and retrieval share: a stopwatch, who measured, and where the figures go."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch


def seconds_of(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def machine() -> dict[str, str]:
    """Processor, threads, date and torch's version."""
    processor = platform.processor() or platform.machine()
    return {
        "machine": f"{processor}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "date": time.strftime("%Y-%m-%d"),
        "torch": torch.__version__,
    }


def options_of(description: str | None, repeats: int) -> argparse.ArgumentParser:
    """A parser with --json FILE and --repeats N."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=repeats)
    return parser


def write_figures(figures: dict[str, object], file: Path | None) -> None:
    """Prints the figures as JSON and writes them where they are wanted."""
    text = json.dumps(figures, indent=2)
    print(text)
    if file:
        file.write_text(text + "\n")
