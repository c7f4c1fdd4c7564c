"""The code blocks of the README and of all pages that can be reached from it are run as they stand, or need downloads.

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
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
RESULTS = "recipes/results/"  # pages of measurements: no commands; the paths in them are those of their day
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


PROGRAMS = ("cmal", "bash", "sbatch", "GPUS=8", "pip", "python", "git")


def reachable_pages(start: str) -> dict[str, str]:
    """name -> text of a page and of every Markdown file in the checkout that its links lead to."""
    found, waiting = {}, [start]
    while waiting:
        name = waiting.pop()
        if name not in found and not name.startswith(RESULTS):
            found[name] = (ROOT / name).read_text(encoding="utf-8")
            linked = [link for link in LINK.findall(found[name]) if link.endswith(".md") and "://" not in link]
            waiting += [str(((ROOT / name).parent / link).resolve().relative_to(ROOT)) for link in linked]
    return dict(sorted(found.items()))


PAGES = reachable_pages("README.md")


def block_of(page: str, start: str) -> str:
    """The inside of a page's code block that begins with `start`."""
    return next(inside for name, _, inside in blocks() if name == page and inside.startswith(start))


def commands_of(page: str, start: str) -> list[list[str]]:
    """The commands of such a block as lists of words, without the first word."""
    joined = re.sub(r"\\\n\s*", "", block_of(page, start)).strip().splitlines()
    return [shlex.split(line, comments=True)[1:] for line in joined]


def blocks() -> list[tuple[str, str, str]]:
    """(page, the line above, inside) of every code block of every page."""
    found = []
    for page, text in PAGES.items():
        lines = text.splitlines()
        fences = [number for number, line in enumerate(lines) if line.startswith("```")]
        for start, stop in zip(fences[::2], fences[1::2], strict=True):
            found.append((page, lines[start - 1], "\n".join(lines[start + 1 : stop])))
    return found


def test_every_readme_can_be_reached_from_the_front_page():
    listed = {
        str(path.relative_to(ROOT)) for top in ("cmal", "recipes", "tests") for path in (ROOT / top).rglob("*.md")
    }
    assert {name for name in listed if not name.startswith(RESULTS)} <= PAGES.keys()


@pytest.mark.parametrize("page", PAGES)
def test_every_path_in_the_text_exists(page):
    text = re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL)
    spans = {span.split("::")[0] for span in re.findall(r"`((?:cmal|cmal_cli|tests|recipes)/[\w./-]+)", text)}
    assert [span for span in sorted(spans) if not (ROOT / span).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_heading_that_is_linked_exists(page):
    for name, heading in re.findall(r"\]\(([^)#:]*)#([\w-]+)\)", PAGES[page]):
        target = str(((ROOT / page).parent / name).resolve().relative_to(ROOT)) if name else page
        headings = {re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-")
                    for line in PAGES[target].splitlines() if line.startswith("#")}  # fmt: skip
        assert heading in headings, f"{page}: {name}#{heading}"


def test_the_front_page_is_short():
    assert len(README.splitlines()) <= 150 and len(README.split()) <= 1800


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file(page):
    links = {link for link in LINK.findall(PAGES[page]) if "://" not in link}
    assert [link for link in sorted(links) if not ((ROOT / page).parent / link).exists()] == []


@pytest.mark.parametrize(("page", "mark", "inside"), blocks(), ids=lambda value: value.split("\n")[0][:40])
def test_each_block_is_tried_by_a_test_or_needs_downloads(page, mark, inside):
    assert re.fullmatch(r"<!-- (tried by|needs downloads).* -->", mark), f"{page}: {mark!r} stands above a block"
    tests = re.findall(r"(tests/[\w/]+\.py)::(\w+)", mark)
    for file, name in tests:
        assert f"def {name}(" in (ROOT / file).read_text(), f"there is no {file}::{name}"
    if not tests:
        assert "needs downloads" in mark
    if "download" in mark:
        assert "download" in re.sub(r"<!--.*?-->", "", PAGES[page]).lower(), "a reader is told so too"
    if not inside.startswith("import cmal"):
        joined = re.sub(r"\\\n\s*", "", inside).splitlines()
        assert all(line.split()[0] in PROGRAMS for line in joined if line.strip()), joined


@pytest.mark.parametrize("page", PAGES)
def test_commands_within_the_text_are_such_as_the_program_takes(page):
    for span in [span for span in re.findall(r"`([^`\n]+)`", PAGES[page]) if span.startswith("cmal ")]:
        name, *rest = [*shlex.split(span)[1:], "--help"]
        if name != "COMMAND":
            command = main.get_command(click.Context(main), name)
            known = {"--help", *(option for parameter in command.params for option in parameter.opts)}
            assert {word.split("=")[0] for word in rest if word.startswith("--")} <= known, span


@pytest.fixture
def here(tiny_world, tmp_path, monkeypatch) -> Path:
    """The working folder that the README assumes: photos, captions.csv, and the checkout's recipes."""
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
    """Runs one line of the README with fewer steps and images, and with the detector for the drawn pictures."""
    more = {"pretrain": QUICK, "finetune": QUICK, "prepare": ["--images", "12"] if "scenes" in arguments else []}
    if arguments[:2] == ["extract-regions", "photos"] and "--inspect" not in arguments:
        more["extract-regions"] = ["--detector", "scenes"]
    result = CliRunner().invoke(main, arguments + more.get(arguments[0], []))
    assert result.exit_code == 0, f"{arguments}\n{result.output}"


def test_the_six_commands(tmp_path, monkeypatch):
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    lines = commands_of("README.md", "cmal prepare scenes")
    assert [arguments[0] for arguments in lines] == list(COMMANDS)
    for arguments in lines:
        run(arguments)


def test_what_one_does_with_a_store(here):
    """The lines on regions that need no download, run on a store of the same photographs."""
    run(["extract-regions", "photos", "--out", "regions"])
    tried = [
        line
        for line in commands_of("cmal/regions/README.md", "cmal extract-regions")
        if {"--inspect", "--verify", "--merge"} & set(line)
    ]
    assert len(tried) == 3
    for arguments in tried:
        run(arguments)
    assert Path("regions.h5").is_file() and list(Path("regions-preview").iterdir())


def test_own_photographs(here):
    lines = commands_of("README.md", "cmal prepare pairs")
    assert len(lines) <= 10
    for arguments in lines:
        run(arguments)
    for name in ("anchors.html", "anchors.json", "runs/mine/report.html", "runs/mine/last/model.safetensors"):
        assert (here / name).is_file(), name
    assert "data:image/jpeg" in (here / "anchors.html").read_text()


def test_python_use(tiny_world, monkeypatch, capsys):
    monkeypatch.chdir(tiny_world)
    code = block_of("README.md", "import cmal").replace('"runs/scenes"', '"runs/tiny"')
    assert sum(bool(line.strip()) for line in code.splitlines()) <= 6
    exec(compile(code, "README.md", "exec"), {})
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("torch.Size([5, 32]) torch.Size([")
    assert 0 < float(shown[1]) < 1 and shown[2].startswith("Found(probability=")


def test_the_reproduction_scripts_are_named_on_their_page():
    named = set(re.findall(r"recipes/(reproduce_\w+\.sh)", PAGES["recipes/README.md"]))
    assert named == {path.name for path in (ROOT / "recipes").glob("reproduce_*.sh")}


def test_the_benchmarks_in_the_table_exist():
    names = re.findall(r"^\| `(\w+)` \|", PAGES["tests/bench/README.md"], re.MULTILINE)
    assert names and all((ROOT / "tests/bench" / f"{name}.py").is_file() for name in names)


def test_the_development_commands_exist(pytestconfig):
    inside = block_of("CONTRIBUTING.md", "bash tests/run.sh") + block_of("tests/assets/README.md", "python -m pytest")
    paths = re.findall(r"\btests/[\w/.]+", inside)
    assert paths and all((ROOT / path).exists() for path in paths)
    options = set(re.findall(r"(?<=\s)--\w+", inside))
    assert options == {"--slow", "--record"}
    for option in options:
        pytestconfig.getoption(option)  # raises ValueError where there is none
