"""`cmal probe-anchors` from the terminal."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from cmal_cli.app import main


@pytest.fixture
def run(tiny_world):
    scenes = tiny_world / "data" / "scenes"

    def call(*more: object, records: object = scenes / "test.jsonl") -> Result:
        arguments = ["--records", records, "--regions", scenes / "regions", "--device", "cpu", *more]
        return CliRunner().invoke(main, ["probe-anchors", *map(str, arguments)])

    return call


def test_tables_json_and_page(run, tiny_world, tmp_path):
    files = ("--json", tmp_path / "a.json", "--html", tmp_path / "a.html", "--examples", 5)
    result = run("--checkpoint", tiny_world / "runs" / "tiny", *files)
    assert result.exit_code == 0, result.output
    for words in ("pairs with an anchor", "against gold anchors of 20 pairs", "missed: the", "partner in sight"):
        assert words in " ".join(result.output.split()), result.output
    assert "page of 5 pairs and" in result.output
    measured = json.loads((tmp_path / "a.json").read_text())
    assert all(0 <= measured[key] <= 1 for key in ("coverage", "precision", "recall", "association_t2v"))
    assert (tmp_path / "a.html").read_text().startswith("<!DOCTYPE html>")


def test_quiet_is_quiet(run):
    result = run("--quiet")
    assert (result.exit_code, result.output) == (0, "")


def test_missing_records_are_three_lines(run, tmp_path):
    result = run(records=tmp_path / "none.jsonl")
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        f"Error: cannot read records {tmp_path}/none.jsonl",
        "  there is no such file",
        "  make it first: cmal prepare DATASET",
    ]


def test_a_checkpoint_that_is_none(run, tmp_path):
    result = run("--checkpoint", tmp_path)
    assert result.exit_code == 1 and f"cannot load a checkpoint from {tmp_path}" in result.output
