"""``shrinkc inspect``: what could be removed, and why the rest could not."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from shrinkc.cli.options import model_options, output_options, progress_for, shapes_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.tree import Tree

    from shrinkc.explaining import Explanation
    from shrinkc.inspection import GroupSummary, Inspection

PIPE_WIDTH = 140

SHOWN_MEMBERS = 6
"""Tensors of one group that the terminal lists; the JSON has them all."""


@click.command()
@click.argument("model", type=click.Path(dir_okay=False))
@click.option("--why", metavar="NODE", help="Explain one node, by its name or that of an output (shell pattern).")
@model_options
@output_options
def inspect(
    model: str,
    why: str | None,
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
    shapes = shapes_of(input_shapes)
    if why is not None:
        if exclude or include:
            raise click.UsageError("--include and --exclude have no effect with --why")
        from shrinkc.explaining import explain

        _print(explain(model, why, input_shapes=shapes, prune=prune, progress=progress), quiet, as_json)
        return

    from shrinkc.inspection import inspect as run

    found = run(model, input_shapes=shapes, exclude=exclude, include=include, prune=prune, progress=progress)
    _print(found, quiet, as_json)


def _print(result: Inspection | Explanation, is_quiet: bool, as_json: bool) -> None:
    from shrinkc.explaining import Explanation

    if as_json:
        click.echo(json.dumps(result.to_json(), indent=1))
    elif not is_quiet:
        from rich.console import Console

        # A file or a pipe has no width; names should not be broken there.
        console = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
        if isinstance(result, Explanation):
            _show_node(result, console)
        else:
            _show(result, console)


def _show(inspection: Inspection, console: Console) -> None:
    from rich.markup import escape

    from shrinkc.report.rows import count, size

    cost = inspection.cost
    shapes = ", ".join(f"{name} {list(shape)}" for name, shape in inspection.input_shapes.items())
    totals = f"{count(cost.macs)} MACs, {count(cost.parameters)} parameters, {size(cost.size_bytes)}"
    console.print(escape(f"{inspection.model}: {totals}, at {shapes}"))
    reach = f"{inspection.prunable_macs:.0%} of the MACs and {inspection.prunable_parameters:.0%} of the parameters"
    console.print(f"Within reach: {reach} go if every group keeps as little as it may.")
    console.print(_group_tree(inspection))
    if inspection.refusals:
        console.print(_refusal_tree(inspection))


def _group_tree(inspection: Inspection) -> Tree:
    from rich.markup import escape
    from rich.tree import Tree

    tree = Tree(f"{len(inspection.groups)} groups can be pruned")
    for group in inspection.groups:
        branch = tree.add(escape(_headline(group)))
        for member in group.members[:SHOWN_MEMBERS]:
            what = f"{member.role:>8} {member.tensor}, axis {member.axis} ({member.length}), {member.op_type} {member.node}"
            branch.add(escape(what.rstrip()))
        if len(group.members) > SHOWN_MEMBERS:
            branch.add(f"{len(group.members) - SHOWN_MEMBERS} more (--json lists them)")
    return tree


def _headline(group: GroupSummary) -> str:
    from shrinkc.report.rows import count

    remarks = [] if group.is_exact else ["mixed by a normalisation"]
    if group.channels_per_step > 1:
        remarks.append(f"in steps of {group.channels_per_step}")
    if group.balance_cells > 1:
        remarks.append(f"equally from {group.balance_cells} rows")
    held = f"holds {count(group.macs)} MACs, {count(group.parameters)} parameters"
    return "; ".join([f"{group.name}: {group.kind}, {group.channels} channels, {held}", *remarks])


def _refusal_tree(inspection: Inspection) -> Tree:
    from rich.markup import escape
    from rich.tree import Tree

    from shrinkc.analysis.remedies import remedy
    from shrinkc.report.rows import count

    tree = Tree("kept whole")
    for refusal in inspection.refusals:
        held = f"{refusal.channels} channels, {count(refusal.macs)} MACs, {count(refusal.parameters)} parameters"
        branch = tree.add(escape(f"{refusal.blocker.reason}: {held}"))
        if refusal.blocker.node:
            branch.add(escape(f"at {refusal.blocker.op_type} {refusal.blocker.node}"))
        if advice := remedy(refusal.blocker):
            branch.add(escape(f"try: {advice}"))
    return tree


def _show_node(explanation: Explanation, console: Console) -> None:
    from rich.markup import escape
    from rich.tree import Tree

    tree = Tree(escape(f"{explanation.op_type} {explanation.node}"))
    places: dict[str, Tree] = {}
    for axis in explanation.axes:
        place = f"{axis.place}, axis {axis.axis} of {axis.size}"
        if place not in places:
            places[place] = tree.add(escape(place))
        branch = places[place].add(escape(f"{axis.channels}: {axis.state}"))
        if axis.remedy:
            branch.add(escape(f"try: {axis.remedy}"))
    console.print(tree)
