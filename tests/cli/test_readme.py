"""The README's blocks are run as they stand, or say that they need downloads; no block is without one of the two.

A comment above each block says which: `<!-- tried by FILE::TEST -->`, `<!-- needs downloads -->`, or both.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cmal_cli.app import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICK = [
    "--set",
    "train.steps=1",
    "--set",
    "train.batch_size=8",
    "--set",
    "train.micro_batch_size=8",
    "--device",
    "cpu",
]


PROGRAMS = ("cmal", "bash", "sbatch", "GPUS=8")


def block_of(section: str, language: str = "") -> str:
    """The first code block of a section."""
    return re.search(rf"```{language}\n(.*?)```", section_text(section), re.DOTALL)[1]


def section_text(section: str) -> str:
    return README.split(f"\n## {section}\n")[1].split("\n## ")[0]


def lines_of(section: str) -> list[list[str]]:
    """Words of each command of a section's first block, without the word cmal."""
    joined = re.sub(r"\\\n\s*", "", block_of(section)).strip().splitlines()
    return [shlex.split(line, comments=True)[1:] for line in joined]


def blocks() -> list[tuple[str, str, str]]:
    """(section, the line above, inside) of every code block."""
    found, section, lines = [], "", README.splitlines()
    fences = [number for number, line in enumerate(lines) if line.startswith("```")]
    for start, stop in zip(fences[::2], fences[1::2], strict=True):
        section = next(line[3:] for line in reversed(lines[:start]) if line.startswith("## "))
        found.append((section, lines[start - 1], "\n".join(lines[start + 1 : stop])))
    return found


@pytest.mark.parametrize(("section", "mark", "inside"), blocks(), ids=lambda value: value.split("\n")[0][:40])
def test_each_block_is_tried_by_a_test_or_needs_downloads(section, mark, inside):
    assert re.fullmatch(r"<!-- (tried by|needs downloads).* -->", mark), (
        f"the block below {mark!r} says nothing of itself"
    )
    tests = re.findall(r"(tests/[\w/]+\.py)::(\w+)", mark)
    for file, name in tests:
        assert f"def {name}(" in (ROOT / file).read_text(), f"there is no {file}::{name}"
    if not tests:
        assert "needs downloads" in mark
    if "download" in mark:
        assert "download" in re.sub(r"<!--.*?-->", "", section_text(section)).lower(), "a reader is told so too"
    if "from cmal" not in inside:
        joined = re.sub(r"\\\n\s*", "", inside).splitlines()
        assert all(line.split()[0] in PROGRAMS for line in joined if line.strip()), joined


def test_commands_within_the_text_are_such_as_the_program_takes():
    spans = [span for span in re.findall(r"`([^`\n]+)`", README) if span.startswith("cmal ")]
    assert spans
    for span in spans:
        name, *rest = [*shlex.split(span)[1:], "--help"]
        if name != "COMMAND":
            command = main.get_command(click.Context(main), name)
            known = {"--help", *(option for parameter in command.params for option in parameter.opts)}
            assert {word.split("=")[0] for word in rest if word.startswith("--")} <= known, span


@pytest.fixture
def here(tiny_world, tmp_path, monkeypatch) -> Path:
    """A folder with photos and captions as the README supposes, and the checkout's recipes."""
    (tmp_path / "photos").mkdir()
    rows = []
    for number, line in enumerate((tiny_world / "data/scenes/test.jsonl").read_text().splitlines()[::2]):
        caption, image = (re.search(rf'"{key}": "([^"]*)"', line)[1] for key in ("caption", "image_id"))
        source = tiny_world / "data/scenes/images" / f"{image.removeprefix('scenes:')}.jpg"
        shutil.copy(source, tmp_path / "photos" / f"{number}.jpg")
        rows.append(f'{number}.jpg,"{caption}"')
    (tmp_path / "captions.csv").write_text("image,caption\n" + "\n".join(rows) + "\n")
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(arguments: list[str]) -> None:
    """One line of the README, with fewer steps or images where there are any."""
    more = {"pretrain": QUICK, "finetune": QUICK, "prepare": ["--images", "12"] if "scenes" in arguments else []}
    result = CliRunner().invoke(main, arguments + more.get(arguments[0], []))
    assert result.exit_code == 0, f"{arguments}\n{result.output}"


def test_the_six_commands(tmp_path, monkeypatch):
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    lines = lines_of("The commands")
    assert [arguments[0] for arguments in lines] == list(COMMANDS)
    for arguments in lines:
        run(arguments)


def test_what_one_does_with_a_store(here):
    """The lines of the block on regions that need no download, on a store made of the same photographs."""
    run(["extract-regions", "photos", "--out", "regions"])
    tried = [line for line in lines_of("Regions") if {"--inspect", "--verify", "--merge"} & set(line)]
    assert len(tried) == 3
    for arguments in tried:
        run(arguments)
    assert Path("regions.h5").is_file() and list(Path("regions-preview").iterdir())


def test_own_data_in_ten_lines(here):
    lines = lines_of("Your own data")
    assert len(lines) <= 10
    for arguments in lines:
        run(arguments)
    for name in ("anchors.html", "anchors.json", "runs/mine/report.html", "runs/mine/last/model.safetensors"):
        assert (here / name).is_file(), name
    assert "data:image/jpeg" in (here / "anchors.html").read_text()


def test_python_use(tiny_world, monkeypatch, capsys):
    monkeypatch.chdir(tiny_world)
    code = block_of("In Python", "python").replace('"runs/scenes"', '"runs/tiny"')
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 6
    exec(compile(code, "README.md", "exec"), {})
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("torch.Size([5, 32]) torch.Size([")
    assert 0 < float(shown[1]) < 1 and shown[2].startswith("Found(probability=")


def test_the_scripts_it_names_are_tested_by_their_dry_runs():
    named = set(re.findall(r"recipes/(reproduce_\w+\.sh)", README))
    assert named == {path.name for path in (ROOT / "recipes").glob("reproduce_*.sh")}
