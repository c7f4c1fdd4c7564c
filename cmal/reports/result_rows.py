"""A result as rows of text for people: the terminal, the page of an evaluation and a run's report show the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cmal.runs.results import EvaluationResult

TITLES = {"confusion": "confusion: a row for each true label, a column for each predicted one"}


def metric_rows(result: EvaluationResult) -> list[tuple[str, str, str]]:
    """(metric, value, interval) of each metric: shares in percent, ranks as they are, "" where there is no interval."""
    rows = []
    for name, metric in result.metrics.items():
        scale, unit = (1, "") if "rank" in name else (100, " %")
        interval = (
            ""
            if metric.low is None or metric.high is None
            else f"{scale * metric.low:.2f} to {scale * metric.high:.2f}"
        )
        rows.append((name, f"{scale * metric.value:.2f}{unit}", interval))
    return rows


def chance_rows(result: EvaluationResult) -> list[tuple[str, str, str]]:
    """What guessing scores on the main metric, in the form of `metric_rows`; none where that is not known."""
    if result.chance is None:
        return []
    name = "chance" if len(result.metrics) == 1 else f"chance of {result.main}"
    return [(name, f"{100 * result.chance:.2f} %", "")]


def part_table(name: str, part: Mapping[str, Any]) -> tuple[str, tuple[str, ...], list[tuple[Any, ...]]]:
    """Title, columns and rows of one of `result.tables`: a row a type or label, a column a measure or plain value."""
    rows = {key: row if isinstance(row, Mapping) else {"value": row} for key, row in part.items()}
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    body = [(key, *(_cell(row.get(column, "")) for column in columns)) for key, row in rows.items()]
    return TITLES.get(name, name.replace("_", " ")), ("", *columns), body


def _cell(value: Any) -> Any:
    return f"{100 * value:.2f} %" if isinstance(value, float) else value
