"""RUN/report.html: what a run did, from the files of its folder alone: curves, scores, recipe, environment."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from cmal.errors import CheckpointError, DataError
from cmal.io.files import read_json
from cmal.reports.charts import Series, line_chart
from cmal.reports.document import folded, table, tag, text, write_page
from cmal.reports.result_rows import metric_rows
from cmal.runs.folder import METRICS, TEXT_ENCODER, read_metrics
from cmal.runs.results import EvaluationResult, read_result

REPORT = "report.html"
RESULTS = "results"  # folder of the results of `cmal eval`, one file a split and protocol
LONGEST_PAUSE_S = 600.0  # between two reports; a longer one is a stop, no work


def write_run_report(run: Path) -> Path:
    """Writes the report of a run folder, as far as the run has come, and returns its path.

    Raises:
        CheckpointError: the folder is no run folder. DataError: its metrics are damaged. CmalError: it cannot be written.
    """
    if not (run / "recipe.yaml").is_file():
        raise CheckpointError(
            f"cannot report on {run}",
            "it has no recipe.yaml",
            "give a run folder that cmal pretrain or cmal finetune wrote",
        )
    rows = read_metrics(run / METRICS)
    steps, validations = [r for r in rows if "losses" in r], [r for r in rows if "validation" in r]
    body = [
        *_facts(run, steps),
        *_text_encoder(run),
        *_scores(run),
        *_curves(steps, validations),
        *_recipe(run),
        *_environment(run),
    ]
    write_page(run / REPORT, f"Run {run}", body)
    return run / REPORT


def _facts(run: Path, steps: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not steps:
        yield tag("p", "No step is done yet.")
        return
    last = steps[-1]
    checkpoints = sorted(int(p.name.removeprefix("step-")) for p in (run / "checkpoints").glob("step-*[0-9]"))
    yield table(
        ("steps", "time", "examples/s (median)", "skipped steps", "checkpoints"),
        [
            (
                f"{last['step']:,} of {last['steps']:,}",
                _duration(_worked_s([row["time"] for row in steps])),
                f"{statistics.median(row['examples_per_s'] for row in steps):,.0f}",
                f"{last['skipped']:,}",
                ", ".join(f"{step:,}" for step in checkpoints) or "none",
            )
        ],
    )


def _text_encoder(run: Path) -> Iterator[str]:
    if (run / TEXT_ENCODER).is_file():
        said = read_json(run / TEXT_ENCODER)
        try:
            used = f"Text encoder from {said['source']}: {len(said['used'])} tensors used, {len(said['left'])} left"
            left = [(name,) for name in said["left"]]
        except (KeyError, TypeError):
            yield tag("p", text(f"{TEXT_ENCODER} is damaged."))
            return
        yield folded(used, table(("left",), left))


def _worked_s(times: Sequence[float]) -> float:
    """Seconds between reports, pauses between a stop and its continuation left out."""
    gaps = [after - before for before, after in pairwise(times)]
    return sum(gap for gap in gaps if 0 <= gap <= LONGEST_PAUSE_S)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def _scores(run: Path) -> Iterator[str]:
    files = sorted((run / RESULTS).glob("*.json"))
    if not files:
        return
    yield tag("h2", "Scores")
    rows: list[tuple[str, ...]] = []
    for file in files:
        try:
            of_file = list(_score_rows(file.stem, read_result(file)))
            rows += of_file[:1] + [("", *row[1:]) for row in of_file[1:]]
        except DataError as error:
            rows.append((file.stem, "", "", "", "", error.found))
    yield table(("result", "metric", "value", "95% interval", "chance", "protocol; regions"), rows)


def _score_rows(name: str, result: EvaluationResult) -> Iterator[tuple[str, ...]]:
    for metric, value, interval in metric_rows(result):
        is_main = metric == result.main
        chance = f"{100 * result.chance:.2f} %" if is_main and result.chance is not None else ""
        reported = f"{result.protocol}; {result.proposal_set}" if is_main else ""
        yield name, metric, value, interval, chance, reported


def _curves(steps: Sequence[Mapping[str, Any]], validations: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not steps:
        return
    x = [row["step"] for row in steps]
    names = ["loss", *sorted({name for row in steps for name in row["losses"]} - {"loss"})]
    charts = []
    for name in names:
        series = [Series("training", x, [row["losses"].get(name, float("nan")) for row in steps])]
        seen = [row for row in validations if name in row["validation"]]
        if seen:
            at, values = [row["step"] for row in seen], [row["validation"][name] for row in seen]
            series.append(Series("validation", at, values, is_dots=True))
        charts.append(line_chart(name.replace("_", " "), series))
    yield tag("h2", "Losses and accuracies")
    yield tag("div", *charts, class_="charts")
    yield tag("h2", "Optimizer and speed")
    others = (
        ("learning rate", "lr"),
        ("gradient norm before clipping", "grad_norm"),
        ("examples per second", "examples_per_s"),
    )
    charts = [line_chart(title, [Series("last", x, [row[key] for row in steps])]) for title, key in others]
    yield tag("div", *charts, class_="charts")


def _recipe(run: Path) -> Iterator[str]:
    yield tag("h2", "Recipe")
    yield tag("pre", text((run / "recipe.yaml").read_text(encoding="utf-8", errors="replace")))


def _environment(run: Path) -> Iterator[str]:
    try:
        environment = dict(_flat(read_json(run / "environment.json")))
    except (DataError, AttributeError, RecursionError):
        return
    yield tag("h2", "Environment")
    yield table(("what", "value"), list(environment.items()))


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", ", ".join(map(str, inner)) if isinstance(inner, list) else str(inner)
