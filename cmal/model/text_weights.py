"""Copies the weights of a BERT checkpoint into the textual and unified encoders and reports what was used.

The textual encoder takes the embeddings and the first N_t layers, the unified encoder the N_u layers after them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cmal.errors import CheckpointError
from cmal.model.cmal import Cmal
from cmal.model.transformer import TransformerLayer

_EMBEDDINGS = {
    "tokens.weight": "embeddings.word_embeddings.weight",
    "segment.weight": "embeddings.token_type_embeddings.weight",
    "norm.weight": "embeddings.LayerNorm.weight",
    "norm.bias": "embeddings.LayerNorm.bias",
}
_LAYER = {
    "attention_out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "expand": "intermediate.dense",
    "contract": "output.dense",
    "output_norm": "output.LayerNorm",
}

_BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")
# parts of a BERT that are not used: its pooler, its own heads, deeper layers
_LEFT_OUT = ("pooler.", "cls.", "encoder.layer.")


@dataclass(frozen=True)
class LoadingReport:
    """Which tensors of a checkpoint were used, and which were left (a pooler, heads, layers beyond those needed)."""

    source: str
    used: tuple[str, ...]
    left: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        return {"source": self.source, "used": list(self.used), "left": list(self.left)}


def load_bert(cmal: Cmal, bert: Mapping[str, Tensor], source: str) -> LoadingReport:
    """Copies a BertModel's weights in.

    Args:
        bert: state dict of a `transformers` BertModel (names may carry the prefix "bert.").
        source: where it comes from, for messages.

    Raises:
        CheckpointError: a needed tensor is missing or has another shape, or there is a tensor that no BERT has; the message
            names them.
    """
    bert = {name.removeprefix("bert."): tensor for name, tensor in bert.items()}
    targets = dict(_targets(cmal))
    missing = [name for name in targets if name not in bert]
    shapes = [
        f"{name}: {tuple(bert[name].shape)} in the file, {tuple(target.shape)} here"
        for name, target in targets.items()
        if name in bert and not _fits(name, bert[name], target)
    ]
    left = tuple(name for name in bert if name not in targets and name not in _BUFFERS)
    unexpected = [f"unexpected {name}" for name in left if not name.startswith(_LEFT_OUT)]
    if missing or shapes or unexpected:
        errors = [f"missing {name}" for name in missing] + shapes + unexpected
        raise CheckpointError(
            f"cannot start the text encoder from {source}",
            "; ".join(errors[:6]) + (f"; and {len(errors) - 6} more" if len(errors) > 6 else ""),
            "choose a BERT of this width and depth, or change model.width, model.text_layers and model.unified_layers",
        )
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(bert[name][: len(target)])
        cmal.unified.positions.weight.copy_(cmal.textual.positions.weight)
    return LoadingReport(source, tuple(targets), left)


def _fits(name: str, theirs: Tensor, ours: Tensor) -> bool:
    if name == "embeddings.position_embeddings.weight":  # fewer positions are fine: the first are taken
        return theirs.shape[1:] == ours.shape[1:] and len(theirs) >= len(ours)
    return theirs.shape == ours.shape


def _targets(cmal: Cmal) -> Iterator[tuple[str, Tensor]]:
    """BERT's name and our tensor, a view where ours is fused, for every tensor that is copied."""
    textual = cmal.textual
    parameters = dict(textual.named_parameters())
    for ours, theirs in _EMBEDDINGS.items():
        yield theirs, parameters[ours]
    yield "embeddings.position_embeddings.weight", textual.positions.weight
    layers: list[nn.Module] = [*textual.stack.layers, *cmal.unified.stack.layers]
    for number, layer in enumerate(layers):
        yield from _layer_targets(f"encoder.layer.{number}.", layer)


def _layer_targets(prefix: str, layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    assert isinstance(layer, TransformerLayer)
    width = layer.qkv.in_features
    for index, part in enumerate(("query", "key", "value")):
        rows = slice(index * width, (index + 1) * width)
        yield f"{prefix}attention.self.{part}.weight", layer.qkv.weight.data[rows]
        yield f"{prefix}attention.self.{part}.bias", layer.qkv.bias.data[rows]
    for ours, theirs in _LAYER.items():
        module = getattr(layer, ours)
        yield f"{prefix}{theirs}.weight", module.weight
        yield f"{prefix}{theirs}.bias", module.bias


def read_bert(name_or_folder: str) -> Mapping[str, Tensor]:
    """State dict of a BERT-like checkpoint, from a local folder or the hub, through `transformers`.

    Raises:
        CheckpointError: it cannot be found or read.
    """
    from transformers import AutoModel

    try:
        return AutoModel.from_pretrained(name_or_folder).state_dict()
    except Exception as error:  # of a damaged or hostile file nearly anything, UnpicklingError among it
        found = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise CheckpointError(
            f'cannot read the text checkpoint "{name_or_folder}"',
            found,
            "give a folder with a BERT, or a name on the hub",
        ) from error
