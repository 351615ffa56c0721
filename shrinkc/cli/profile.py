"""``shrinkc profile``: where the time goes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from shrinkc.cli.options import InputShape, output_options, progress_for, shapes_of
from shrinkc.errors import InconclusiveError

if TYPE_CHECKING:
    from shrinkc.report.profile import Profile

PIPE_WIDTH = 160


@click.command()
@click.argument("model", type=click.Path(dir_okay=False))
@click.option("--compare", metavar="OTHER", type=click.Path(dir_okay=False), help="A second model, measured in turns.")
@click.option("--target", "target_name", default="cpu", show_default=True, help="Whose runtime and roofline are used.")
@click.option("--runtime", help="Another runtime than the target's.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--input-shapes", multiple=True, type=InputShape(), help="Size of free dimensions, x:1x3x224x224.")
@click.option("--layers", "most", type=click.IntRange(1), default=20, show_default=True, help="Kernels shown in the table.")
@click.option("--html", type=click.Path(dir_okay=False), help="Write a page.")
@click.option("--trace", type=click.Path(dir_okay=False), help="Write a trace for Perfetto (Chrome's JSON).")
@output_options
def profile(
    model: str,
    compare: str | None,
    target_name: str,
    runtime: str | None,
    threads: int,
    input_shapes: tuple[tuple[str, tuple[int, ...]], ...],
    most: int,
    html: str | None,
    trace: str | None,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    debug: bool,
) -> None:
    r"""Time every layer of MODEL on the target's runtime, and hold it against the least time the machine could take.

    \b
    shrinkc profile model.onnx
    shrinkc profile model.onnx --compare model.shrunk.onnx --html profile.html --trace trace.json

    Exits with 10 if the machine was too busy to believe the figures; they are shown all the same.
    """
    progress = progress_for(quiet, verbose)

    from shrinkc.profiling import profile as run

    shapes = shapes_of(input_shapes)
    found = run(
        model,
        compare=compare,
        target_name=target_name,
        runtime=runtime,
        input_shapes=shapes,
        threads=threads,
        progress=progress,
    )
    _write(found, html, trace)
    _print(found, quiet, as_json, most)
    if found.outcome != "ok":
        raise InconclusiveError(f"the measurement is {found.outcome}", because=found.reason, hint="run it on a quiet machine")


def _write(found: Profile, html: str | None, trace: str | None) -> None:
    from pathlib import Path

    from shrinkc.files import write_text
    from shrinkc.report.json import strict
    from shrinkc.report.profile import trace as trace_of

    if html is not None:
        from shrinkc.report.profile_html import render

        write_text(Path(html), render(found))
    if trace is not None:
        write_text(Path(trace), strict(trace_of(found)))


def _print(found: Profile, is_quiet: bool, as_json: bool, most: int) -> None:
    if as_json:
        from shrinkc.report.json import strict

        click.echo(strict(found.to_json()), nl=False)
    elif not is_quiet:
        from rich.console import Console

        from shrinkc.report.profile_table import show

        show(found, Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH), most)
