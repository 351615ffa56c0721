"""A profile for a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from shrinkc.report.profile import OK, ModelProfile, Profile, pairs
from shrinkc.report.rows import count, seconds, size


def show(profile: Profile, console: Console, most: int) -> None:
    """Print the layers that take longest, and how much to believe it."""
    for model in profile.models:
        _show_model(model, console, most)
    if profile.speedup is not None:
        _show_pairs(profile, console, most)
    for line in remarks(profile):
        console.print(escape(line), soft_wrap=True)


def _show_model(model: ModelProfile, console: Console, most: int) -> None:
    table = Table(title=f"{escape(model.model)}: {seconds(model.run_s)} a run", title_justify="left")
    table.add_column("layer")
    for name in ("kernel", "time", "share", "MACs", "bytes", "MACs/byte", "x roofline"):
        table.add_column(name, justify="right")
    for row in sorted(model.rows, key=lambda row: -row.time_s)[:most]:
        distance = "-" if row.distance is None else f"{row.distance:.1f}"
        figures = seconds(row.time_s), f"{row.share:.1%}", count(row.macs), size(row.traffic_bytes), f"{row.intensity:.1f}"
        table.add_row(escape(row.name), escape(row.op_type), *figures, distance)
    console.print(table)
    if len(model.rows) > most:
        console.print(f"… {len(model.rows) - most} more kernels (--layers N, --json)")


def _show_pairs(profile: Profile, console: Console, most: int) -> None:
    table = Table(title=f"{profile.speedup:.2f}x speed", title_justify="left")
    table.add_column("layer")
    for name in ("before", "after", "speed"):
        table.add_column(name, justify="right")
    for pair in pairs(profile)[:most]:
        speed = f"{pair.before_s / pair.after_s:.2f}x" if pair.before_s and pair.after_s else ""
        times = ["-" if value is None else seconds(value) for value in (pair.before_s, pair.after_s)]
        table.add_row(escape(pair.name), *times, speed)
    console.print(table)


def remarks(profile: Profile) -> list[str]:
    """How it was measured, and whether it can be believed."""
    lines = [
        f"{profile.runtime} {profile.version}, {profile.provider}, {profile.threads} thread(s), batch {profile.batch}, "
        f"load average {profile.load_average:.1f}; {profile.machine['processor']}.",
        f"Roofline: {profile.roofline}.",
    ]
    if profile.outcome != OK:
        lines.append(f"{profile.outcome.upper()}: {profile.reason}.")
    return lines
