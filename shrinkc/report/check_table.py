"""A check for a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from shrinkc.report.check import FAILED, PASSED, SKIPPED, Check, remarks

COLOURS = {PASSED: "green", FAILED: "bold red", SKIPPED: "dim"}


def show(check: Check, console: Console) -> None:
    """Print one row a limit, then why those that are not passed are not."""
    table = Table(title=escape(f"{check.compressed} against {check.original}"), title_justify="left", box=None, pad_edge=False)
    for name in ("limit", "allowed", "found", ""):
        table.add_column(name, overflow="fold")
    for verdict in check.verdicts:
        colour = COLOURS.get(verdict.status, "yellow")
        cells = map(escape, (verdict.name, verdict.allowed, verdict.found))
        table.add_row(*cells, f"[{colour}]{verdict.status}[/{colour}]")
    console.print(table)
    for verdict in check.verdicts:
        if verdict.detail:
            console.print(escape(f"{verdict.name}: {verdict.detail}"), soft_wrap=True)
    for line in remarks(check):
        console.print(escape(line), soft_wrap=True)
