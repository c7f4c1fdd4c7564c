"""The loop on a model of one number, whose every step can be followed by hand."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from cmal.data.micro_batches import MicroBatch
from cmal.errors import CmalError
from cmal.io.signals import Stopped
from cmal.training.distributed import DistributedContext
from cmal.training.loop import TrainingLoop, fit, micro_batch_seed
from cmal.training.state import Progress


@dataclass
class Loss:
    total: Tensor
    parts: dict[str, Tensor]


class Numbers(list):
    """A batch of numbers."""

    def to(self, device: torch.device) -> Numbers:
        return self


class Line(nn.Module):
    """loss = w * mean of the batch, so the gradient is that mean."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))

    def forward(self, batch: Numbers) -> Loss:
        loss = (self.w * (sum(batch) / len(batch))).sum()
        return Loss(loss, {"seen": torch.tensor(float(len(batch)))})


def loop_of(batches: list[list[float]], steps: int, **more: object) -> tuple[TrainingLoop, Line]:
    model = Line()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, betas=(0.0, 0.0), weight_decay=0.0, fused=True)
    micro_batches = [(MicroBatch(1, 0, 0, number, (0,)), Numbers(batch)) for number, batch in enumerate(batches)]
    settings = {
        "micro_batches_per_step": 1,
        "seed": 0,
        "clip_norm": 0.0,
        "context": DistributedContext(),
        "report_every": 1,
    } | more
    fixed = LambdaLR(optimizer, lambda step: 1.0)
    return TrainingLoop(
        model=model, optimizer=optimizer, scheduler=fixed, micro_batches=micro_batches, steps=steps, **settings
    ), model


def test_a_steps_micro_batches_are_averaged_and_reported():
    reports = []
    loop, model = loop_of([[1.0, 3.0], [4.0], [1.0], [1.0]], 2, micro_batches_per_step=2, report=reports.append)
    assert fit(loop) == Progress(2, 0)
    assert [r.step for r in reports] == [1, 2] and reports[0].grad_norm == pytest.approx((2 + 4) / 2)
    assert reports[0].losses["seen"] == pytest.approx(1.5)
    assert model.w.item() == pytest.approx(-2.0)  # without memory Adam goes one whole rate down a slope


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_is_skipped_and_counted(bad):
    reports = []
    loop, model = loop_of([[1.0], [bad], [1.0]], 3, report=reports.append)
    assert fit(loop) == Progress(3, 1)
    assert model.w.item() == pytest.approx(-2.0) and [r.skipped for r in reports] == [0, 1, 1]


def test_twenty_skipped_in_a_row_stop_the_run_and_nineteen_do_not():
    nan = [float("nan")]
    loop, model = loop_of([nan] * 19 + [[1.0]] + [nan] * 19 + [[1.0]], 40)
    assert fit(loop) == Progress(40, 38) and model.w.item() == pytest.approx(-2.0)
    loop, model = loop_of([[1.0], *[nan] * 25], 26)
    with pytest.raises(CmalError, match="stopped at step 21 of 26") as caught:
        fit(loop)
    assert "20 steps in a row" in str(caught.value) and model.w.item() == pytest.approx(-1.0)


def test_checkpoints_are_saved_regularly_before_each_validation_and_at_the_end():
    reported = []
    hooks = {
        "save": lambda at: reported.append(f"save {at.step}"),
        "validate": lambda step: reported.append(f"validate {step}"),
    }
    loop, _ = loop_of([[1.0]] * 5, 5, save_every=2, validate_every=4, **hooks)
    fit(loop)
    assert reported == ["save 2", "save 4", "validate 4", "save 5", "validate 5"]


def test_a_run_killed_before_its_validation_validates_when_it_resumes():
    reported = []
    loop, _ = loop_of([[1.0]], 5, validate_every=4, validate=reported.append, progress=Progress(4, 0))
    fit(loop)
    assert reported == [4, 5]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_asked_to_stop_it_saves_and_says_how_to_resume(number):
    saved, before = [], signal.getsignal(number)
    loop, _ = loop_of([[1.0]] * 5, 5, save=saved.append, report=lambda r: r.step == 2 and os.kill(os.getpid(), number))
    with pytest.raises(CmalError, match="stopped at step 2 of 5") as caught:
        fit(loop)
    assert saved == [Progress(2, 0)] and "run the same command again" in str(caught.value)
    assert signal.getsignal(number) is before


def test_asked_to_stop_while_it_validates_it_stops_at_once():
    saved = []

    def validate(step: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(20)

    loop, _ = loop_of([[1.0]] * 5, 5, save=saved.append, validate_every=2, validate=validate)
    started = time.monotonic()
    with pytest.raises(Stopped):
        fit(loop)
    assert saved == [Progress(2, 0)] and time.monotonic() - started < 10


def test_a_micro_batchs_dropout_depends_on_the_seed_and_its_number():
    seeds = {micro_batch_seed(seed, number) for seed in (0, 1) for number in range(50)}
    assert len(seeds) == 100 and micro_batch_seed(3, 4) == micro_batch_seed(3, 4)
