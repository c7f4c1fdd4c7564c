"""The names of the 1,600 Visual Genome object classes and 400 attributes, shared by the detector and the imports."""

from __future__ import annotations

from pathlib import Path

VOCABULARIES = {kind: Path(__file__).with_name(f"vg_{kind}.txt") for kind in ("objects", "attributes")}


def vg_class_names() -> tuple[str, ...]:
    """The 1,600 object classes, in the order of the ids."""
    return read_names(VOCABULARIES["objects"])


def vg_attribute_names() -> tuple[str, ...]:
    """The 400 attributes, in the order of the ids."""
    return read_names(VOCABULARIES["attributes"])


def read_names(path: Path) -> tuple[str, ...]:
    """Names from a vocabulary file: one per line, the first of comma-separated alternatives; `#` starts a comment."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return tuple(line.split(",")[0].strip() for line in lines if line.strip() and not line.startswith("#"))
