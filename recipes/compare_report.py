"""Writes the comparison's report from its results: tables, a curve, and sentences computed from the numbers."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from compare_plan import ABLATIONS, BOTH, CMAL, CMCL, PLAIN, SHARES, TUNING, TUNING_SEED, VARIANTS, WITHOUT

COMPARED = [(WITHOUT, 1.0)] + [(variant, share) for variant in VARIANTS for share in SHARES]
CONTROLS = ("chance", "context_hidden", "vectors_shuffled")
IN_SIGHT = tuple(f"{name}_in_sight" for name in ("swapped", *CONTROLS[1:]))  # where a slot attends to its partner
CONDITIONS = ("swapped", *CONTROLS, *IN_SIGHT)
BOTH_WAYS = ("t2v", "v2t")
MIN_ABOVE = 5.0  # points by which an accuracy must exceed a control to be called above it
Row = dict[str, Any]
Difference = tuple[float, float | None, int]  # mean, half width of its 95% interval, pairs
Tuning = tuple[int, float]  # fine-tuning steps, peak rate
Score = Callable[[Row], float]
T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}  # two-sided Student


def mean_score(row: Row) -> float:
    """Mean of the four tasks' main metrics, fine-tuned on all records."""
    return statistics.fmean(row["scores"].values())


def few_shot_score(row: Row) -> float:
    return statistics.fmean(row["few_shot"].values())


def task_score(task: str) -> Score:
    return lambda row: row["scores"][task]


def interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and half the width of its 95% interval by Student's t (None for fewer than two values)."""
    if len(values) < 2:
        return statistics.fmean(values), None
    error = statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values), T_95[min(len(values) - 1, max(T_95))] * error


def of(rows: Sequence[Row], variant: str, share: float) -> dict[int, Row]:
    """seed -> row, of one variant and share."""
    return {row["seed"]: row for row in rows if row["variant"] == variant and row["share"] == share}


def difference(first: dict[int, Row], second: dict[int, Row], score: Score) -> Difference | None:
    """first - second, paired by seed: mean, half width of the 95% interval, number of pairs; None without a pair."""
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return None
    mean, half = interval([score(first[s]) - score(second[s]) for s in seeds])
    return mean, half, len(seeds)


def cell(rows: dict[int, Row], score: Score) -> str:
    mean, half = interval([score(row) for row in rows.values()])
    return f"{100 * mean:.1f}" + (f" ± {100 * half:.1f}" if half is not None else "")


def table(rows: Sequence[Row], listed: Sequence[tuple[str, float]]) -> list[str]:
    """Markdown table with one line per measured variant and share; few-shot scores if all of them have some."""
    groups = {(variant, share): found for variant, share in listed if (found := of(rows, variant, share))}
    columns = {task: task_score(task) for task in sorted(rows[0]["scores"])}
    if len(columns) > 1:
        columns["mean"] = mean_score
    if all("few_shot" in row for found in groups.values() for row in found.values()):
        columns["mean, few-shot"] = few_shot_score
    lines = ["| variant | share of pairs | " + " | ".join(columns) + " | seeds |", "|---" * (len(columns) + 3) + "|"]
    for (variant, share), found in groups.items():
        cells = [cell(found, score) for score in columns.values()]
        lines.append(f"| {variant} | {share:.0%} | " + " | ".join(cells) + f" | {len(found)} |")
    return lines


def associations(rows: Sequence[Row], variant: str, share: float, ways: Sequence[str]) -> dict[int, dict[str, float]]:
    """seed -> condition -> accuracy in %, mean over directions, for the measured conditions.

    The accuracy depends on the pre-training alone: two runs of a seed with different fine-tuning count once.
    """
    probed = [row for row in rows if "association" in row]
    return {
        seed: {name: 100 * statistics.fmean(found[way] for way in ways) for name, found in row["association"].items()}
        for seed, row in of(probed, variant, share).items()
    }


def association(rows: Sequence[Row], variant: str, share: float, ways: Sequence[str]) -> dict[str, float]:
    """The mean of `associations` over the seeds."""
    seeds = associations(rows, variant, share, ways).values()
    values = {name: [one[name] for one in seeds if name in one] for name in CONDITIONS}
    return {name: statistics.fmean(of_name) for name, of_name in values.items() if of_name}


def association_table(first: str, found: dict[str, dict[str, float]]) -> list[str]:
    """Markdown table of label -> accuracies; `first` is the heading of the labels, "-" marks what was not measured."""
    heads = [first, *map(named, CONDITIONS)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for label, accuracies in found.items():
        if accuracies:
            cells = [f"{accuracies[c]:.1f}" if c in accuracies else "-" for c in CONDITIONS]
            lines.append(f"| {label} | {' | '.join(cells)} |")
    return lines


def association_of_cmal(rows: Sequence[Row]) -> list[str]:
    """Lines on CMAL with all pairs: accuracy at swapped anchors, its controls, and the differences."""
    ways = {"which region is this word's": ("t2v",), "which word is this region's": ("v2t",)}
    lines = association_table("at anchors (%)", {name: association(rows, CMAL, 1.0, w) for name, w in ways.items()})
    if above := {control: found for control in CONTROLS if (found := above_control(rows, control))}:
        lines += [
            "",
            *(
                difference_sentence(f"right minus {named(control)}, both directions", found)
                for control, found in above.items()
            ),
        ]
        lines += ["", *what_controls_say(rows, above)]
    return lines


def above_control(rows: Sequence[Row], control: str) -> Difference | None:
    """CMAL's accuracy minus a control's, paired by seed; None if not measured."""
    seeds = associations(rows, CMAL, 1.0, BOTH_WAYS).values()
    differences = [(one["swapped"] - one[control]) / 100 for one in seeds if {"swapped", control} <= one.keys()]
    return (*interval(differences), len(differences)) if differences else None


def named(condition: str) -> str:
    return condition.replace("_", " ")


def what_controls_say(rows: Sequence[Row], above: dict[str, Difference]) -> list[str]:
    """Lines that explain the controls and name those that CMAL is not above, with the ablations that are."""
    measured = {variant: association(rows, variant, 1.0, BOTH_WAYS) for variant in ABLATIONS}
    forms = {variant: found for variant, found in measured.items() if "swapped" in found}
    lines = [
        "A slot does not attend to its partner, the other slot of its anchor, which is the answer. Context hidden: no slot "
        "attends to another, so the swapped-in vector alone has to identify its partner. Vectors shuffled: swapped-in "
        "vectors are exchanged, so only the context can. In sight: the same three with the partner visible. Then both slots "
        "hold both vectors and are recognised without any context, so those columns say little."
    ]
    for control in (c for c, (mean, *_) in above.items() if 100 * mean < MIN_ABOVE):
        better = [
            f"{variant} ({found['swapped']:.1f} against {found[control]:.1f})"
            for variant, found in forms.items()
            if found["swapped"] - found[control] >= MIN_ABOVE
        ]
        lines += [
            "",
            f"CMAL is *not* {MIN_ABOVE:g} points above {named(control)}; of its {len(forms)} other forms below "
            f"{', '.join(better) if better else 'none'} is.",
        ]
    return lines


def association_of_forms(rows: Sequence[Row]) -> list[str]:
    """Table of accuracy and controls for CMAL and each ablation, mean of both directions."""
    found = {variant: association(rows, variant, 1.0, BOTH_WAYS) for variant in (CMAL, BOTH, *ABLATIONS)}
    return association_table("variant", found)


def room(rows: Sequence[Row]) -> list[str]:
    """Lines per task: best and worst mean over seeds, lowest run, and chance. They show whether the world leaves room."""
    groups = {(variant, share): of(rows, variant, share) for variant, share in COMPARED}
    lines = []
    for task, chance in sorted(rows[0]["chance"].items()):
        means = {
            f"{variant}, {share:.0%}": statistics.fmean(map(task_score(task), group.values()))
            for (variant, share), group in groups.items()
            if group
        }
        worst, best = min(means, key=means.get), max(means, key=means.get)
        lowest = min(task_score(task)(row) for group in groups.values() for row in group.values())
        at_chance = ", ".join(name for name, mean in means.items() if mean <= chance)
        beside = f", not exceeded by {at_chance}." if at_chance else "."
        lines.append(
            f"- {task}: between {100 * means[worst]:.1f} ({worst}) and {100 * means[best]:.1f} ({best}); "
            f"lowest run {100 * lowest:.1f}; chance {100 * chance:.1f}{beside}"
        )
    return lines


def difference_sentence(name: str, found: Difference | None) -> str:
    if found is None:
        return f"- {name}: not measured yet."
    mean, half, seeds = found
    bounds = f", 95% interval {100 * (mean - half):+.1f} to {100 * (mean + half):+.1f}" if half is not None else ""
    return f"- {name}: {100 * mean:+.1f} points{bounds} (paired over {seeds} seed{'s' if seeds > 1 else ''})."


def sentences(rows: Sequence[Row]) -> list[str]:
    """One line per claim, with its difference."""
    return [difference_sentence(name, found) for name, found in claims(rows).items()]


def claims(rows: Sequence[Row]) -> dict[str, Difference | None]:
    """claim -> its difference; None if not measured."""
    whole = {variant: of(rows, variant, 1.0) for variant in (*VARIANTS, WITHOUT)}
    half = of(rows, CMAL, 0.5)
    by_task = {
        f"CMAL minus mlm+mrm+itm on {task}": difference(whole[CMAL], whole[PLAIN], task_score(task))
        for task in sorted(rows[0]["scores"])
    }
    return {
        "CMAL with half of the pairs minus CMCL with all of them": difference(half, whole[CMCL], mean_score),
        "CMAL minus CMCL, all pairs": difference(whole[CMAL], whole[CMCL], mean_score),
        "CMAL minus mlm+mrm+itm, all pairs": difference(whole[CMAL], whole[PLAIN], mean_score),
        "CMAL minus no pre-training": difference(whole[CMAL], whole[WITHOUT], mean_score),
        "Both together minus CMAL": difference(whole[BOTH], whole[CMAL], mean_score),
    } | by_task


def sentences_of_ablations(rows: Sequence[Row]) -> list[str]:
    whole = of(rows, CMAL, 1.0)
    found = {name: of(rows, name, 1.0) for name in ABLATIONS}
    return [
        difference_sentence(f"{name} minus CMAL", difference(one, whole, mean_score))
        for name, one in found.items()
        if one
    ]


def sections_of_pretraining(rows: Sequence[Row]) -> list[str]:
    """All that runs of the same pre-training steps say: the shortest fine-tuning first, then what was tuned for longer."""
    ((steps, rate), short), *longer = grouped(rows, tuning_of).items()
    measured = {row["variant"] for row in short}
    lines = [
        f"{len(rows)} runs, pre-trained for {rows[0]['steps']} steps and fine-tuned for {steps} steps at a rate of {rate} "
        "where nothing else is said.",
        "",
    ]
    lines += [*table(short, COMPARED), "", *sentences(short), *sentences_of_ablations(short), ""]
    lines += ["## What the model knows at swapped anchors", "", *association_of_cmal(rows), ""]
    lines += ["Both directions together, of every form of CMAL:", "", *association_of_forms(rows), ""]
    if measured & ABLATIONS.keys():
        lines += [
            "## Ablations of CMAL, all pairs",
            "",
            "One seed each, beside all seeds of CMAL: what differs by less than those do is no finding.",
            "",
            *table(short, [(CMAL, 1.0)] + [(name, 1.0) for name in ABLATIONS]),
            "",
        ]
    if measured & TUNING.keys():
        lines += [
            "## Tuning, the same grid for every variant",
            "",
            f"A seed of its own ({TUNING_SEED}), all pairs; the recipe's own rate and weight come first.",
            "",
            *table(short, [(name, 1.0) for name in TUNING]),
            "",
        ]
    lines += ["## Room", "", *room(short), ""]
    return lines + [line for tuning, tuned in longer for line in section_of_tuning(tuned, tuning)]


def section_of_tuning(rows: Sequence[Row], tuning: Tuning) -> list[str]:
    """Lines on one other fine-tuning: table, claims and room, as far as measured."""
    lines = ["## Fine-tuned for {} steps at a rate of {}".format(*tuning), "", *table(rows, COMPARED), ""]
    if measured := [difference_sentence(name, found) for name, found in claims(rows).items() if found]:
        lines += [*measured, ""]
    return [*lines, *room(rows), ""]


def draw_curve(rows: Sequence[Row], path: Path) -> None:
    """Draws mean score against share of the pairs, one line per variant; 95% intervals stand side by side."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 4.2), layout="constrained")
    for number, variant in enumerate(VARIANTS):
        beside = 1 + 0.02 * (number - (len(VARIANTS) - 1) / 2)  # a factor, because the axis is logarithmic
        points = [(share, interval([mean_score(r) for r in of(rows, variant, share).values()]))
                  for share in SHARES if of(rows, variant, share)]  # fmt: skip
        if points:
            shares, intervals = zip(*points)
            errors = [half or 0.0 for _, half in intervals]
            means = [100 * mean for mean, _ in intervals]
            axes.errorbar(
                [100 * s * beside for s in shares],
                means,
                [100 * e for e in errors],
                label=variant,
                marker="o",
                capsize=3,
            )
    without = of(rows, WITHOUT, 1.0)
    if without:
        level = 100 * interval([mean_score(r) for r in without.values()])[0]
        axes.axhline(level, label="no pre-training", linestyle=":", color="grey")
    axes.set(xlabel="share of the pairs (%)", ylabel="mean of the four tasks (%)", xscale="log")
    axes.set_xticks([100 * s for s in SHARES], [f"{100 * s:g}" for s in SHARES])
    figure.legend(loc="outside upper center", ncols=len(VARIANTS) + 1, frameon=False, fontsize="small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def tuning_of(row: Row) -> Tuning:
    return row["fine_tuning_steps"], row["fine_tuning_rate"]


def grouped(rows: Sequence[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    """key -> rows with that key in their order; keys ascending."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return dict(sorted(groups.items()))


def write_report(results: Path, folder: Path) -> str:
    """Writes compare.md and compare.png beside the results; returns the report's text.

    The curve shows the runs with the fewest pre-training steps. Longer pre-trainings follow under their own headings.
    """
    (_, first), *more = grouped(json.loads(results.read_text())["runs"], itemgetter("steps")).items()
    draw_curve(next(iter(grouped(first, tuning_of).values())), folder / "compare.png")
    text = [
        "# CMAL beside contrastive pre-training, on scenes",
        "",
        "Equal architecture, steps and rates for every variant. Main metric of each task in %, mean ± half the 95% interval "
        "over seeds.",
        "",
        "![mean score against share of pairs](compare.png)",
        "",
        *sections_of_pretraining(first),
    ]
    for steps, rows in more:
        text += [f"# Pre-trained for {steps} steps", "", *sections_of_pretraining(rows)]
    (folder / "compare.md").write_text("\n".join(text))
    return "\n".join(text)
