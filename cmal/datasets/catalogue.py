"""Facts of each data set that the manifest repeats: whose image ids, where it is published, licence, citation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cmal.io.files import read_json


@dataclass(frozen=True)
class About:
    """Facts of one data set.

    Attributes:
        title: what it is, in a few words.
        image_ids: the prefix of its image ids ("coco").
        source: where it is published.
        licence: the licences of texts and photos.
        citation: the paper.
    """

    title: str
    image_ids: str
    source: str
    licence: str
    citation: str


CATALOGUE = {name: About(**facts) for name, facts in read_json(Path(__file__).with_name("catalogue.json")).items()}
