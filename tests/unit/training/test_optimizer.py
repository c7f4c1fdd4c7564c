"""AdamW with clipping folded in, its parameter groups, and the learning rate schedule."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from cmal.training.optimizer import build_optimizer, build_schedule, clipped_step, gradient_norm, gradient_norm_noted

SETTINGS = {"lr": 0.1, "weight_decay": 0.5, "betas": (0.9, 0.98)}


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(2, 2), nn.Linear(2, 1)


def with_gradients(model: nn.Module, scale: float) -> nn.Module:
    for number, parameter in enumerate(model.parameters()):
        parameter.grad = torch.full_like(parameter, scale * (number + 1))
    return model


def test_vectors_are_not_decayed_and_the_head_learns_faster():
    micro_batches = build_optimizer(Toy(), **SETTINGS, head_names=("head.",), head_lr_factor=3.0).param_groups
    found = {tuple(g["params"][0].shape): (g["lr"], g["weight_decay"]) for g in micro_batches}
    assert {shape: decay for shape, (_, decay) in found.items()} == {(2, 2): 0.5, (2,): 0.0, (1, 2): 0.5, (1,): 0.0}
    assert [found[shape][0] for shape in ((2, 2), (2,), (1, 2), (1,))] == pytest.approx([0.1, 0.1, 0.3, 0.3])


def test_the_norm_is_of_all_gradients_together():
    model = nn.Linear(2, 1)
    model.weight.grad, model.bias.grad = torch.tensor([[2.0, 3.0]]), torch.tensor([6.0])
    assert gradient_norm(model).item() == pytest.approx(7.0)


def made_twice(model: nn.Module) -> None:
    """Gradients of two backward passes, added up."""
    for factor in (1.0, 3.0):
        (factor * model.head(model.body(torch.ones(4, 2)))).square().sum().backward()


@pytest.mark.parametrize("is_alone", [True, False])
def test_a_norm_noted_on_the_way_is_the_norm_at_the_end(is_alone):
    torch.manual_seed(0)
    model = Toy()
    with gradient_norm_noted(model, is_alone) as norm:
        made_twice(model)
        assert norm().equal(gradient_norm(model))
        model.zero_grad(set_to_none=True)
        model.head(torch.ones(1, 2)).sum().backward()  # the body has no gradient: nothing of the last step's is left
        assert norm().item() == pytest.approx(3**0.5)
        model.zero_grad(set_to_none=True)
        assert norm().item() == 0
    made_twice(model)
    assert norm().equal(gradient_norm(model)) == (not is_alone), "no hook is left"


@pytest.mark.parametrize(
    ("scale", "clip_norm"), [(10.0, 1.0), (0.01, 1.0), (10.0, 0.0)], ids=["over", "under", "never"]
)
def test_a_clipped_step_is_torchs_clipping_and_then_torchs_step(scale, clip_norm):
    torch.manual_seed(0)
    ours = Toy()
    theirs = copy.deepcopy(ours)
    mine, their_own = build_optimizer(ours, **SETTINGS), build_optimizer(theirs, **SETTINGS)
    for size in (scale, scale / 100):  # the second step shows that nothing of the first one's scale is left
        clipped_step(mine, gradient_norm(with_gradients(ours, size)), clip_norm)
        nn.utils.clip_grad_norm_(with_gradients(theirs, size).parameters(), clip_norm or float("inf"))
        their_own.step()
    for one, other in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_the_rate_rises_from_nothing_and_falls_to_nothing():
    def rates(done: int) -> list[float]:
        optimizer = torch.optim.AdamW([{"params": [nn.Parameter(torch.zeros(1))], "lr": 1.0, "initial_lr": 1.0}])
        schedule, found = build_schedule(optimizer, warmup_steps=3, steps=7, done=done), []
        for _ in range(done, 8):
            found.append(schedule.get_last_lr()[0])
            optimizer.step()
            schedule.step()
        return found

    all_rates = rates(0)
    assert all_rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 0.75, 0.5, 0.25, 0.0])
    assert rates(4) == pytest.approx(all_rates[4:])  # a run that resumes at step 4
