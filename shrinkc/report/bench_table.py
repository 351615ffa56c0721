"""A sweep for a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from shrinkc.report.bench import Bench, cells, remarks


def show(bench: Bench, console: Console) -> None:
    """Print one row a run, shares of the original's, and the remarks."""
    table = Table(title=escape(bench.model), title_justify="left", box=None, pad_edge=False)
    table.add_column("method", overflow="fold")
    for name in (bench.quantity, "MACs", "parameters", "size", bench.metric or "quality", "latency", "speed"):
        table.add_column(name, justify="right", overflow="fold")
    for row in bench.rows:
        table.add_row(*map(escape, cells(row, bench)))
    console.print(table)
    if bench.score_before is not None:
        console.print(f"The original: {bench.metric} {bench.score_before:.2%}.")
    for line in remarks(bench):
        console.print(escape(line), soft_wrap=True)
