"""Checkpoint folders are complete or absent; the newest and the best are kept; damage is an error that names the folder."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from cmal.errors import CheckpointError, CmalError
from cmal.training import checkpoint as module
from cmal.training import retention
from cmal.training.checkpoint import fit_weights, load_optimizer, load_weights, save_checkpoint
from cmal.training.retention import keep_best, make_links_again, newest_checkpoint, recover_run_folder
from cmal.training.state import STATE, Progress, load_progress, validation_at


def save(run: Path, step: int, keep: int = 2, add=lambda folder: None, fill: float = 0.0) -> Path:
    return save_checkpoint(run, Progress(step, 1), {"w": torch.full((2, 2), fill)}, {"state": {}}, add, keep)


def steps_in(run: Path) -> list[int]:
    return sorted(int(folder.name.removeprefix("step-")) for folder in (run / "checkpoints").iterdir())


def test_what_was_saved_is_read_back(tmp_path):
    folder = save(tmp_path, 3, add=lambda folder: (folder / "vocab.txt").write_text("a"), fill=2.5)
    assert newest_checkpoint(tmp_path) == folder and (tmp_path / "last").resolve() == folder
    assert load_progress(folder) == Progress(3, 1) and load_weights(folder)["w"].tolist() == [[2.5] * 2] * 2
    assert (folder / "vocab.txt").read_text() == "a"


def test_the_newest_and_the_best_are_kept(tmp_path):
    for step, score in ((1, 0.3), (2, 0.9), (3, 0.5), (4, 0.9), (5, 0.1)):
        save(tmp_path, step)
        keep_best(tmp_path, step, {"main": score}, keep=2)
    assert steps_in(tmp_path) == [2, 4, 5] and (tmp_path / "best").readlink().name == "step-00000002"


def test_a_full_disk_is_a_message_and_the_checkpoint_before_stays(tmp_path, monkeypatch):
    before = save(tmp_path, 1, fill=1.0)

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(CmalError, match="No space left") as caught:
        save(tmp_path, 2)
    assert "free some space" in str(caught.value) and steps_in(tmp_path) == [1]
    assert newest_checkpoint(tmp_path) == before and load_weights(before)["w"][0, 0] == 1.0


def test_a_checkpoint_half_written_is_none(tmp_path):
    full_state_dict = save(tmp_path, 1)
    (tmp_path / "checkpoints" / ".step-00000002.tmp").mkdir()
    (tmp_path / "checkpoints" / "step-00000003").mkdir()
    assert newest_checkpoint(tmp_path) == full_state_dict


def test_a_run_folder_is_repaired_after_a_kill(tmp_path):
    """Killed between the newest checkpoint and its link, with one half written and one half removed."""
    save(tmp_path, 1)
    before = (tmp_path / "last").readlink()
    newest = save(tmp_path, 2)
    save(tmp_path, 3).rename(tmp_path / "checkpoints" / ".step-00000003.old.tmp")
    retention.point_at(tmp_path / "last", tmp_path / before)
    (tmp_path / "checkpoints" / ".step-00000004.tmp").mkdir()
    (newest / ".validation.json.01234567.tmp").touch()
    (tmp_path / ".last.tmp").symlink_to("nowhere")
    assert recover_run_folder(tmp_path, keep=1) == newest and (tmp_path / "last").resolve() == newest
    assert steps_in(tmp_path) == [2] and not list(tmp_path.rglob(".*.tmp"))
    assert recover_run_folder(tmp_path / "nothing", keep=1) is None


def test_best_is_decided_again_after_a_kill_between_its_link_and_validation_json(tmp_path, monkeypatch):
    save(tmp_path, 1)
    keep_best(tmp_path, 1, {"main": 0.5}, keep=9)
    newest = save(tmp_path, 2)
    with monkeypatch.context() as cut, pytest.raises(KeyboardInterrupt):
        cut.setattr(retention, "write_json", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        keep_best(tmp_path, 2, {"main": 0.7}, keep=9)
    assert validation_at(newest) is None, "so that a resumed run validates again"
    keep_best(tmp_path, 2, {"main": 0.7}, keep=9)
    assert (tmp_path / "best").resolve() == newest and validation_at(newest) == {"main": 0.7}


def copied_with_links_followed(run: Path) -> Path:
    """As scp -r does: `last` and `best` become folders."""
    return shutil.copytree(run, run.with_name("copy"), symlinks=False)


def test_a_copy_that_followed_the_links_is_a_run_again(tmp_path):
    run = tmp_path / "run"
    for step, score in ((1, 0.9), (2, 0.3)):
        save(run, step, fill=step)
        keep_best(run, step, {"main": score}, keep=2)
    copy = copied_with_links_followed(run)
    make_links_again(copy)
    assert [(copy / name).readlink().name for name in ("last", "best")] == ["step-00000002", "step-00000001"]
    keep_best(copy, save(copy, 3) and 3, {"main": 0.95}, keep=1)
    assert steps_in(copy) == [3] and (copy / "best").resolve() == (copy / "last").resolve()


def test_a_checkpoint_that_is_only_in_such_a_folder_is_not_lost(tmp_path):
    run = tmp_path / "run"
    save(run, 7, fill=7.0)
    copy = copied_with_links_followed(run)
    shutil.rmtree(copy / "checkpoints")
    make_links_again(copy)
    assert load_weights(newest_checkpoint(copy))["w"].tolist() == [[7.0] * 2] * 2 and (copy / "last").is_symlink()


@pytest.mark.parametrize("name", [module.WEIGHTS, module.OPTIMIZER, STATE])
def test_the_error_of_a_damaged_file_names_its_folder(tmp_path, name):
    folder = save(tmp_path, 1)
    (folder / name).write_bytes((folder / name).read_bytes()[:-7])
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(2, 2))])
    with pytest.raises(CheckpointError, match=r"cannot load the checkpoint .*step-00000001"):
        load_weights(folder), load_optimizer(folder, optimizer), load_progress(folder)


def test_weights_of_another_model_are_refused_by_name(tmp_path):
    model = nn.Linear(2, 2)
    weights = {"weight": torch.zeros(3, 2), "other": torch.zeros(1)}
    with pytest.raises(CheckpointError, match="missing bias; unexpected other; weight:") as caught:
        fit_weights(model, weights, tmp_path)
    assert "(3, 2) in the file, (2, 2) in the model" in str(caught.value)


@pytest.mark.parametrize("prefix", ["", "cmal."])
def test_parameter_names_of_before_are_accepted_where_the_model_has_the_new_ones(tmp_path, prefix):
    class Prompt(nn.Module):
        def __init__(self):
            super().__init__()
            self.text_mask_embedding = nn.Parameter(torch.zeros(2))

    model = nn.ModuleDict({"prompt": Prompt()})
    model = nn.ModuleDict({"cmal": model}) if prefix else model
    fit_weights(model, {f"{prefix}prompt.text_mask": torch.ones(2)}, tmp_path)
    assert model.state_dict()[f"{prefix}prompt.text_mask_embedding"].tolist() == [1.0, 1.0]
