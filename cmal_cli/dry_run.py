"""`--dry-run` of `cmal pretrain` and `cmal finetune`: the estimate as two tables."""

from __future__ import annotations

from typing import Any


def dry_run_here(recipe: Any, start: str, device: str | None, quiet: bool) -> None:
    """Runs the estimate in one process; the first process prints it."""
    from cmal.runs.dry_run import estimate_training

    estimate, context = estimate_training(recipe, start, device)
    if context.is_first and not quiet:
        show_estimate(recipe.out, estimate)


def show_estimate(run: str, estimate: Any) -> None:
    """Prints the parameters by part, then time, memory and disk of the run."""
    from cmal_cli.display import show_table

    e = estimate
    show_table("parameters", ("part", "parameters"), list(e.parameters.items()))
    rows = [
        ("steps", f"{e.steps:,} of {e.examples:,} examples, {e.processes} process{'es' if e.processes > 1 else ''}"),
        ("tokens per step", f"{e.tokens:,.0f} word pieces and regions"),
        ("FLOPs per step", f"{e.flops / 1e9:,.1f} G, {e.flops / e.step_s / 1e9:,.1f} G per second"),
        ("time per step", f"{e.step_s:.3f} s, mean of {e.timed_steps}"),
        ("peak memory", f"{e.peak_memory_bytes / 1e9:.2f} GB per process"),
        ("checkpoint", f"{size_text(e.checkpoint_bytes)}, written in {e.save_s:.1f} s"),
        (
            "disk",
            f"{size_text(e.kept_bytes)} at the end, {size_text(e.most_bytes)} at most; {size_text(e.free_bytes)} free",
        ),
        ("whole run", f"{e.total_s / 3600:.3g} hours ({time_text(e.total_s)})"),
    ]
    show_table(f"dry run of {run}", ("what", "estimate"), rows)


def size_text(count: int) -> str:
    """Bytes as MB or GB."""
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def time_text(seconds: float) -> str:
    """Seconds as s, min or h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{int(minutes // 60)} h {int(minutes % 60)} min"
