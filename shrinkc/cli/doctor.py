"""``shrinkc doctor``: what is installed, what is missing and how to get it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

    from shrinkc.doctor import Examination


PIPE_WIDTH = 170


@click.command()
@click.option("--load", "is_loading", is_flag=True, help="Import each runtime, too, in a process of its own (seconds each).")
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON on stdout.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def doctor(is_loading: bool, as_json: bool, debug: bool) -> None:
    """List every runtime: its version and devices, or why it is missing and the command that brings it."""
    from shrinkc import doctor as examining

    found = examining.examine_by_importing() if is_loading else examining.examine()
    if as_json:
        from shrinkc.report.json import strict

        click.echo(strict(found.to_json()), nl=False)
        return
    from rich.console import Console

    # A file or a pipe has no width; commands should not be cut there.
    _show(found, Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH))


def _show(found: Examination, console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    isa = next((finding.probe.isa for finding in found.findings if finding.probe.isa), ())
    machine = f"{found.machine['processor']}, {found.machine['cpus']} CPUs, {found.machine['system']}"
    console.print(escape(f"{machine}; {' '.join(isa) or 'instruction sets unknown'}"), soft_wrap=True)
    console.print(", ".join(f"{name} {version}" for name, version in found.versions.items()), soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    for name in ("runtime", "version", "devices, or why it is missing", "get it with"):
        table.add_column(name, overflow="fold")
    for finding in found.findings:
        probe = finding.probe
        lacking = "to be named with what it runs on" if finding.needs_name else f"missing: {probe.reason}"
        state = ", ".join(probe.devices) if probe.is_available else lacking
        table.add_row(finding.runtime, escape(probe.version), escape(state), escape(probe.hint))
    console.print(table)
