"""The model card: what a stranger should know of a model, filled from its facts and its run folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from cmal.errors import DataError
from cmal.runs.results import read_result
from cmal.runs.assembly import ModelFacts
from cmal.runs.folder import METRICS, read_metrics

PAPER = "https://arxiv.org/abs/2410.12595"
USE = """```python
from cmal.hub.model import CmalModel
model = CmalModel.from_pretrained("THIS MODEL")
[photo] = model.find_regions(["photo.jpg"])
{line}
```"""


def model_card(facts: ModelFacts, run: Path | None, parameters: int) -> str:
    """The card as Markdown with its YAML head. `run` is the run folder, or None where only the weights are known."""
    return "\n".join([*_head(facts), *_about(facts, parameters), *_training(run), *_scores(run), *_use(facts)]) + "\n"


def _head(facts: ModelFacts) -> Iterator[str]:
    """The YAML head; JSON is YAML too, and its strings are quoted."""
    tags = ["cmal", "vision-language", facts.task or "pre-training"]
    yield from ("---", "library_name: cmal", f"tags: {json.dumps(tags)}")
    if facts.task.endswith("vqa"):
        yield "pipeline_tag: visual-question-answering"
    yield "---"


def _about(facts: ModelFacts, parameters: int) -> Iterator[str]:
    what = f"fine-tuned on `{facts.task}`" if facts.kind == "task" else f"pre-trained with {', '.join(facts.weights)}"
    sizes = facts.sizes
    yield f"# CMAL, {what}"
    yield ""
    yield f"Vision-language model by cross-modal associative learning ([arXiv:2410.12595]({PAPER})), trained with `cmal`."
    yield ""
    yield f"- {parameters:,} parameters, width {sizes['width']}, {sizes['heads']} heads"
    layers = (sizes[f"{part}_layers"] for part in ("text", "visual", "unified"))
    yield "- layers: {} textual, {} visual, {} unified".format(*layers)
    yield f"- {sizes['vocabulary']:,} word pieces, texts of at most {sizes['max_tokens']}"
    yield f"- regions of the detector `{facts.detector or 'unknown'}`, {sizes['region_features']} numbers each"
    if facts.labels:
        shown = ", ".join(facts.labels[:10]) + (", ..." if len(facts.labels) > 10 else "")
        yield f"- {len(facts.labels):,} labels, in the order of `id2label`: {shown}"
    yield f"- leakage: {facts.leakage or 'not audited'}"


def _training(run: Path | None) -> Iterator[str]:
    recipe = run / "recipe.yaml" if run else None
    if recipe is None or not recipe.is_file():
        return
    yield from ("", "## Training", "")
    steps = [row for row in read_metrics(run / METRICS) if "losses" in row]
    if steps:
        yield f"{steps[-1]['step']:,} of {steps[-1]['steps']:,} steps, last loss {steps[-1]['losses']['loss']:.3f}."
    yield from (f"Versions: {_versions(run)}.", "", "```yaml", recipe.read_text(encoding="utf-8").strip(), "```")


def _versions(run: Path) -> str:
    try:
        environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
        return ", ".join(f"{name} {version}" for name, version in environment["packages"].items() if version)
    except (OSError, ValueError, KeyError, AttributeError):
        return "unknown"


def _scores(run: Path | None) -> Iterator[str]:
    rows = []
    for file in sorted((run / "results").glob("*.json")) if run else ():
        try:
            result = read_result(file)
        except DataError:
            continue
        metric = result.metrics[result.main]
        interval = "" if metric.low is None else f"{100 * metric.low:.2f} to {100 * metric.high:.2f}"
        cells = (result.task, result.split, result.main, f"{100 * metric.value:.2f} %", interval, result.protocol)
        rows.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    if rows:
        yield from (
            "",
            "## Scores",
            "",
            "| task | split | metric | value | 95% interval | protocol |",
            "|---" * 6 + "|",
        )
        yield from rows


def _use(facts: ModelFacts) -> Iterator[str]:
    line = 'model.score(photo, "a dog beside a tree"), model.find(photo, "the dog")'
    if facts.labels:
        line = 'model.answer(photo, "What is beside the tree?")'
    elif facts.kind == "task":
        line = (
            'model.find(photo, "the dog")'
            if "ref" in facts.task or "rec" in facts.task
            else 'model.score(photo, "a dog")'
        )
    yield from ("", "## Use", "", USE.format(line=line))
