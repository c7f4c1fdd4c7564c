"""A run folder explains itself, and the same command resumes exactly where a run was stopped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cmal.runs.folder import read_metrics
from cmal.runs.recipe import PretrainRecipe, load_recipe

DROPOUT = "model.dropout=0.2"  # so that random numbers matter


@pytest.fixture
def pretrain(cmal, toy_world, tmp_path):
    """Runs `cmal pretrain` into a folder of this test's own."""

    def run(*words: str, out: str = "run", sets: tuple[str, ...] = ()):
        changed = (f"out={tmp_path / out}", DROPOUT, "train.save_every=1", "train.keep_checkpoints=9", *sets)
        more = [word for change in changed for word in ("--set", change)]
        return cmal("pretrain", "pretrain.yaml", "--device", "cpu", *more, *words), tmp_path / out

    return run


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "last" / "model.safetensors")


def losses(run: Path) -> list[tuple[int, dict]]:
    return [(row["step"], row["losses"]) for row in read_metrics(run / "metrics.jsonl") if "losses" in row]


def test_a_run_folder_explains_itself(pretrain, toy_world):
    result, run = pretrain()
    assert result.exit_code == 0, result.output
    assert "done: 3 steps" in result.output
    recipe = load_recipe(PretrainRecipe, run / "recipe.yaml")
    assert recipe.model.dropout == 0.2 and recipe.out == str(run), "as it was resolved"
    reported = json.loads((run / "environment.json").read_text())
    assert (
        torch.__version__.startswith(reported["packages"]["torch"]) and {"git", "machine", "python"} <= reported.keys()
    )
    assert [step for step, _ in losses(run)] == [1, 2, 3]
    assert (run / "last").resolve().name == "step-00000003"
    for name in ("model.safetensors", "config.json", "vocab.txt"):
        assert (run / "last" / name).is_file(), "a checkpoint can be used alone"


def test_a_stopped_run_ends_with_bitwise_the_weights_of_one_never_stopped(pretrain, tmp_path):
    _, unstopped = pretrain(out="unstopped")
    _, run = pretrain(out="stopped")
    for step in (2, 3):  # as if it had been stopped during step 2; what was reported of it is forgotten
        shutil.rmtree(run / "checkpoints" / f"step-{step:08d}")
    result, _ = pretrain(out="stopped")
    assert result.exit_code == 0 and "resumed from step 1" in result.output
    before, after = weights(unstopped), weights(run)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert losses(run) == losses(unstopped)


def test_a_finished_run_is_left_as_it_is(pretrain):
    _, run = pretrain()
    before = weights(run)
    result, _ = pretrain()
    assert result.exit_code == 0 and "resumed from step 3" in result.output
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(run).items())


def test_a_changed_recipe_is_refused_with_the_difference(pretrain):
    _, run = pretrain()
    result, _ = pretrain(sets=("optimizer.lr=1e-3",))
    assert result.exit_code == 1
    assert f"cannot resume {run}: its recipe differs" in result.stderr
    assert "optimizer.lr: 0.003 -> 0.001" in result.stderr and "--fresh" in result.stderr


def test_what_changes_no_number_may_change(pretrain):
    pretrain()
    assert pretrain(sets=("train.report_every=2", "data.workers=1"))[0].exit_code == 0


def test_a_run_whose_folder_was_moved_resumes(pretrain):
    _, run = pretrain()
    before = weights(run)
    run.rename(run.with_name("moved"))
    result, moved = pretrain(out="moved")
    assert result.exit_code == 0 and "resumed from step 3" in result.output, result.output
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(moved).items())
    assert str(load_recipe(PretrainRecipe, moved / "recipe.yaml").out) == str(moved)


def test_a_run_whose_folder_was_copied_with_links_followed_resumes(pretrain):
    """scp -r makes folders of `last` and `best`."""
    _, run = pretrain()
    shutil.copytree(run, run.with_name("copy"), symlinks=False)
    result, copy = pretrain(out="copy")
    assert result.exit_code == 0 and "resumed from step 3" in result.output, result.output
    assert (copy / "last").is_symlink() and weights(copy).keys() == weights(run).keys()


def test_fresh_starts_over_and_resume_needs_something_to_resume_from(pretrain):
    result, run = pretrain("--resume")
    assert result.exit_code == 1 and "it holds no checkpoint" in result.stderr
    pretrain()
    result, _ = pretrain("--fresh", sets=("optimizer.lr=1e-3",))
    assert result.exit_code == 0 and "went on" not in result.output
    assert load_recipe(PretrainRecipe, run / "recipe.yaml").optimizer.lr == 1e-3


def test_another_seed_gives_other_weights(pretrain):
    one, other = weights(pretrain(out="a")[1]), weights(pretrain(out="b", sets=("train.seed=8",))[1])
    name = "cmal.unified.boxes.weight"
    assert not torch.equal(one[name], other[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.records=[data/toy/no.jsonl]", "cannot read records data/toy/no.jsonl"),
        ("data.regions=data/no", "data/no"),
        ("data.pairs_share=0.001", "data.pairs_share 0.001 of 16 images is none"),
        ("model.text_checkpoint=data/toy", "data/toy"),
    ],
)
def test_the_error_of_a_missing_input_has_three_lines(pretrain, change, message):
    result, _ = pretrain(sets=(change,))
    assert result.exit_code == 1 and message in result.stderr, result.output
    assert len(result.stderr.splitlines()) == 3 and "Traceback" not in result.output


def test_the_error_of_images_that_the_store_lacks_names_the_command_that_makes_them(pretrain, tmp_path):
    line = '{"id": "x", "image_id": "toy:99", "caption": "a dog"}\n'
    (tmp_path / "more.jsonl").write_text(line)
    result, _ = pretrain(sets=(f"data.records=[{tmp_path}/more.jsonl]",))
    assert result.exit_code == 1
    assert 'no image "toy:99"; it holds 24 images' in result.stderr and "cmal extract-regions" in result.stderr


def test_a_training_ends_with_a_table_of_losses_and_a_stopped_one_has_its_report(
    cmal, toy_world, tmp_path, monkeypatch
):
    done = cmal("pretrain", "pretrain.yaml", "--device", "cpu", "--set", f"out={tmp_path}/a")
    table = done.output.split("step 3\n")[1].splitlines()
    assert table[0].split() == ["measure", "training", "validation"]
    rows = {line.split()[0]: line.split()[1:] for line in table[1:] if len(line.split()) == 3}
    assert {"loss", "mlm", "itm"} <= set(rows) and all(float(value) >= 0 for row in rows.values() for value in row)

    saved = []

    def interrupt(*arguments: object) -> None:
        saved.append(arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr("cmal.runs.train.save_checkpoint", interrupt)
    stopped = cmal("pretrain", "pretrain.yaml", "--device", "cpu", "--set", f"out={tmp_path}/b")
    assert stopped.exit_code == 130 and saved and "resumes from its last checkpoint" in stopped.output
    assert "3 of 3" in (tmp_path / "b/report.html").read_text()
