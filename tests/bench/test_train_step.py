"""The bench's own step does all of its work: what it times is clipped by the norm of all its gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")

from cmal.training.optimizer import gradient_norm
from tests.bench import train_step
from tests.bench.train_step import CLIP_NORM, OurStep, make_batch


def test_our_step_clips_by_the_norm_of_its_gradients(monkeypatch):
    """By hand: AdamW is handed gradients divided by their norm over the bound, which is well above one here."""
    step, clipped = OurStep({"text_layers": 1, "visual_layers": 1, "unified_layers": 1}), []
    own = train_step.clipped_step

    def watched(optimizer, norm, clip_norm):
        clipped.append((float(norm), float(gradient_norm(step.model)), clip_norm))
        own(optimizer, norm, clip_norm)

    monkeypatch.setattr(train_step, "clipped_step", watched)
    before = [p.detach().clone() for p in step.model.parameters()]
    step(make_batch([(8, 10), (6, 4)], np.random.default_rng(0)))
    ((noted, whole, bound),) = clipped
    assert noted == whole > CLIP_NORM == bound
    assert all(not torch.equal(p, old) for p, old in zip(step.model.parameters(), before) if p.grad is not None)
