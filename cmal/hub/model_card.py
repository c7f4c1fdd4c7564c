"""The model card: what a new user should know about a model, filled from its configuration and its run folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from cmal.errors import DataError
from cmal.runs.folder import METRICS, read_metrics
from cmal.runs.model_config import ModelConfig
from cmal.runs.results import read_result

PAPER = "https://arxiv.org/abs/2410.12595"
USE = """```python
import cmal
model = cmal.load("THIS MODEL")
[photo] = model.find_regions(["photo.jpg"])
{line}
```"""


def model_card(config: ModelConfig, run: Path | None, parameters: int) -> str:
    """The card as Markdown with its YAML head. `run` is the run folder, or None where only the weights are known."""
    return (
        "\n".join([*_head(config), *_about(config, parameters), *_training(run), *_scores(run), *_use(config)]) + "\n"
    )


def _head(config: ModelConfig) -> Iterator[str]:
    """The YAML head; JSON is YAML too, and its strings are quoted."""
    tags = ["cmal", "vision-language", config.task or "pre-training"]
    yield from ("---", "library_name: cmal", f"tags: {json.dumps(tags)}")
    if config.task.endswith("vqa"):
        yield "pipeline_tag: visual-question-answering"
    yield "---"


def _about(config: ModelConfig, parameters: int) -> Iterator[str]:
    what = (
        f"fine-tuned on `{config.task}`" if config.kind == "task" else f"pre-trained with {', '.join(config.weights)}"
    )
    sizes = config.sizes
    yield f"# CMAL, {what}"
    yield ""
    yield f"Vision-language model by cross-modal associative learning ([arXiv:2410.12595]({PAPER})), trained with `cmal`."
    yield ""
    yield f"- {parameters:,} parameters, width {sizes['width']}, {sizes['heads']} heads"
    layers = (sizes[f"{part}_layers"] for part in ("text", "visual", "unified"))
    yield "- layers: {} textual, {} visual, {} unified".format(*layers)
    yield f"- {sizes['vocabulary']:,} word pieces, texts of at most {sizes['max_tokens']}"
    yield f"- regions of the detector `{config.detector or 'unknown'}`, {sizes['region_features']} numbers each"
    if config.labels:
        shown = ", ".join(config.labels[:10]) + (", ..." if len(config.labels) > 10 else "")
        yield f"- {len(config.labels):,} labels, in the order of `id2label`: {shown}"
    yield f"- leakage: {config.leakage or 'not audited'}"


def _training(run: Path | None) -> Iterator[str]:
    if run is None or not (recipe := run / "recipe.yaml").is_file():
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
    for file in sorted((run / "results").glob("*.json")) if run is not None else ():
        try:
            result = read_result(file)
        except DataError:
            continue
        metric = result.metrics[result.main]
        interval = (
            "" if metric.low is None or metric.high is None else f"{100 * metric.low:.2f} to {100 * metric.high:.2f}"
        )
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


def _use(config: ModelConfig) -> Iterator[str]:
    line = 'model.score(photo, "a dog beside a tree"), model.find(photo, "the dog")'
    if config.labels:
        line = 'model.answer(photo, "What is beside the tree?")'
    elif config.kind == "task":
        line = (
            'model.find(photo, "the dog")'
            if "ref" in config.task or "rec" in config.task
            else 'model.score(photo, "a dog")'
        )
    yield from ("", "## Use", "", USE.format(line=line))
