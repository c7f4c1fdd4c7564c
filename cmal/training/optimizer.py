"""AdamW, its parameter groups, and linear warm-up with linear decay."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR

from cmal.model.cpu.kernels import is_plain_cpu


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


def gradient_norm(model: nn.Module) -> Tensor:
    """() the norm of all gradients together."""
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    if is_plain_cpu(*grads):
        return _root_of_sum([_square(grad) for grad in grads])
    norm = nn.utils.get_total_norm(grads)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


@contextlib.contextmanager
def gradient_norm_noted(model: nn.Module, is_alone: bool) -> Iterator[Callable[[], Tensor]]:
    """Gives `gradient_norm` of the model, to be called once a step; the same bits, sooner.

    On a CPU each gradient's part is computed when backward has just made it and it is still in the processor's cache.

    Args:
        is_alone: False where gradients are still shared with other processes after backward has made them.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not is_alone or not is_plain_cpu(*parameters):
        yield partial(gradient_norm, model)
        return
    squares: dict[nn.Parameter, Tensor] = {}

    def note(parameter: nn.Parameter) -> None:
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
    """() the sum of squares. torch's norm of a whole tensor runs on one thread of a CPU."""
    flat = tensor.reshape(-1)
    return torch.dot(flat, flat)


def _root_of_sum(squares: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(squares)).sum().sqrt() if squares else torch.zeros(())


def clipped_step(optimizer: torch.optim.Optimizer, grad_norm: Tensor, clip_norm: float) -> None:
    """One optimizer step with gradients scaled down to `clip_norm` (0: never).

    Fused AdamW divides by `grad_scale` while it reads the gradients, which saves a pass over them.
    """
    factor = float(grad_norm) / clip_norm if clip_norm else 1.0
    if factor > 1.0:
        optimizer.grad_scale = torch.tensor(factor, device=grad_norm.device)
    try:
        optimizer.step()
    finally:
        optimizer.grad_scale = None


def build_schedule(optimizer: torch.optim.Optimizer, warmup_steps: int, steps: int, done: int = 0) -> LambdaLR:
    """Learning rate: linear from 0 over `warmup_steps`, then linear to 0 at `steps`; `done` steps are behind."""

    def factor(done: int) -> float:
        if done < warmup_steps:
            return (done + 1) / (warmup_steps + 1)
        return max(0.0, (steps - done) / max(1, steps - warmup_steps))

    return LambdaLR(optimizer, factor, last_epoch=done - 1)
