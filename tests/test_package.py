"""What `pip install .` installs: the built wheel has licences, type markers, word lists, weights and templates."""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from pathlib import Path

import pytest

import cmal

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("cmal", "cmal_cli")
pytestmark = pytest.mark.xdist_group("wheel")  # built once, in one test process


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of a copy of this checkout: setuptools writes beside the sources that it builds."""
    source = tmp_path_factory.mktemp("source")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    out = source / "wheels"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet"]
    done = subprocess.run(
        [*pip, "--no-deps", "--no-build-isolation", "--no-index", str(source), "-w", str(out)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    [built] = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def names(wheel) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.fixture(scope="module")
def metadata(wheel) -> Message:
    [name] = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".dist-info/METADATA")]
    return email.message_from_bytes(zipfile.ZipFile(wheel).read(name))


def test_licence_and_notice_are_in_the_wheel(wheel, names):
    for name in ("LICENSE", "NOTICE"):
        inside = f"cmal-{cmal.__version__}.dist-info/licenses/{name}"
        assert inside in names and zipfile.ZipFile(wheel).read(inside) == (ROOT / name).read_bytes()


def test_every_file_of_the_packages_is_in_the_wheel(names):
    files = [path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file()]
    kept = {str(path.relative_to(ROOT)) for path in files if path.suffix not in {".md", ".pyc"}}
    assert sorted(kept - names) == []
    named = {"cmal/py.typed", "cmal_cli/py.typed", "cmal/anchors/thesaurus.txt", "cmal/data/vqa_normalisation.json"}
    named |= {"cmal/scenes/detector.safetensors", "cmal/regions/detectors/vg_objects.txt"}
    assert named <= kept
    assert any(name.startswith("cmal/reports/") and name.endswith(".html") for name in kept), "no page template"


def test_the_wheel_has_no_tests_and_no_recipes(names):
    assert {name.split("/")[0] for name in names} == {*PACKAGES, f"cmal-{cmal.__version__}.dist-info"}


def test_metadata_names_the_licence_the_paper_and_the_readme(metadata):
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE", "NOTICE"]
    assert "Paper, https://arxiv.org/abs/2410.12595" in metadata.get_all("Project-URL")
    assert metadata.get_payload().startswith("# CMAL")


def test_one_version_everywhere(wheel, metadata, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}

    def printed(code: str) -> str:
        command = [sys.executable, "-c", code, "--version"]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True).stdout.strip()

    installed = printed("import cmal; print(cmal.__version__, cmal.__file__)").split()
    assert installed == [cmal.__version__, str(tmp_path / "cmal/__init__.py")]
    assert printed("from cmal_cli.app import command_line; command_line()") == f"cmal, version {cmal.__version__}"
    assert metadata["Version"] == cmal.__version__
    assert f"\nversion: {cmal.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## {cmal.__version__}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
