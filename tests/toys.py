"""Toys that several test files play with: a tiny thesaurus, a tiny vocabulary, regions, stores, plans and models.

Legend: T word pieces, R regions, K anchors chosen, D width, F raw region features (3 here).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cmal.anchors.finder import AnchorFinder
from cmal.anchors.thesaurus import Thesaurus
from cmal.data.example import ExampleBuilder
from cmal.data.text import SPECIAL_PIECES, WordPieces
from cmal.model.cmal import Cmal, build_cmal
from cmal.model.inputs import FILL_SWAP, MaskingPlan
from cmal.model.transformer import INITIAL_STD_WIDTH, initialise
from cmal.regions.store.layout import StoreHeader
from cmal.regions.store.shards import write_index, write_shard
from cmal.regions.types import Regions

THESAURUS = Thesaurus.from_text("""
dog, puppy
cat
tree
fire hydrant
@attribute red
@attribute white
""")
CLASSES = ("dog", "cat", "tree", "fire hydrant")
ATTRIBUTES = ("red", "white")
VOCAB = [
    *SPECIAL_PIECES,  # 0 [PAD], 1 [UNK], 2 [CLS], 3 [SEP], 4 [MASK]
    *"a the two red white dog ##s puppy cat tree fire hydr ##ant run ##ning and is near ? colour".split(),
]
PIECES = WordPieces.from_vocab(VOCAB)
HEADER = StoreHeader("toy", "", 3, CLASSES, ATTRIBUTES)
FULL_BOX = (0, 0, 10, 10)


def ids_of(*pieces: str) -> list[int]:
    """Word-piece ids by name."""
    return [VOCAB.index(piece) for piece in pieces]


def regions(
    tags: Sequence[str],
    boxes: Sequence[Sequence[float]] | None = None,
    colours: Sequence[str] | None = None,
    conf: Sequence[float] | None = None,
    size: tuple[int, int] = (100, 50),
) -> Regions:
    """Regions of one image, side by side where no boxes are given; the features of region r are [r+1, 0, 0]."""
    count = len(tags)
    boxes = [[20 * r, 0, 20 * r + 10, 10] for r in range(count)] if boxes is None else boxes
    ids = np.array([CLASSES.index(tag) for tag in tags], np.int16)
    top_ids, top_probs = np.zeros((count, 10), np.int16), np.zeros((count, 10), np.float16)
    top_ids[:, 0], top_probs[:, 0] = ids, 1.0
    return Regions(
        features=np.arange(1, count + 1, dtype=np.float16)[:, None] * np.array([1, 0, 0], np.float16),
        boxes_xyxy_px=np.array(boxes, np.float32).reshape(count, 4),
        object_ids=ids,
        object_conf=np.array([0.5] * count if conf is None else conf, np.float16),
        attribute_ids=np.array([ATTRIBUTES.index(c) if c else -1 for c in colours or [""] * count], np.int16),
        attribute_conf=np.ones(count, np.float16),
        class_top_ids=top_ids,
        class_top_probs=top_probs,
        image_wh_px=size,
    )


IMAGES_OF_A_GROUP = {
    "toy:1": regions(["dog", "cat", "tree"], colours=["red", "white", ""]),
    "toy:2": regions(["dog", "fire hydrant"], colours=["", "red"]),
    "toy:3": regions(["cat", "tree"]),
}
TEXTS_OF_A_GROUP = [
    ("1", "toy:1", "a red dog is near the tree"),
    ("2", "toy:2", "two dogs and a red fire hydrant"),
    ("3", "toy:3", "the cat is running"),
    ("4", "toy:1", "a white cat"),
]


def random_image(generator: np.random.Generator) -> Regions:
    """Up to six things that may overlap, some of them red or white; now and then none at all."""
    count = int(generator.integers(0, 7))
    corners = generator.integers(0, 40, (count, 2))
    boxes = np.concatenate([corners, corners + generator.integers(5, 40, (count, 2))], axis=1)
    tags = [CLASSES[k] for k in generator.integers(len(CLASSES), size=count)]
    colours = [("", *ATTRIBUTES)[k] for k in generator.integers(3, size=count)]
    return regions(tags, boxes, colours, generator.random(count), size=(80, 80))


def random_caption(generator: np.random.Generator) -> str:
    """Up to twelve words in no order; now and then none."""
    words = "a the two red white dog dogs puppy cat tree fire hydrant run is near ? gizmo".split()
    return " ".join(words[k] for k in generator.integers(len(words), size=int(generator.integers(0, 13))))


class ToyStore(dict):
    """Image id -> Regions, with what of a RegionStore the builder and the data sets ask for."""

    class_names, attribute_names, feature_size = CLASSES, ATTRIBUTES, 3

    def regions_of(self, image_id: str) -> int:
        return len(self[image_id])


def toy_builder(images: Mapping[str, Regions], max_tokens: int = 20, anchors: bool = True) -> ExampleBuilder:
    """An ExampleBuilder over regions given here."""
    finder = AnchorFinder(THESAURUS, CLASSES, ATTRIBUTES) if anchors else None
    return ExampleBuilder(PIECES, ToyStore(images), max_tokens, finder)


def numbered_regions(count: int, start: int = 0) -> Regions:
    """Regions of two classes whose numbers tell which they are: feature row r is (start + r) three times."""
    rows = np.arange(start, start + count)
    return Regions(
        features=np.repeat(rows[:, None], 3, 1).astype(np.float32),
        boxes_xyxy_px=np.stack([rows, rows, rows + 5, rows + 7], 1).astype(np.float32),
        object_ids=rows % 2,
        object_conf=np.full(count, 0.5),
        attribute_ids=np.full(count, -1),
        attribute_conf=np.zeros(count),
        class_top_ids=np.tile(np.arange(10) % 2, (count, 1)),
        class_top_probs=np.full((count, 10), 0.1),
        image_wh_px=(640 + start, 480),
    )


def pack_arrays(value: Any, other: Callable[[Any], Any] = lambda value: value) -> bytes:
    """msgpack_numpy's encoding, with use_bin_type; `other` is what becomes of a value that msgpack does not know."""
    import msgpack

    def encode(value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return other(value)
        head = {b"nd": True, b"type": value.dtype.str, b"kind": b"", b"shape": value.shape}
        return head | {b"data": value.tobytes()}

    return msgpack.dumps(value, default=encode, use_bin_type=True)


def write_store(folder: Path, images: Mapping[str, Regions], header: StoreHeader = HEADER) -> Path:
    """A real region store of one shard."""
    write_index(folder, header, [write_shard(folder / "part-00000.h5", images.items(), header)])
    return folder


def toy_plan(tokens: int, regions: int, examples: int = 1, **fields: Any) -> MaskingPlan:
    """A MaskingPlan out of lists; what is not given is: swap, concept 0, an object, no duplicates, no positives but its own.

    Args:
        fields: at least example, region, piece_anchor and piece_position.
    """
    count = len(fields["region"])
    piece_example = [fields["example"][anchor] for anchor in fields["piece_anchor"]]
    assert len(piece_example) == len(fields["piece_position"])
    whole = {
        "fill": [FILL_SWAP] * count,
        "concept": [0] * count,
        "positive_anchor": list(range(count)),
        "positive_region": fields["region"],
        "positive_piece_anchor": fields["piece_anchor"],
        "positive_piece_position": fields["piece_position"],
    } | fields
    masks = {
        "is_attribute": torch.tensor(whole.pop("is_attribute", [False] * count), dtype=torch.bool),
        "duplicate_token_mask": torch.zeros(examples, tokens, dtype=torch.bool),
        "duplicate_region_mask": torch.zeros(examples, regions, dtype=torch.bool),
    }
    for name in ("duplicate_token_mask", "duplicate_region_mask"):
        for example, place in whole.pop(name, ()):
            masks[name][example, place] = True
    return MaskingPlan(**masks, **{name: torch.tensor(v, dtype=torch.int64) for name, v in whole.items()})


def empty_plan(tokens: int, regions: int, examples: int = 1) -> MaskingPlan:
    """Nothing was chosen: K = 0."""
    return toy_plan(tokens, regions, examples, example=[], region=[], piece_anchor=[], piece_position=[])


def toy_cmal(seed: int = 0, **sizes: Any) -> Cmal:
    """A Cmal of width 8 in evaluation mode, its weights ten times larger than usual so that everything matters."""
    torch.manual_seed(seed)
    shape = {
        "vocabulary": len(VOCAB),
        "max_tokens": 20,
        "region_features": 3,
        "width": 8,
        "heads": 2,
        "inner": 16,
        "text_layers": 1,
        "visual_layers": 1,
        "unified_layers": 1,
        "dropout": 0.1,
    }
    return enlarge(build_cmal(**shape | sizes)).eval()


def enlarge(module: nn.Module, factor: float = 10.0) -> nn.Module:
    """Matrices times ten, biases drawn: the usual start, a hundredth, hides mistakes below tolerances."""
    initialise(module, INITIAL_STD_WIDTH)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(factor)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)
    return module


def on_sphere(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random vectors of length sqrt(D)."""
    vectors = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return vectors / vectors.norm(dim=-1, keepdim=True) * shape[-1] ** 0.5
