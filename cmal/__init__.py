"""CMAL: vision-language pre-training by cross-modal associative learning (arXiv:2410.12595).

    import cmal
    model = cmal.load("runs/scenes")                        # a CmalModel; see `cmal.hub.model` for what it can do
    [photo] = model.find_regions(["photo.jpg"])
    model.score(photo, "a red dog beside a tree")

`import cmal` loads nothing else: torch and the model code are imported when `load` or `CmalModel` is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cmal.io.version import VERSION as __version__

if TYPE_CHECKING:
    from cmal.hub.model import CmalModel, load

__all__ = ["CmalModel", "__version__", "load"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cmal.hub import model

    return getattr(model, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
