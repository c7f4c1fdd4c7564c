"""How a model is shared among processes: copied (DDP) or in shards (FSDP2), and whole state dictionaries of either.

Checkpoints always hold whole tensors, so a run may go on under the other strategy, or with another number of processes.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from cmal.model.transformer import TransformerLayer, TransformerStack
from cmal.training.distributed import DistributedContext


def configure_layers(model: nn.Module, compile_layers: bool, checkpoint_activations: bool) -> None:
    """Applies the recipe's `train.compile` and `train.checkpoint_activations`."""
    for part in model.modules():
        if isinstance(part, TransformerStack):
            part.checkpoint_activations = checkpoint_activations
        if isinstance(part, TransformerLayer) and compile_layers:
            part.compile(dynamic=True)


def shard(model: nn.Module, context: DistributedContext) -> None:
    """Shards every transformer layer, then the rest, in place over all processes."""
    mesh = init_device_mesh(context.device.type, (context.world_size,))
    for part in [p for p in model.modules() if isinstance(p, TransformerLayer)]:
        fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh)


def wrap_ddp(model: nn.Module, context: DistributedContext) -> nn.Module:
    """The model with gradients averaged over all processes; the model itself where there is one."""
    if context.world_size == 1:
        return model
    devices = [context.device] if context.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)


def without_sync(model: nn.Module, unless: bool) -> contextlib.AbstractContextManager:
    """Leaves gradients unshared between processes until the last group of a step."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(unless)
    return model.no_sync() if isinstance(model, DistributedDataParallel) and not unless else contextlib.nullcontext()


def full_state_dict(value: Any) -> Any:
    """A state dictionary with every sharded tensor gathered; all processes call it together."""
    if isinstance(value, DTensor):
        return value.full_tensor()
    if isinstance(value, dict):
        return {key: full_state_dict(item) for key, item in value.items()}
    return [full_state_dict(item) for item in value] if isinstance(value, list) else value


def shard_like_parameters(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A whole optimizer state with each tensor sharded as its parameter is; as it was where nothing is sharded."""
    parameters = [p for micro_batch in optimizer.param_groups for p in micro_batch["params"]]

    def fit(value: Any, parameter: Tensor) -> Any:
        is_shard = isinstance(parameter, DTensor) and isinstance(value, Tensor) and value.shape == parameter.shape
        if not is_shard or value.ndim == 0:
            return value
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)

    entries = {i: {k: fit(v, parameters[i]) for k, v in entry.items()} for i, entry in state["state"].items()}
    return state | {"state": entries}
