"""Checks that a region store fits a model and a set of records."""

from __future__ import annotations

from collections.abc import Sequence

from cmal.data.loaders import image_ids_of
from cmal.data.records import Record
from cmal.errors import DataError
from cmal.regions.store.store import RegionStore


def check_store(store: RegionStore, feature_size: int, model: str) -> None:
    """Raises DataError when the store's feature size is not the model's. `model` names the model in the message."""
    if store.feature_size != feature_size:
        raise DataError(
            f"cannot use the region store {store.path} with {model}",
            f"its features have {store.feature_size} numbers (detector {store.detector}), the model takes {feature_size}",
            "extract regions with the detector the model was trained on",
        )


def check_images(records: Sequence[Record], store: RegionStore, records_path: object) -> None:
    """Raises DataError when the store lacks images of the records."""
    missing = sorted(image for image in image_ids_of(records) if image not in store)
    if missing:
        raise DataError(
            f"cannot load regions for {len(missing):,} images of {records_path}",
            f'{store.path} has no image "{missing[0]}"; it holds {len(store):,} images',
            f"extract the missing ones: cmal extract-regions IMAGES --out {store.path}",
        )
