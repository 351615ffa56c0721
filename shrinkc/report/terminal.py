"""The report for a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from shrinkc.report.model import Report
from shrinkc.report.rows import FACTOR_COLUMNS, count, error, factor_cells, remarks, rows

MAX_REFUSALS = 3


def show(report: Report, console: Console) -> None:
    """Print the table, the remarks and where the results lie."""
    title = f"{report.model}" + ("" if report.is_written else "  (dry run: predicted)")
    table = Table(title=escape(title), title_justify="left")
    table.add_column("")
    for name in ("before", "after", "change"):
        table.add_column(name, justify="right")
    for row in rows(report):
        table.add_row(escape(row.label), row.before, row.after, row.change)
    console.print(table)
    for remark in remarks(report):
        console.print(escape(remark), soft_wrap=True)
    _show_refusals(report, console)
    for name, path in report.files.items():
        console.print(f"{name:>8}: {escape(path)}", soft_wrap=True)


def show_groups(report: Report, console: Console) -> None:
    """Print what went from every group, and what that is predicted to cost."""
    table = Table(title="error: share of energy; marginal: of the last step, per percent saved", title_justify="left")
    table.add_column("group")
    for name in ("before", "after", "predicted error", "marginal"):
        table.add_column(name, justify="right")
    for group in report.groups:
        widths = str(group.channels_before), str(group.channels_after)
        table.add_row(escape(group.name), *widths, error(group.predicted_error), error(group.marginal_cost))
    console.print(table)


def show_factors(report: Report, console: Console) -> None:
    """Print every layer that was factorised, or tried; the others and their reasons are in the report."""
    tried = [row for row in report.factors if row.form is not None]
    if not tried:
        return
    cells = [(row.layer, *factor_cells(row)) for row in tried]
    columns = [number for number in range(len(cells[0])) if any(row[number] not in ("", "-") for row in cells)]
    table = Table(title="layers; errors: share of the variance of their outputs", title_justify="left")
    for number in columns:
        table.add_column(("layer", *FACTOR_COLUMNS)[number], overflow="fold", no_wrap=number in NUMBERS)
    for row in cells:
        table.add_row(*(escape(row[number]) for number in columns))
    console.print(table)


NUMBERS = (1, 2, 3, 4, 5, 6)
"""Columns that are not broken, but for names and reasons."""


def _show_refusals(report: Report, console: Console) -> None:
    for refusal in report.refusals[:MAX_REFUSALS]:
        where = f" at {refusal.blocker.node}" if refusal.blocker.node else ""
        held = f"{refusal.channels} channels ({count(refusal.macs)} MACs, {count(refusal.parameters)} parameters)"
        console.print(escape(f"Kept whole: {held}: {refusal.blocker.reason}{where}"), soft_wrap=True)
    if len(report.refusals) > MAX_REFUSALS:
        console.print(f"… {len(report.refusals) - MAX_REFUSALS} more reasons; `shrinkc inspect` lists all", soft_wrap=True)
