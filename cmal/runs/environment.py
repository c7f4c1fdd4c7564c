"""What a run or a result was computed with: package versions, git revision, hardware."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("cmal", "torch", "torchvision", "transformers", "timm", "numpy", "h5py")


def package_versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Versions of Python ("python") and of the installed ones among `packages`. Imports none of them."""
    versions = {"python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def environment() -> dict[str, Any]:
    """Package versions, git revision ("" outside a repository) and hardware of this machine, as JSON values."""
    packages = package_versions()
    return {
        "python": packages.pop("python"),
        "packages": packages,
        "git": _git_revision(),
        "machine": {
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        },
    }


def _git_revision() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
