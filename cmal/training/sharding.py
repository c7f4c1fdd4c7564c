"""How a model is distributed over processes: replicated (DDP) or sharded (FSDP2), and its full state dictionary.

Checkpoints hold unsharded tensors: a run can be resumed with the other strategy or another number of processes.
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
    """Shards the model in place over all processes: every transformer layer as a unit, then the rest."""
    mesh = init_device_mesh(context.device.type, (context.world_size,))
    for part in [p for p in model.modules() if isinstance(p, TransformerLayer)]:
        fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh)


def wrap_ddp(model: nn.Module, context: DistributedContext) -> nn.Module:
    """The model wrapped so that gradients are averaged over all processes; unwrapped if there is only one."""
    if context.world_size == 1:
        return model
    devices = [context.device] if context.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)


def without_sync(model: nn.Module, unless: bool) -> contextlib.AbstractContextManager:
    """A context in which backward does not average gradients over processes, `unless` this is a step's last micro-batch."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(unless)
    return model.no_sync() if isinstance(model, DistributedDataParallel) and not unless else contextlib.nullcontext()


def full_state_dict(value: Any) -> Any:
    """A state dictionary with every sharded tensor gathered. All processes must call it together."""
    if isinstance(value, DTensor):
        return value.full_tensor()
    if isinstance(value, dict):
        return {key: full_state_dict(item) for key, item in value.items()}
    return [full_state_dict(item) for item in value] if isinstance(value, list) else value


def shard_like_parameters(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """A full optimizer state with each tensor sharded like its parameter; unsharded parameters keep their state."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def fit(value: Any, parameter: Tensor) -> Any:
        if not isinstance(parameter, DTensor) or not isinstance(value, Tensor) or value.ndim == 0:
            return value
        if value.shape != parameter.shape:
            return value
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)

    entries = {i: {k: fit(v, parameters[i]) for k, v in entry.items()} for i, entry in state["state"].items()}
    return state | {"state": entries}
