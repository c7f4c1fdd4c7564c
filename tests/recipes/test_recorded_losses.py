"""The commands on the toy world give the losses they gave before: see tests/assets/README.md.

Dropout is off, so that the numbers depend on the mathematics, the start and the draws alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cmal.model.pretraining import OBJECTIVES
from cmal.runs.folder import read_metrics

RECORDED = Path(__file__).resolve().parents[1] / "assets" / "recorded_losses.json"
TOLERANCE = 2e-3  # relative; libraries round differently
TASKS = ("scenes-vqa", "scenes-ve", "scenes-rec", "scenes-retrieval", "nlvr2")


def losses_of(run: Path) -> list[dict[str, float]]:
    """Losses by name of every reported step, accuracies left out: they jump where two candidates are as likely."""
    rows = [row["losses"] for row in read_metrics(run / "metrics.jsonl") if "losses" in row]
    return [{name: row[name] for name in ("loss", *OBJECTIVES) if name in row} for row in rows]


@pytest.fixture
def recorded(request: pytest.FixtureRequest):
    """Compares with what is recorded under a name, or records it, with --record."""

    def compare(name: str, found: Any) -> None:
        known = json.loads(RECORDED.read_text()) if RECORDED.is_file() else {}
        if request.config.getoption("--record"):
            known[name] = json.loads(json.dumps(found), parse_float=lambda text: float(f"{float(text):.6g}"))
            RECORDED.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n")
            return
        assert name in known, "nothing is recorded: python -m pytest tests/recipes --record"
        assert len(found) == len(known[name])
        for step, (now, before) in enumerate(zip(found, known[name]), start=1):
            assert now == pytest.approx(before, rel=TOLERANCE, abs=1e-4), f"{name}, report {step}"

    return compare


def train(cmal, command: str, recipe: str, *changed: str) -> None:
    sets = [word for change in changed for word in ("--set", change)]
    result = cmal(command, recipe, "--quiet", "--fresh", "--device", "cpu", *sets)
    assert result.exit_code == 0, result.output
    assert result.output == "", "quiet is quiet"


@pytest.fixture(scope="session")
def pretrained() -> list[bool]:
    """Whether runs/toy is there already."""
    return []


@pytest.fixture
def with_pretraining(cmal, pretrained):
    if not pretrained:
        train(cmal, "pretrain", "pretrain.yaml")
        pretrained.append(True)
    return cmal


def test_pretraining_with_all_objectives(with_pretraining, toy_world, recorded):
    losses = losses_of(toy_world / "runs/toy")
    assert len(losses) == 3 and all({"loss", *OBJECTIVES} == row.keys() for row in losses)
    recorded("pretrain", losses)


def test_pretraining_with_candidates_of_the_example(cmal, toy_world, recorded):
    changed = ("objectives.candidates=example", "objectives.itc=0", "fill.swap=0.5", "fill.mask=0.5", "fill.keep=0")
    train(cmal, "pretrain", "pretrain.yaml", "out=runs/example", *changed)
    losses = losses_of(toy_world / "runs/example")
    assert all("itc" not in row for row in losses)
    recorded("pretrain, candidates: example", losses)


@pytest.mark.parametrize("task", TASKS)
def test_finetuning_and_scoring(with_pretraining, toy_world, recorded, tmp_path, task):
    cmal, kind = with_pretraining, task.removeprefix("scenes-")
    train(cmal, "finetune", "finetune.yaml", f"task={task}", f"out=runs/{task}", f"data.root=data/toy-{kind}")
    losses = losses_of(toy_world / "runs" / task)
    assert len(losses) == 3
    result = cmal("eval", task, "--split", "val", "--device", "cpu", "--json", tmp_path / "score.json", "--quiet")
    assert result.exit_code == 0, result.output
    score = json.loads((tmp_path / "score.json").read_text())
    assert score["task"] == task and score["split"] == "val"
    recorded(task, losses)


def test_training_learns(cmal, toy_world):
    """Sixty steps on sixteen images: long enough for these four; matching and region classes take hundreds."""
    train(cmal, "pretrain", "pretrain.yaml", "out=runs/long", "train.steps=60", "train.save_every=60")
    losses = losses_of(toy_world / "runs/long")
    last = {name: sum(row[name] for row in losses[-10:]) / 10 for name in losses[0]}
    assert [name for name in ("loss", "mlm", "mrm_feature", "amc") if last[name] > 0.8 * losses[0][name]] == []
