"""AdamW, its parameter groups, and linear warm-up with linear decay."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR


def build_optimizer(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    head_names: Iterable[str] = (),
    head_lr_factor: float = 1.0,
) -> torch.optim.AdamW:
    """Fused AdamW; vectors (biases, norms, masks, temperatures) are not decayed.

    Args:
        head_names: prefixes of parameter names that train at `lr * head_lr_factor`.
    """
    prefixes = tuple(head_names)
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_head = bool(prefixes) and name.startswith(prefixes)
            groups.setdefault((is_head, parameter.ndim > 1), []).append(parameter)
    settings = [
        {
            "params": parameters,
            "lr": lr * (head_lr_factor if is_head else 1.0),
            "weight_decay": weight_decay if is_matrix else 0.0,
        }
        for (is_head, is_matrix), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]
    return torch.optim.AdamW(settings, lr=lr, betas=betas, fused=True)


def build_schedule(optimizer: torch.optim.Optimizer, warmup_steps: int, steps: int, done: int = 0) -> LambdaLR:
    """Learning rate: linear from 0 over `warmup_steps`, then linear to 0 at `steps`; `done` steps are behind."""

    def factor(done: int) -> float:
        if done < warmup_steps:
            return (done + 1) / (warmup_steps + 1)
        return max(0.0, (steps - done) / max(1, steps - warmup_steps))

    return LambdaLR(optimizer, factor, last_epoch=done - 1)
