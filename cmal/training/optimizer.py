"""AdamW, its parameter groups, and linear warm-up with linear decay."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR

from cmal.model import cpu


def build_optimizer(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    betas: tuple[float, float],
    head_names: Iterable[str] = (),
    head_lr_factor: float = 1.0,
) -> torch.optim.AdamW:
    """Fused AdamW. Weight decay applies to matrices, not to vectors (biases, norms, mask embeddings, temperatures).

    Args:
        head_names: prefixes of the parameter names that train at `lr * head_lr_factor`.
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


def gradient_norm(model: nn.Module) -> Tensor:
    """() the L2 norm of all gradients together."""
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    if cpu.is_used(*grads):
        return _root_of_sum([_square(grad) for grad in grads])
    norm = nn.utils.get_total_norm(grads)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


@contextlib.contextmanager
def gradient_norm_noted(model: nn.Module, is_alone: bool) -> Iterator[Callable[[], Tensor]]:
    """Yields a function that returns `gradient_norm(model)`, bitwise equal and faster; call it once per step.

    On a CPU, each gradient's sum of squares is computed right after backward, while the gradient is in the cache.

    Args:
        is_alone: False if gradients are averaged over several processes after backward.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not is_alone or not cpu.is_used(*parameters):
        yield partial(gradient_norm, model)
        return
    squares: dict[Tensor, Tensor] = {}

    def note(parameter: Tensor) -> None:
        if parameter.grad is not None:
            squares[parameter] = _square(parameter.grad)

    def norm() -> Tensor:
        parts = [squares[p] for p in parameters if p in squares]
        squares.clear()
        return _root_of_sum(parts)

    hooks = [p.register_post_accumulate_grad_hook(note) for p in parameters]
    try:
        yield norm
    finally:
        for hook in hooks:
            hook.remove()


def _square(tensor: Tensor) -> Tensor:
    """() the sum of squares; `torch.norm` of a tensor uses one CPU thread only."""
    flat = tensor.reshape(-1)
    return torch.dot(flat, flat)


def _root_of_sum(squares: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(squares)).sum().sqrt() if squares else torch.zeros(())


def clipped_step(optimizer: torch.optim.Optimizer, grad_norm: Tensor, clip_norm: float) -> None:
    """One optimizer step with the gradients scaled down to a norm of `clip_norm` (0: no clipping).

    Fused AdamW divides the gradients by `grad_scale` while it reads them, which saves one pass over them.
    """
    factor = float(grad_norm) / clip_norm if clip_norm else 1.0
    scale = torch.tensor(factor, device=grad_norm.device) if factor > 1.0 else None
    optimizer.grad_scale = scale  # type: ignore[attr-defined]  # fused AdamW reads it if it is there
    optimizer.step()


def build_schedule(optimizer: torch.optim.Optimizer, warmup_steps: int, steps: int, done: int = 0) -> LambdaLR:
    """Learning rate schedule: linear from 0 over `warmup_steps`, then linear to 0 at `steps`; resumes after `done` steps."""

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        return max(0.0, (steps - step) / max(1, steps - warmup_steps))

    return LambdaLR(optimizer, factor, last_epoch=done - 1)
