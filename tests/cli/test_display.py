"""What the terminal shows: plain lines when piped, no colours under NO_COLOR, nothing under --quiet."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from cmal.training.loop import StepReport
from cmal_cli import display
from cmal_cli.app import COMMANDS, main

SHOW = """
from cmal_cli.display import ProgressDisplay, show_table
show_table("anchors", ("kind", "times"), [("dog [red]", 12), ("a" * 90, 3)])
with ProgressDisplay("working", "steps") as progress:
    for done in range(1, 4): progress.update(done, 3, "loss 1.5")
    progress.say("done")
"""


LONG = """
from cmal.training.loop import StepReport
from cmal_cli.display import ProgressDisplay, echo
echo("leakage: training and evaluation images are different by construction")
with ProgressDisplay("train", "steps") as progress:
    progress.step(StepReport(1, 2, {"loss": 1.5}, 1.0, 1e-3, 80.0))
    progress.tick(2, 2)
"""


def on_a_terminal(show: str = SHOW, **variables: str) -> str:
    """What a program writes to a terminal of 80 columns."""
    leader, follower = pty.openpty()
    environment = os.environ | {"COLUMNS": "80", "TERM": "xterm-256color"} | variables
    done = subprocess.Popen([sys.executable, "-c", show], stdout=follower, env=environment, close_fds=True)
    os.close(follower)
    written = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        written += part
    os.close(leader)
    assert done.wait() == 0
    return written.decode()


def test_piped_output_is_plain_lines():
    done = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, check=True)
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    assert lines[:2] == ["anchors", f"kind{' ' * 88}times"]
    assert lines[2].split() == ["dog", "[red]", "12"] and lines[3].split() == ["a" * 90, "3"]
    assert lines[4].startswith("working 3/3 steps 0s elapsed") and lines[4].endswith("loss 1.5")
    assert lines[5] == "done" and "\x1b" not in done.stdout and "─" not in done.stdout


def test_a_terminal_gets_frames_a_bar_and_live_notes():
    shown = on_a_terminal()
    assert "╭" in shown and "━" in shown and "3/3" in shown and "loss 1.5" in shown and "\x1b[3" in shown
    assert "steps/s" in shown


def test_no_color_takes_the_colours():
    shown = on_a_terminal(NO_COLOR="1")
    assert "╭" in shown and not any(f"\x1b[{n}m" in shown for n in (31, 32, 33, 34, 35, 36))


def test_a_run_that_goes_on_counts_what_it_did_itself(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    progress = display.ProgressDisplay("train", "steps", quiet=True)
    progress.update(900, 1000)
    now[0] += 10
    assert progress._pace(950, 1000) == "10s elapsed 5.0 steps/s 10s left"


def test_piped_training_has_a_line_for_reports_only_and_the_last_step_once(capsys):
    report = StepReport(4, 4, {"loss": 1.5, "mlm": 2.25}, grad_norm=1.0, lr=1e-3, examples_per_s=80.0)
    with display.ProgressDisplay("pretrain runs/a", "steps") as progress:
        for step in range(4):
            progress.tick(step, 4)
        progress.step(report)
        progress.tick(4, 4)
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("pretrain runs/a 4/4 steps 0s elapsed")
    assert line.endswith("loss 1.500 mlm 2.250 lr 1.00e-03 80 examples/s")


def test_on_a_terminal_long_lines_break_between_words_and_notes_stay_whole():
    shown = on_a_terminal(show=LONG, COLUMNS="40")
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "").splitlines()
    assert "leakage: training and evaluation images" in lines and "  are different by construction" in lines
    assert any(re.fullmatch(r"loss 1\.500 +lr 1\.00e-03 +80 examples/s *", line) for line in lines), lines
    assert not any("left" in line for line in lines[-3:]), "nothing is left when all is done"


@pytest.mark.parametrize(("rate", "text"), [(12.34, "12.3 steps/s"), (0.25, "4.0 s/step"), (None, "")])
def test_rates(rate, text):
    assert display.rate_text(rate, "steps") == text


def test_quiet_silences_tables_and_lines():
    @click.command()
    @click.option("--quiet", is_flag=True)
    def speak(quiet: bool) -> None:
        display.show_table("title", ("a",), [(1,)])
        display.echo("line")
        with display.ProgressDisplay("work") as progress:
            progress.update(1, 1)

    assert CliRunner().invoke(speak, ["--quiet"]).output == ""
    assert "title" in CliRunner().invoke(speak, []).output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_can_be_quiet_and_ends_its_help_with_two_examples(name):
    shown = CliRunner().invoke(main, [name, "--help"]).output
    assert "--quiet" in shown
    examples = shown.split("Examples:")[1]
    assert examples.count(f"cmal {name} ") == 2


def test_completion_knows_commands_and_options():
    environment = {"_CMAL_COMPLETE": "bash_complete", "COMP_WORDS": "cmal pr", "COMP_CWORD": "1"}
    assert CliRunner().invoke(main, prog_name="cmal", env=environment).output.split() == [
        *("plain,prepare", "plain,pretrain", "plain,probe-anchors"),
    ]
    environment |= {"COMP_WORDS": "cmal pretrain --res", "COMP_CWORD": "2"}
    assert "plain,--resume" in CliRunner().invoke(main, prog_name="cmal", env=environment).output


def test_importing_the_command_takes_less_than_a_quarter_of_a_second():
    """Of processor time, the best of three, the interpreter's own start left out."""
    code = "import time; t = time.process_time(); import cmal_cli.app; print(time.process_time() - t)"
    tries_s = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout) for _ in "123"
    ]
    assert 0 < min(tries_s) < 0.25
