"""The command as a whole: help, exit status, the three lines of an error, and that the README tells the truth."""

from __future__ import annotations

import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cmal.errors import CmalError
from cmal_cli.app import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SIX = ("prepare", "extract-regions", "pretrain", "finetune", "eval", "probe-anchors")


def command(name: str) -> click.Command:
    return main.get_command(click.Context(main), name)


def run(*arguments: str):
    return CliRunner().invoke(main, list(arguments))


def test_there_are_six_commands_in_their_usual_order():
    assert tuple(COMMANDS) == SIX
    listed = re.findall(r"^  ([a-z-]+) {2,}\S", run("--help").output.split("Commands:")[1], re.MULTILINE)
    assert tuple(listed) == SIX


@pytest.mark.parametrize("name", SIX)
def test_each_command_explains_itself_with_a_line_one_can_run(name):
    result = run(name, "--help")
    assert result.exit_code == 0
    assert f"cmal {name} " in result.output, "an example"
    undocumented = [p.name for p in command(name).params if isinstance(p, click.Option) and not p.help]
    assert undocumented == []


def test_help_answers_in_less_than_four_tenths_of_a_second():
    """Of processor time, the best of three: what the machine does beside this does not count."""
    code = "import sys; sys.argv = ['cmal', '--help']; from cmal_cli.app import main; main()"
    tries_s = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        tries_s.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert done.returncode == 0 and "prepare" in done.stdout
    assert 0 < min(tries_s) < 0.4


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-such-command",),
        ("pretrain",),
        ("pretrain", "no/such/recipe.yaml"),
        ("eval", "refcoco"),
        ("prepare", "scenes", "--no-such-option"),
        ("extract-regions", "images"),
    ],
)
def test_wrong_usage_is_status_two_and_no_traceback(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.output and "Traceback" not in result.output


def test_no_command_at_all_shows_the_help():
    assert "Commands:" in run().output


def failing(error: BaseException) -> click.Command:
    @click.command("eval")
    def fail() -> None:
        raise error

    return fail


def test_an_error_is_three_lines_on_stderr_and_status_one(monkeypatch):
    error = CmalError("cannot do it (train.jsonl, line 3)", "found 7", "do that: cmal prepare scenes")
    monkeypatch.setattr(type(main), "get_command", lambda self, ctx, name: failing(error))
    result = run("eval")
    assert result.exit_code == 1 and result.stdout == ""
    assert result.stderr.splitlines() == [
        "Error: cannot do it (train.jsonl, line 3)",
        "  found 7",
        "  do that: cmal prepare scenes",
    ]


def test_debug_shows_where_an_error_came_from(monkeypatch):
    error = CmalError("what", "found", "hint")
    monkeypatch.setattr(type(main), "get_command", lambda self, ctx, name: failing(error))
    assert run("--debug", "eval").exception is error


def test_a_bug_is_not_dressed_up_as_a_users_error(monkeypatch):
    monkeypatch.setattr(type(main), "get_command", lambda self, ctx, name: failing(ZeroDivisionError("bug")))
    assert isinstance(run("eval").exception, ZeroDivisionError)


@pytest.mark.parametrize(("name", "then"), [("pretrain", "from its last checkpoint"), ("eval", "starts over")])
def test_an_interrupt_says_what_the_same_command_would_do(monkeypatch, name, then):
    monkeypatch.setattr(type(main), "get_command", lambda self, ctx, name: failing(KeyboardInterrupt()))
    result = run(name)
    assert result.exit_code == 130 and "Run the same command again" in result.stderr and then in result.stderr


def test_a_misspelt_command_is_guessed():
    assert "Did you mean 'pretrain'?" in run("pretrian").stderr
    assert "Did you mean" not in run("xyz").stderr


def test_the_help_fits_a_terminal_of_80_columns():
    lines = run("--help").output.splitlines()
    assert max(map(len, lines)) <= 80 and not any(line.endswith("...") for line in lines[1:]), "nothing is cut"
    assert '    eval "$(_CMAL_COMPLETE=bash_source cmal)"' in lines, "it can be pasted"


def test_faults_of_a_recipe_come_all_at_once(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("out: runs/a\nmodle:\n  width: 8\ntrain:\n  steps: none\n")
    result = run("pretrain", str(recipe), "--set", "fill.swop=1")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[0] == f"Error: cannot use the recipe {recipe}"
    for line in ('line 2: unknown key "modle"', 'did you mean "model"?', 'line 5: "train.steps"', '"fill.swop"'):
        assert line in result.stderr


# the README and the scripts


def lines_with_commands(text: str) -> list[str]:
    """Every `cmal ...` line of code blocks and scripts, joined where it goes on with a backslash."""
    joined = re.sub(r"\\\n\s*", "", text)
    found = re.findall(r"^\s*(?:\$ )?(cmal [a-z-]+ .*|cmal [a-z-]+)$", joined, re.MULTILINE)
    return [line.split("  #")[0].strip() for line in found]


def all_documented_lines() -> list[tuple[str, str]]:
    scripts = sorted((ROOT / "recipes").rglob("*.sh")) + sorted((ROOT / "recipes").rglob("*.md"))
    pages = [ROOT / "README.md", *(ROOT / "cmal").rglob("README.md")]
    texts = [(str(p.relative_to(ROOT)), p.read_text(encoding="utf-8")) for p in [*pages, *scripts]]
    recipes = sorted((ROOT / "recipes").rglob("*.yaml"))
    texts += [(str(p.relative_to(ROOT)), re.sub(r"^#\s*", "", p.read_text(), flags=re.MULTILINE)) for p in recipes]
    return [(name, line) for name, text in texts for line in lines_with_commands(text)]


def test_the_readme_mentions_every_command_and_begins_with_the_two_scripts():
    missing = [name for name in SIX if not re.search(rf"\bcmal {name}\b", README)]
    assert missing == []
    first = re.search(r"```\n(.*?)```", README, re.DOTALL)[1].splitlines()
    commands = [line.split("#")[0].strip() for line in first]
    assert commands == ["pip install .", "bash recipes/quickstart.sh", "bash tests/run.sh"]


@pytest.mark.parametrize(("where", "line"), all_documented_lines())
def test_every_documented_command_and_option_exists(where, line):
    words = shlex.split(line)
    assert words[1] in COMMANDS, f"{where}: {line}"
    known = {option for parameter in command(words[1]).params for option in parameter.opts + parameter.secondary_opts}
    used = {word.split("=")[0] for word in words[2:] if word.startswith("--")}
    assert used <= known, f"{where}: {line}"


def test_files_that_the_readme_names_are_there():
    named = set(re.findall(r"`((?:cmal|cmal_cli|recipes|tests)/[\w./-]+)`", README))
    named |= set(re.findall(r"\b(recipes/[\w/-]+\.(?:yaml|sh))", README))
    linked = {link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link}
    named |= linked - {""}
    missing = sorted(name for name in named if not (ROOT / name).exists())
    assert named and missing == []
