"""Retrieval against full forwards of every pair: `python -m tests.bench.retrieval --json FILE`.

The model is of base size (D 768, 12 heads, 6 + 6 + 6 layers), 36 regions of 2,048 numbers, captions of 12 to 28 pieces (20
in the mean), float32. Nobody runs millions of full forwards on a CPU, so each part is timed on a sample, all parts in turns
in one process, and the time of a whole set is put together from them; every turn gives a ratio, their median is reported.
The peer is the whole model on batches of pairs in the order of the file, as many at once as we score at once.

    ratio             pairs a second over full forwards, 200 images x 1,000 captions: states cached, tiles of like lengths,
                      the last unified layer at [CLS] alone
    ratio_shortlist   the same with the 64 best of each query, 1,000 images x 5,000 captions (Flickr30k's test split); the
                      fit of the first ranking to 6,000 training pairs is counted in. No overlap of the lists is assumed
    score_difference  the largest, between our scores and full forwards, over a sample
    recall            of a model trained on `scenes`, 400 test images: full, by a shortlist of 64, and what is lost.
                      --run RUN (a pre-trained run beside data/scenes) or a short one is made in a temporary folder (minutes)
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cmal.model.cmal import build_cmal
from cmal.model.pretraining import MatchingHead
from cmal.tasks.pair_scores import CachedStates, VisualState, pairs_at_once, score_rows
from cmal.tasks.shortlist import FIT_PAIRS, FIT_STEPS, LateInteraction, fit_late_interaction
from tests.bench.timing import machine, options_of, seconds_of, write_figures

WIDTH, HEADS, INNER, FEATURES, VOCABULARY, REGIONS = 768, 12, 3072, 2048, 30522, 36
SHORTEST, LONGEST, KEEP = 12, 28, 64
SET, SHORTLIST_SET = (200, 1000), (1000, 5000)  # images, captions
TEXTS, IMAGES, FIT_SAMPLE = 64, 2, 10
ROOT = Path(__file__).resolve().parents[2]


class Sample:
    """A model, some captions and images, and their cached states."""

    def __init__(self):
        torch.manual_seed(0)
        shape = {"width": WIDTH, "heads": HEADS, "inner": INNER, "dropout": 0.1}
        layers = {"text_layers": 6, "visual_layers": 6, "unified_layers": 6}
        sizes = {"vocabulary": VOCABULARY, "max_tokens": 60, "region_features": FEATURES}
        self.cmal = build_cmal(**sizes, **shape, **layers).eval()
        self.head = MatchingHead(WIDTH).eval()
        for matrix in (p for p in self.head.parameters() if p.dim() == 2):
            nn.init.normal_(matrix, std=0.2)  # scores that differ from pair to pair, as a trained head's do
        lengths = torch.from_numpy(np.random.default_rng(0).integers(SHORTEST, LONGEST + 1, TEXTS))
        self.token_mask = torch.arange(LONGEST)[None, :] < lengths[:, None]
        self.token_ids = torch.randint(VOCABULARY, self.token_mask.shape) * self.token_mask
        self.features, self.boxes = torch.rand(IMAGES, REGIONS, FEATURES), torch.rand(IMAGES, REGIONS, 7)
        self.region_mask = torch.ones(IMAGES, REGIONS, dtype=torch.bool)
        self.batch = pairs_at_once(self.cmal, LONGEST + REGIONS, torch.device("cpu"))
        self.states = CachedStates(self.encode_texts(TEXTS), self.encode_images(IMAGES))
        self.listed = np.random.default_rng(1).random((IMAGES, TEXTS)) < 0.5

    def encode_texts(self, count: int) -> list[torch.Tensor]:
        mask = self.token_mask[:count]
        return [row[real] for row, real in zip(self.cmal.textual(self.token_ids[:count], mask), mask)]

    def encode_images(self, count: int) -> list[VisualState]:
        states = self.cmal.visual(self.features[:count], self.boxes[:count], self.region_mask[:count])
        return [VisualState(*both) for both in zip(states, self.boxes)]

    def full(self, first: int, image: int = 0) -> torch.Tensor:
        """Scores of a batch of captions with an image, by the whole model."""
        kept = slice(first, first + self.batch)
        longest = int(self.token_mask[kept].sum(dim=1).max())
        ids, mask = self.token_ids[kept, :longest], self.token_mask[kept, :longest]
        image_of = torch.full((len(ids),), image)
        images = (self.features[image_of], self.boxes[image_of], self.region_mask[image_of])
        return self.head(self.cmal.unify(self.cmal.encode(ids, mask, *images))[:, 0])

    def ours(self, asked: np.ndarray | None = None) -> np.ndarray:
        return score_rows(self.cmal, self.head, self.states.texts, self.states.visuals, asked)


@torch.no_grad()
def one_turn(sample: Sample) -> dict[str, float]:
    """Seconds of each part: of a pair, a caption, an image, a step of the fit."""
    encoded = 32
    ranking = LateInteraction(*torch.randn(2, WIDTH, 128))
    pairs = IMAGES * TEXTS
    seconds = {
        "full": seconds_of(lambda: sample.full(0)) / sample.batch,
        "tiles": seconds_of(sample.ours) / pairs,
        "listed": seconds_of(lambda: sample.ours(sample.listed)) / int(sample.listed.sum()),
        "text": seconds_of(lambda: sample.encode_texts(encoded)) / encoded,
        "image": seconds_of(lambda: sample.encode_images(IMAGES)) / IMAGES,
        "first": seconds_of(lambda: ranking.similarities(sample.states)) / pairs,
    }
    many = CachedStates(sample.states.texts, sample.states.visuals * (TEXTS // IMAGES))
    with torch.enable_grad():
        fit = seconds_of(lambda: fit_late_interaction(many, np.arange(TEXTS), steps=FIT_SAMPLE))
    return seconds | {"fit_step": fit / FIT_SAMPLE}


def ratios(part: dict[str, float]) -> dict[str, float]:
    """Whole sets by the parts of one turn."""
    images, captions = SET
    cached = images * part["image"] + captions * part["text"] + images * captions * part["tiles"]
    full = images * captions * part["full"]
    images, captions = SHORTLIST_SET
    encoding = images * part["image"] + captions * part["text"]
    fit = FIT_PAIRS * (part["image"] + part["text"]) + FIT_STEPS * part["fit_step"]
    listed = KEEP * (images + captions) * part["listed"]
    shortlist = encoding + fit + images * captions * part["first"] + listed
    return {"ratio": full / cached, "ratio_shortlist": images * captions * part["full"] / shortlist}


@torch.no_grad()
def score_difference(sample: Sample) -> dict[str, float]:
    """Ours and full forwards, on the first captions of every image."""
    full = torch.stack([sample.full(0, image) for image in range(IMAGES)]).numpy()
    ours = sample.ours()[:, : full.shape[1]]
    return {"score_difference": float(np.abs(ours - full).max()), "score_spread": float(full.std())}


@torch.no_grad()
def compare(repeats: int) -> dict[str, object]:
    """All turns; the first one warms up."""
    sample = Sample()
    turns = [one_turn(sample) for _ in range(repeats + 1)][1:]
    found = [ratios(turn) for turn in turns]
    result: dict[str, object] = {"pairs_at_once": sample.batch} | score_difference(sample)
    for name in found[0]:
        values = np.array([one[name] for one in found])
        result[name] = round(float(np.median(values)), 3)
        result[f"{name}_all"] = np.sort(values).round(3).tolist()
    result["milliseconds"] = {
        name: round(1000 * float(np.median([turn[name] for turn in turns])), 3) for name in turns[0]
    }
    return result


def recall_loss(run: Path | None, steps: int) -> dict[str, object]:
    """Recalls on `scenes` without fine-tuning: all pairs, a shortlist, and the loss."""
    if run is not None:
        return measured(run.resolve(), Path.cwd())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cmal(folder, "prepare", "scenes", "--quiet")
        extract = ("--out", "data/scenes/regions", "--detector", "scenes", "--quiet")
        cmal(folder, "extract-regions", "data/scenes/images", *extract)
        cmal(folder, "pretrain", str(ROOT / "recipes/scenes.yaml"), "--set", f"train.steps={steps}", "--quiet")
        return {"steps": steps} | measured(folder / "runs/scenes", folder)


def measured(run: Path, folder: Path) -> dict[str, object]:
    """Evaluates a run in a folder that holds data/scenes."""
    recalls = {}
    for name, keep in (("full", 0), ("shortlist", KEEP)):
        how = ("--checkpoint", str(run), "--zero-shot", "--shortlist", str(keep), "--quiet")
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "result.json"
            cmal(folder, "eval", "scenes-retrieval", "--split", "test", *how, "--json", str(file))
            found = json.loads(file.read_text())["metrics"]
        recalls[name] = {name: round(m["value"], 4) for name, m in found.items() if "rank" not in name}
    lost = {name: round(value - recalls["shortlist"][name], 4) for name, value in recalls["full"].items()}
    return recalls | {"lost": lost}


def cmal(folder: Path, *arguments: str) -> None:
    subprocess.run([str(Path(sys.executable).with_name("cmal")), *arguments], cwd=folder, check=True)


def main() -> None:
    parser = options_of(__doc__, repeats=5)
    parser.add_argument("--run", type=Path, help="a run pre-trained on scenes; evaluated beside ./data/scenes")
    parser.add_argument(
        "--steps", type=int, default=800, help="of the run that is made where none is given; 0: none is"
    )
    options = parser.parse_args()
    figures = machine() | compare(options.repeats)
    write_figures(figures, options.json)  # the recall takes long: what is measured is not lost with it
    if options.run or options.steps:
        figures["recall"] = recall_loss(options.run, options.steps)
        write_figures(figures, options.json)


if __name__ == "__main__":
    main()
