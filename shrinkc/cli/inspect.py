"""``shrinkc inspect``: what can be removed, what cannot, and what that costs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from shrinkc.cli.options import model_options, output_options, progress_for, shapes_of

if TYPE_CHECKING:
    from shrinkc.inspection import Inspection


PIPE_WIDTH = 140


@click.command()
@click.argument("model", type=click.Path(dir_okay=False))
@model_options
@output_options
def inspect(
    model: str,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    debug: bool,
    input_shapes: tuple[tuple[str, tuple[int, ...]], ...],
    exclude: tuple[str, ...],
    include: tuple[str, ...],
    prune: str | None,
) -> None:
    """List the channel groups of MODEL and the reasons for everything that must stay."""
    progress = progress_for(quiet, verbose)

    from shrinkc.inspection import inspect as run

    inspection = run(
        model, input_shapes=shapes_of(input_shapes), exclude=exclude, include=include, prune=prune, progress=progress
    )
    if as_json:
        click.echo(json.dumps(inspection.to_json(), indent=1))
    elif not quiet:
        _show(inspection)


def _show(inspection: Inspection) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from shrinkc.report.rows import count, size

    # A file or a pipe has no width; names should not be broken there.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
    cost = inspection.cost
    shapes = ", ".join(f"{name} {list(shape)}" for name, shape in inspection.input_shapes.items())
    totals = f"{count(cost.macs)} MACs, {count(cost.parameters)} parameters, {size(cost.size_bytes)}"
    console.print(escape(f"{inspection.model}: {totals}, at {shapes}"))
    table = Table(title=f"{len(inspection.groups)} groups can be pruned", title_justify="left")
    for name in ("group", "kind", "channels", "tensors", "holds MACs", "holds parameters", "remarks"):
        table.add_column(name, justify="left" if name in ("group", "kind", "remarks") else "right", overflow="fold")
    for group in inspection.groups:
        remarks = [] if group.is_exact else ["mixed by a normalisation"]
        if group.channels_per_step > 1:
            remarks.append(f"in steps of {group.channels_per_step}")
        if group.balance_cells > 1:
            remarks.append(f"equally from {group.balance_cells} rows")
        table.add_row(
            escape(group.name),
            group.kind,
            str(group.channels),
            str(group.tensors),
            count(group.macs),
            count(group.parameters),
            ", ".join(remarks),
        )
    console.print(table)
    refused = Table(title="kept whole", title_justify="left")
    for name in ("reason", "node", "channels", "MACs", "parameters"):
        refused.add_column(name, justify="left" if name in ("reason", "node") else "right", overflow="fold")
    for refusal in inspection.refusals:
        refused.add_row(
            escape(refusal.blocker.reason),
            escape(refusal.blocker.node),
            str(refusal.channels),
            count(refusal.macs),
            count(refusal.parameters),
        )
    if inspection.refusals:
        console.print(refused)
