"""What a command must say when something was done to it."""

from __future__ import annotations


def message_of(said: str) -> str:
    """The three lines of the error in what a command said.

    Raises:
        AssertionError: there is none, there is more than one, or a traceback.
    """
    assert "Traceback" not in said, said
    lines = said.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("Error: ")]
    assert len(starts) == 1, said or "it said nothing"
    message = lines[starts[0] :]
    assert len(message) == 3 and all(line.startswith("  ") for line in message[1:]), said
    return "\n".join(message)
