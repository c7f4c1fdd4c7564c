"""Which image goes into which shard: saved once, so that interrupted and resumed runs write the same store.

`plan.json` beside the shards lists the image ids in segments. A segment is the sorted list of images that one run saw
for the first time; its shards take `shard_size` ids each, and the next segment begins a new shard.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmal.errors import CmalError, StoreError, shown
from cmal.io.files import read_json, write_json
from cmal.regions.store.layout import StoreHeader

PLAN_NAME = "plan.json"


@dataclass(frozen=True)
class Plan:
    """The order of the images in a store.

    Attributes:
        shard_size: images per shard.
        segments: sorted image ids, one list per run that added images.
    """

    shard_size: int
    segments: tuple[tuple[str, ...], ...]

    def shards(self) -> Iterator[tuple[str, ...]]:
        """Image ids of shard 0, 1, ..."""
        for segment in self.segments:
            for first in range(0, len(segment), self.shard_size):
                yield segment[first : first + self.shard_size]


def load_plan(folder: Path, header: StoreHeader, settings: Mapping[str, Any]) -> Plan | None:
    """The plan of a folder; None if it has none yet.

    Raises:
        StoreError: the plan is damaged, or the folder was begun with another detector, other weights or other settings.
    """
    path = Path(folder) / PLAN_NAME
    if not path.exists():
        return None
    try:
        value = read_json(path)
        ours = {"detector": _identity(header), "settings": dict(settings)}
        differences = list(_differences({key: value[key] for key in ours}, ours))
        plan = Plan(value["shard_size"], tuple(tuple(segment) for segment in value["segments"]))
        images = [image for segment in plan.segments for image in segment]
        if type(plan.shard_size) is not int or plan.shard_size < 1 or not all(isinstance(i, str) for i in images):
            raise ValueError("its shard size or image ids have another type")
        if len(set(images)) != len(images):
            raise ValueError("an image is listed twice")
    except (KeyError, TypeError, ValueError, AttributeError, CmalError) as error:
        raise StoreError(
            f"cannot continue the region store {folder}",
            f"its {PLAN_NAME} is damaged: {getattr(error, 'found', repr(error))}",
            "remove the folder and extract again",
        ) from error
    if differences:
        raise StoreError(
            f"cannot continue the region store {folder}: it was begun with other settings",
            "\n  ".join(differences),
            "use the same detector, weights and options, or choose another --out",
        )
    return plan


def extend_plan(plan: Plan | None, image_ids: Sequence[str], shard_size: int) -> Plan:
    """The plan with one more segment for the images it lacks; the same plan if it lacks none."""
    if plan is None:
        return Plan(shard_size, (tuple(sorted(image_ids)),))
    known = {image_id for segment in plan.segments for image_id in segment}
    new = tuple(sorted(image_id for image_id in image_ids if image_id not in known))
    return Plan(plan.shard_size, (*plan.segments, new)) if new else plan


def save_plan(folder: Path, plan: Plan, header: StoreHeader, settings: Mapping[str, Any]) -> None:
    """Writes `plan.json`."""
    value = {
        "detector": _identity(header),
        "settings": dict(settings),
        "shard_size": plan.shard_size,
        "segments": [list(segment) for segment in plan.segments],
    }
    write_json(Path(folder) / PLAN_NAME, value)


def _identity(header: StoreHeader) -> dict[str, Any]:
    return {
        "name": header.detector,
        "weights_sha256": header.weights_sha256,
        "feature_size": header.feature_size,
        "classes": len(header.class_names),
        "attributes": len(header.attribute_names),
    }


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key in sorted({*theirs, *ours}):
        before, now = theirs.get(key), ours.get(key)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            yield from _differences(before, now, f"{prefix}{key}.")
        elif before != now:
            yield f"{prefix}{key}: {shown(before)} in the store, {shown(now)} now"
