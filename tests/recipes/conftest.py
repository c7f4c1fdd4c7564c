"""Commands run in the toy world."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def cmal(command_in: Callable[..., Any], toy_world: Path) -> Callable[..., Any]:
    """Runs a command in the toy world: `cmal("pretrain", "pretrain.yaml")`."""
    return command_in(toy_world)


def changes(values: Sequence[str]) -> list[str]:
    """--set KEY=VALUE of each."""
    return [word for value in values for word in ("--set", value)]
