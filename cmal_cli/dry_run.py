"""`--dry-run` of `cmal pretrain` and `cmal finetune`: the estimate as two tables."""

from __future__ import annotations

from typing import Any


def dry_run_here(recipe: Any, start: str, device: str | None, quiet: bool) -> None:
    """One process's part of the estimate; the first one prints."""
    from cmal.runs.dry_run import estimate_training

    estimate, place = estimate_training(recipe, start, device)
    if place.is_first and not quiet:
        show_estimate(recipe.out, estimate)


def show_estimate(run: str, estimate: Any) -> None:
    """Parameters by part, then what the run takes."""
    from cmal_cli.display import show_parameters, show_table

    e = estimate
    show_parameters(e.parameters)
    rows = [
        ("steps", f"{e.steps:,} of {e.examples:,} examples, {e.processes} process{'es' if e.processes > 1 else ''}"),
        ("tokens a step", f"{e.tokens:,.0f} word pieces and regions"),
        ("FLOPs a step", f"{e.flops / 1e9:,.1f} G, {e.flops / e.step_s / 1e9:,.1f} G a second"),
        ("time a step", f"{e.step_s:.3f} s, mean of {e.timed_steps}"),
        ("peak memory", f"{e.peak_memory_bytes / 1e9:.2f} GB a process"),
        ("checkpoint", f"{size_text(e.checkpoint_bytes)}, written in {e.save_s:.1f} s"),
        (
            "disk",
            f"{size_text(e.kept_bytes)} at the end, {size_text(e.most_bytes)} at most; {size_text(e.free_bytes)} free",
        ),
        ("whole run", f"{e.total_s / 3600:.3g} hours ({time_text(e.total_s)})"),
    ]
    show_table(f"dry run of {run}", ("what", "estimate"), rows)


def size_text(count: int) -> str:
    """Bytes as a person reads them."""
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def time_text(seconds: float) -> str:
    """Seconds as a person reads them."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{int(minutes // 60)} h {int(minutes % 60)} min"
