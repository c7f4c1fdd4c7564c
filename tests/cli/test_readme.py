"""The README's how-to sections are run as they stand: own data by its commands, Python by its lines."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from cmal_cli.app import main

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUICK = ["--set", "train.steps=1", "--set", "train.batch_size=8", "--set", "train.group_size=8", "--device", "cpu"]


def block_of(section: str, language: str = "") -> str:
    """The first code block of a section."""
    text = README.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)[1]


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


def test_own_data_in_ten_lines(here):
    lines = re.sub(r"\\\n\s*", "", block_of("Your own data")).strip().splitlines()
    assert len(lines) <= 10
    for line in lines:
        arguments = shlex.split(line)[1:]
        result = CliRunner().invoke(main, arguments + (QUICK if arguments[0] == "pretrain" else []))
        assert result.exit_code == 0, f"{line}\n{result.output}"
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
