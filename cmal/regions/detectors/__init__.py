"""Object detectors behind one interface; `build_detector` builds one by name.

How to add a detector: write a module with a function `build([argument,] *, device=None, **options)` that returns a
`Detector`, and add its name to `MODULES` and `FORMS`. `argument` is the text after the colon of the name, if the name has
one. `device` is always passed; of the options of `build_detector`, `build` receives those that are not None, and names as
keyword-only parameters those that it accepts. Other options are refused with an error that lists the accepted ones. The
module is imported only when its detector is built.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cmal.errors import CmalError
from cmal.regions.types import Regions

if TYPE_CHECKING:
    import torch

MODULES = {
    "nanodet": "cmal.regions.detectors.nanodet",
    "scenes": "cmal.scenes.detector",
    "boxes": "cmal.regions.detectors.boxes",
    "frcnn-vg": "cmal.regions.detectors.frcnn_vg",
    "torchvision": "cmal.regions.detectors.torchvision_models",
    "hf": "cmal.regions.detectors.huggingface",
}
FORMS = ("nanodet", "scenes", "boxes:FILE", "frcnn-vg", "torchvision:NAME", "hf:MODEL")


class Detector(Protocol):
    """Interface of all detectors.

    A detector may also have `settings` (a dict of plain values; a store that was started with other settings is not
    continued), `max_regions` (for the estimate of the store's size), `enough_px` (pixels of the longer side that it uses:
    extraction may reduce larger images) and the methods of `NamedDetector`.

    Attributes:
        name: for example "scenes"; written into the store.
        weights_sha256: hash of the weights in use; "" if there are none.
        feature_size: F.
        class_names, attribute_names: the names that object_ids and attribute_ids index.
    """

    name: str
    weights_sha256: str
    feature_size: int
    class_names: tuple[str, ...]
    attribute_names: tuple[str, ...]

    def detect(self, images: Sequence[np.ndarray]) -> list[Regions]:
        """Regions of each image. images: (H, W, 3) uint8 RGB, upright, sizes may differ."""
        ...

    def regions_at(self, images: Sequence[np.ndarray], boxes_xyxy_px: Sequence[np.ndarray]) -> list[Regions]:
        """Regions at the given boxes, (R, 4) pixels of each image: one region per box, in the order of the boxes."""
        ...


class NamedDetector(Detector, Protocol):
    """A detector that needs image ids, because it looks boxes up by image id."""

    def knows(self, image_id: str) -> bool:
        """Whether the detector has an entry for this image; images without one are recorded as failed."""
        ...

    def detect_named(self, image_ids: Sequence[str], images: Sequence[np.ndarray]) -> list[Regions]:
        """Regions of each image, like `detect`, with the id of each image."""
        ...


def build_detector(
    name: str,
    *,
    weights: str | None = None,
    device: str | torch.device | None = None,
    precision: str | None = None,
    max_regions: int | None = None,
    min_regions: int | None = None,
    min_confidence: float | None = None,
    features: str | None = None,
    **others: Any,
) -> Detector:
    """The detector called `name`, one of `FORMS`.

    Args:
        name: the kind of detector; for some kinds followed by a colon and an argument.
        weights: a file, a folder or a hub name that replaces the default weights.
        device: "cpu", "cuda:0", ...; None means the first GPU, or the CPU if there is none.
        precision: "auto", "fp32" or "bf16", for detectors with a choice.
        max_regions, min_regions, min_confidence: which regions are kept; each detector has its own defaults.
        features: for `boxes:FILE`, the source of the features: "scenes", "timm:NAME" or the name of another detector.
        others: options that only some detectors accept.

    Raises:
        CmalError: unknown detector, or an option that it does not accept.
    """
    kind, _, argument = name.partition(":")
    if kind not in MODULES or bool(argument) != (f"{kind}:" in " ".join(FORMS)):
        close = get_close_matches(kind, MODULES, n=1)
        raise CmalError(
            f'cannot build the detector "{name}"',
            f"known: {', '.join(FORMS)}",
            f'did you mean "{close[0]}"?' if close else "choose one of these",
        )
    named = {
        "weights": weights,
        "precision": precision,
        "max_regions": max_regions,
        "min_regions": min_regions,
        "min_confidence": min_confidence,
        "features": features,
        **others,
    }
    options = {key: value for key, value in named.items() if value is not None}
    build = importlib.import_module(MODULES[kind]).build
    parameters = inspect.signature(build).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    takes_more = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    unknown = [] if takes_more else sorted(set(options) - set(known))
    if unknown:
        raise CmalError(
            f'cannot build the detector "{name}"',
            f"it does not accept {', '.join(unknown)}",
            f"it accepts {', '.join(known)}",
        )
    return build(*([argument] if argument else []), device=device, **options)
