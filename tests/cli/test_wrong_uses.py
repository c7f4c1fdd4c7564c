"""Wrong uses: each is told in three lines (what failed, what was found, what to do) with exit status 1, or as wrong usage
with status 2; never by a traceback, and never by leaving something half done.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from cmal_cli.app import main

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class World:
    """The tiny world, its runs, and an empty folder `own` for what a case needs."""

    folder: Path
    own: Path

    @property
    def scenes(self) -> Path:
        return self.folder / "data" / "scenes"

    @property
    def tiny(self) -> Path:
        return self.folder / "runs" / "tiny"

    def write(self, name: str, text: str | bytes = "") -> Path:
        path = self.own / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def copy(self, source: Path) -> Path:
        return Path(shutil.copytree(source, self.own / source.name, symlinks=True))

    def recipe(self, text: str, name: str = "r.yaml") -> Path:
        return self.write(name, text)

    def pretrain(self, *overrides: str) -> list[object]:
        """`cmal pretrain` of a recipe that would run, with something changed."""
        sets = (
            *(f"out={self.own}/run", f"data.records=[{self.scenes}/val.jsonl]", f"data.regions={self.scenes}/regions"),
            *("data.validation=", "train.steps=1", "train.batch_size=8", "train.micro_batch_size=8", *overrides),
        )
        return ["pretrain", ROOT / "recipes/scenes.yaml", "--device", "cpu", *(p for s in sets for p in ("--set", s))]

    def finetune(self, task: str, *overrides: str) -> list[object]:
        sets = (
            *(f"out={self.own}/run", f"init_from={self.tiny}/last", f"data.root={self.folder}/data/scenes-{task}"),
            *(f"data.regions={self.scenes}/regions", "data.detected_regions=", "train.steps=1", *overrides),
        )
        recipe = ROOT / f"recipes/finetune/scenes_{task}.yaml"
        return ["finetune", recipe, "--device", "cpu", *(p for s in sets for p in ("--set", s))]

    def pairs(self, rows: str, name: str = "c.csv", images: str = "a.png") -> list[object]:
        """`cmal prepare pairs` of a captions file beside a folder of one image."""
        self.write(f"photos/{images}", (self.scenes / "images/test/000000.jpg").read_bytes())
        captions = self.write(name, rows)
        return ["prepare", "pairs", "--images", self.own / "photos", "--captions", captions, "--out", self.own / "data"]

    def probe(self, **changes: object) -> list[object]:
        options = {"records": self.scenes / "test.jsonl", "regions": self.scenes / "regions"} | changes
        return ["probe-anchors", *(p for name, value in options.items() for p in (f"--{name}", value))]

    def evaluate(self, task: str, split: str, checkpoint: Path, *more: object) -> list[object]:
        where = ["--checkpoint", checkpoint, "--regions", self.scenes / "regions", "--device", "cpu"]
        return ["eval", task, "--split", split, *where, *more]


def _other_sizes(w: World) -> Path:
    """A checkpoint whose features are of another size than the store's."""
    folder = w.copy((w.tiny / "last").resolve())
    config = json.loads((folder / "config.json").read_text())
    config["sizes"]["region_features"] = 2048
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _cut_weights(w: World) -> Path:
    folder = w.copy((w.tiny / "last").resolve())
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    return folder


def _cut_shard(w: World) -> Path:
    store = w.copy(w.scenes / "regions")
    shard = next(store.glob("*.h5"))
    shard.write_bytes(shard.read_bytes()[:1000])
    return store


def _no_head(w: World) -> Path:
    """A checkpoint whose facts speak of one head less than its weights."""
    folder = w.copy((w.tiny / "last").resolve())
    config = json.loads((folder / "config.json").read_text())
    config["weights"].pop("amc")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


GOOD = "image,caption\na.png,a dog\n"
Case = tuple[str, Callable[[World], list[object]], tuple[str, ...]]
# name, the command, and words that its message must hold
TOLD: tuple[Case, ...] = (
    # recipes
    (
        "misspelt key",
        lambda w: w.pretrain("optimizer.learning_rate=1"),
        ('unknown key "optimizer.learning_rate"', "known: lr"),
    ),
    ("another toolkit's key", lambda w: w.pretrain("optimizer.learning_rate=1"), ('did you mean "lr"?',)),
    ("near key", lambda w: w.pretrain("train.step=1"), ('did you mean "steps"?',)),
    ("misspelt section", lambda w: w.pretrain("trian.steps=1"), ('unknown key "trian"', 'did you mean "train"?')),
    ("wrong type", lambda w: w.pretrain("train.steps=many"), ('"train.steps"', "'many'")),
    ("out of bounds", lambda w: w.pretrain("model.dropout=2"), ('"model.dropout"',)),
    ("not one of the words", lambda w: w.pretrain("objectives.candidates=all"), ('"objectives.candidates"', "batch")),
    ("no equals sign", lambda w: w.pretrain("train.steps"), ("should be KEY=VALUE",)),
    ("uneven groups", lambda w: w.pretrain("train.micro_batch_size=3"), ("does not divide",)),
    (
        "no objective",
        lambda w: w.pretrain(*(f"objectives.{n}=0" for n in "mlm mrm_class mrm_feature itm amc".split())),
        ("nothing would be learned",),
    ),
    ("not YAML", lambda w: ["pretrain", w.recipe("model: [1, 2\n")], ("cannot read the recipe", "not plain YAML")),
    ("empty recipe", lambda w: ["pretrain", w.recipe("")], ("out: the run folder is missing",)),
    ("a list for a recipe", lambda w: ["pretrain", w.recipe("- 1\n- 2\n")], ("not a set of keys and values",)),
    ("binary recipe", lambda w: ["pretrain", w.write("r.yaml", b"\xff\xfe\x00")], ("cannot read the recipe",)),
    (
        "newer recipe",
        lambda w: ["pretrain", w.recipe("out: x\nversion: 2\nmodel:\n  experts: 8\n")],
        ('line 2: unknown key "version"', 'line 4: unknown key "model.experts"'),
    ),
    (
        "fine-tuning recipe to pretrain",
        lambda w: ["pretrain", ROOT / "recipes/finetune/scenes_ve.yaml"],
        ('unknown key "task"',),
    ),
    ("unknown task", lambda w: w.finetune("ve", "task=snli_ve"), ('no task "snli_ve"', "known tasks: vqa")),
    # data
    (
        "missing records",
        lambda w: w.pretrain("data.records=[no.jsonl]"),
        ("cannot read records no.jsonl", "cmal prepare"),
    ),
    (
        "records of another kind",
        lambda w: w.pretrain(f"data.records=[{w.folder}/data/scenes-vqa/val.jsonl]"),
        ("line 1:", "as ImageTextRecord lines"),
    ),
    (
        "records that are no JSON",
        lambda w: w.pretrain(f"data.records=[{w.write('x.jsonl', 'hello')}]"),
        ("line 1: not JSON",),
    ),
    ("empty records", lambda w: w.pretrain(f"data.records=[{w.write('x.jsonl')}]"), ("it holds no record",)),
    (
        "missing store",
        lambda w: w.pretrain("data.regions=no/regions"),
        ("cannot open the region store", "cmal extract-regions"),
    ),
    ("a file that is no store", lambda w: w.pretrain(f"data.regions={w.write('x.h5', 'x')}"), ("cannot open",)),
    ("damaged shard", lambda w: w.probe(regions=_cut_shard(w)), ("cannot open", "--verify")),
    (
        "an image that the store lacks",
        lambda w: w.probe(records=w.write("t.jsonl", '{"id": "1", "image_id": "scenes:no", "caption": "a dog"}')),
        ("cannot load regions for 1 images", "scenes:no", "cmal extract-regions"),
    ),
    ("unknown data set", lambda w: ["prepare", "imagenet"], ("imagenet", "coco-captions")),
    (
        "no raw folder",
        lambda w: ["prepare", "coco-captions", "--raw", w.own / "no", "--out", w.own],
        ("coco-captions",),
    ),
    ("an empty raw folder", lambda w: ["prepare", "snli-ve", "--raw", w.own, "--out", w.own / "out"], ("snli",)),
    # own pairs
    ("pairs without a column", lambda w: w.pairs("picture,caption\na.png,x\n"), ("image",)),
    ("pairs of a missing image", lambda w: w.pairs("image,caption\nb.png,x\n"), ("b.png",)),
    ("pairs of an unknown format", lambda w: w.pairs(GOOD, "c.xlsx"), (".jsonl, .csv, .tsv",)),
    ("pairs that leave the folder", lambda w: w.pairs("image,caption\n../../etc/passwd,x\n"), ("passwd",)),
    ("no caption file", lambda w: [*w.pairs(GOOD)[:-3], w.own / "no.csv", "--out", w.own / "data"], ("no.csv",)),
    ("pairs with an id twice", lambda w: w.pairs("id,image,caption\n1,a.png,x\n1,a.png,y\n"), ("1",)),
    # regions
    ("no such images", lambda w: ["extract-regions", w.own / "no", "--out", w.own / "s"], ("no such file or folder",)),
    (
        "an empty folder of images",
        lambda w: ["extract-regions", w.write("e/x.txt").parent, "--out", w.own / "s"],
        ("no image",),
    ),
    (
        "unknown detector",
        lambda w: ["extract-regions", w.scenes / "images", "--out", w.own / "s", "--detector", "yolo"],
        ('cannot build the detector "yolo"', "known: "),
    ),
    (
        "a detector's half name",
        lambda w: ["extract-regions", w.scenes / "images", "--out", w.own / "s", "--detector", "frcnn"],
        ('did you mean "frcnn-vg"?',),
    ),
    (
        "too many GPUs to extract",
        lambda w: ["extract-regions", w.scenes / "images", "--out", w.own / "s", "--gpus", 64],
        ("cannot use 64 GPUs",),
    ),
    (
        "no store to inspect",
        lambda w: ["extract-regions", "--inspect", w.own / "no"],
        ("cannot open the region store",),
    ),
    # runs and checkpoints
    ("too many GPUs", lambda w: ["pretrain", ROOT / "recipes/scenes.yaml", "--gpus", 64], ("64",)),
    ("nothing to resume from", lambda w: [*w.pretrain(), "--resume"], ("cannot resume", "leave --resume away")),
    (
        "another recipe to resume with",
        lambda w: w.pretrain(f"out={w.copy(w.tiny)}"),
        ("its recipe differs", "train.steps: 4 -> 1", "--fresh"),
    ),
    (
        "no pre-trained checkpoint",
        lambda w: w.finetune("ve", "init_from=no/run"),
        ("cannot load a checkpoint from no/run",),
    ),
    (
        "fine-tuning from a task",
        lambda w: w.finetune("ve", f"init_from={w.folder}/runs/rec/last"),
        ('checkpoint of the task "scenes-rec"', "cmal pretrain"),
    ),
    (
        "a split that is not there",
        lambda w: w.evaluate("scenes-rec", "testC", w.folder / "runs/rec"),
        ('split "testC"', "testA"),
    ),
    (
        "another task's checkpoint",
        lambda w: w.evaluate("scenes-ve", "test", w.folder / "runs/rec"),
        ('checkpoint of the task "scenes-rec"',),
    ),
    (
        "a pre-trained checkpoint to evaluate",
        lambda w: w.evaluate("scenes-ve", "test", w.tiny, "--records", w.folder / "data/scenes-ve"),
        ("cannot evaluate scenes-ve", "fine-tune"),
    ),
    (
        "zero-shot questions",
        lambda w: w.evaluate("scenes-vqa", "test", w.tiny, "--zero-shot", "--records", w.folder / "data/scenes-vqa"),
        ("only retrieval and phrase grounding can",),
    ),
    (
        "unknown protocol",
        lambda w: w.evaluate("scenes-rec", "testA", w.folder / "runs/rec", "--protocol", "mine"),
        ('no protocol "mine"', "official"),
    ),
    ("unknown task to evaluate", lambda w: ["eval", "gqa", "--split", "val"], ("gqa",)),
    ("no run to evaluate", lambda w: w.evaluate("scenes-ve", "test", w.own / "no"), ("scenes-ve",)),
    ("half a weight file", lambda w: w.probe(checkpoint=_cut_weights(w)), ("cannot load",)),
    ("features of another size", lambda w: w.probe(checkpoint=_other_sizes(w)), ("256 numbers", "2048")),
    ("facts of another model", lambda w: w.probe(checkpoint=_no_head(w)), ("does not fit", "unexpected heads.amc")),
    (
        "images that are not there",
        lambda w: [*w.probe(), "--html", w.own / "a.html", "--images", w.write("e/x.txt").parent],
        ("cannot find images in",),
    ),
    (
        "a folder that cannot be written",
        lambda w: [*w.probe(), "--json", w.write("file") / "a.json"],
        ("cannot write", "the system says"),
    ),
)
USAGE: tuple[Case, ...] = (
    ("misspelt command", lambda w: ["pretrian"], ("No such command",)),
    ("misspelt option", lambda w: ["pretrain", ROOT / "recipes/scenes.yaml", "--gpu", 2], ("No such option",)),
    ("missing recipe", lambda w: ["pretrain", w.own / "no.yaml"], ("does not exist",)),
    ("no split", lambda w: ["eval", "vqa"], ("Missing option '--split'",)),
    ("no store to write", lambda w: ["extract-regions", w.scenes / "images"], ("--out is missing",)),
    ("a wrong number", lambda w: ["prepare", "scenes", "--images", "-3"], ("1 to 1,000,000",)),
    (
        "a wrong share",
        lambda w: ["extract-regions", w.scenes / "images", "--out", w.own / "s", "--shard", "4/4"],
        ("is not I/N",),
    ),
    ("an unknown device", lambda w: [*w.probe(), "--device", "tpu"], ("'tpu' is not one of",)),
)


@pytest.fixture
def world(tiny_world, tiny_tasks, tmp_path, monkeypatch) -> World:
    monkeypatch.chdir(tmp_path)
    return World(tiny_world, tmp_path)


def reported(world: World, case: Case, status: int) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in case[1](world)])
    assert result.exit_code == status, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    missing = [words for words in case[2] if words not in result.output]
    assert not missing, f"{missing} not in:\n{result.output}"
    return result.output


@pytest.mark.parametrize("case", TOLD, ids=lambda case: case[0])
def test_it_is_told_in_three_lines(world, case):
    lines = reported(world, case, 1).splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("Error: "))
    message = lines[start:]
    assert len(message) >= 3 and all(line.startswith("  ") and line.strip() for line in message[1:]), message


@pytest.mark.parametrize("case", USAGE, ids=lambda case: case[0])
def test_wrong_usage_is_told_with_how_to_ask(world, case):
    assert "Usage: " in reported(world, case, 2)


def test_there_are_at_least_forty():
    assert len({case[0] for case in (*TOLD, *USAGE)}) == len(TOLD) + len(USAGE) >= 40


def test_debug_shows_the_traceback(world):
    from cmal.errors import CmalError

    result = CliRunner().invoke(main, ["--debug", "extract-regions", "--inspect", str(world.own / "no")])
    assert isinstance(result.exception, CmalError)
