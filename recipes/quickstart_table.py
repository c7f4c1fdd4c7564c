"""The quickstart's last step: collects the results into one table and runs/quickstart.json."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from cmal.io.files import read_json, write_json
from cmal.runs.results import read_result
from cmal_cli.display import show_table

TASKS = ("rec", "vqa", "ve", "retrieval")
ANCHOR_KEYS = ("coverage", "precision", "recall", "association_t2v", "association_v2t")


def collect(results: Path, seconds: float) -> dict[str, Any]:
    """Scores, chance and anchor rates of the quickstart, read from the result files of its steps."""
    tasks = {}
    for task in TASKS:
        cmal, scratch = (read_result(results / f"{task}-{init}.json") for init in ("pretrained", "random"))
        tasks[f"scenes-{task}"] = {
            "metric": cmal.main,
            "split": cmal.split,
            "chance": cmal.chance,
            "scratch": scratch.metrics[scratch.main].value,
            "cmal": cmal.metrics[cmal.main].value,
        }
    anchors = read_json(results / "anchors.json")
    return {"minutes": seconds / 60, "tasks": tasks, "anchors": {key: anchors[key] for key in ANCHOR_KEYS}}


def main() -> None:
    results, out, seconds = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    summary = collect(results, seconds)
    write_json(out, summary)
    rows = [
        (name, row["metric"], *(f"{100 * row[key]:.1f}" for key in ("chance", "scratch", "cmal")))
        for name, row in summary["tasks"].items()
    ]
    show_table(
        f"quickstart, {summary['minutes']:.1f} minutes",
        ("task", "metric (%)", "chance", "without pre-training", "with CMAL"),
        rows,
    )
    show_table("anchors", ("measure", "value"), [(key, f"{summary['anchors'][key]:.3f}") for key in ANCHOR_KEYS])
    print(f"written: {out}; look at {results / 'anchors.html'}")


if __name__ == "__main__":
    main()
