"""``shrinkc bench``: many budgets and recipes on one model."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from shrinkc.cli.options import InputShape, output_options, progress_for, shapes_of

if TYPE_CHECKING:
    from shrinkc.report.bench import Bench

PIPE_WIDTH = 140


class Values(click.ParamType[tuple[str, ...]]):
    """Texts by comma."""

    name = "VALUES"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Parse one list."""
        if isinstance(value, tuple):
            return value
        return tuple(text.strip() for text in str(value).split(",") if text.strip())


@click.command()
@click.argument("model", type=click.Path(dir_okay=False))
@click.option("-o", "--output", type=click.Path(file_okay=False), help="Folder of the results.  [default: NAME.bench here]")
@click.option("--macs", type=Values(), metavar="BUDGETS", help="Multiply-accumulates that may remain: 70%,50%,30%.")
@click.option("--params", type=Values(), metavar="BUDGETS", help="Parameters that may remain.")
@click.option("--size", type=Values(), metavar="BUDGETS", help="Bytes of the file that may remain.")
@click.option("--speedup", type=Values(), metavar="FACTORS", help="How many times as fast: 1.5,2,3.")
@click.option("--prune-ratio", type=Values(), metavar="RATIOS", help="Share of every group's channels that goes: 0.3,0.5.")
@click.option("--recipe", "recipes", type=Values(), metavar="NAMES|FILES", help="Recipes.  [default: as for compress]")
@click.option("--criterion", "criteria", type=Values(), metavar="NAMES", help="In place of the recipes' own.")
@click.option("--random", "has_baseline", is_flag=True, help="Also choose channels at random, the rest done alike.")
@click.option("--data", metavar="SOURCE", help="Samples, as for compress.")
@click.option("--eval-data", metavar="SOURCE", help="Samples to measure quality on.  [default: those of --data]")
@click.option("--preprocess", metavar="PRESET_OR_TOML", help="How images become inputs, as for compress.")
@click.option("--samples", type=click.IntRange(1), metavar="N", help="Most samples to read of each source.")
@click.option("--target", help="What it shall run on.  [default: cpu]")
@click.option("--round-to", type=int, metavar="N", help="Keep multiples of N channels.  [default: the target's]")
@click.option("--input-shapes", multiple=True, type=InputShape(), help="Size of free dimensions, x:1x3x224x224.")
@click.option("--no-latency", is_flag=True, help="Skip the latency measurements.")
@click.option("--threads", type=click.IntRange(1), help="Threads of the latency measurements.  [default: 1]")
@click.option("--seed", type=click.IntRange(0), help="Of whatever is drawn at random.  [default: 0]")
@output_options
def bench(
    model: str,
    input_shapes: tuple[tuple[str, tuple[int, ...]], ...],
    no_latency: bool,
    threads: int | None,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    debug: bool,
    **options: Any,
) -> None:
    r"""Compress MODEL at several budgets, by several recipes and criteria, and chart what is left of it.

    \b
    shrinkc bench model.onnx --macs 70%,50%,30% --data samples.npz --random
    shrinkc bench model.onnx --macs 50% --recipe default --criterion obs,l2,taylor --data samples.npz

    The folder gets every model with its report, bench.json, bench.md and bench.svg.
    """
    if threads is not None and no_latency:
        raise click.UsageError("--threads has no effect with --no-latency")
    if no_latency and options["speedup"]:
        raise click.UsageError("a budget of time is checked by measuring; --no-latency contradicts it")
    progress = progress_for(quiet, verbose)

    from shrinkc.sweeping import bench as run

    given = {name: value for name, value in options.items() if value not in (None, ())}
    shapes = shapes_of(input_shapes)
    found = run(model, input_shapes=shapes, measure_latency=not no_latency, threads=threads or 1, progress=progress, **given)
    _print(found, quiet, as_json)


def _print(found: Bench, is_quiet: bool, as_json: bool) -> None:
    if as_json:
        from shrinkc.report.json import dumps

        click.echo(dumps(found), nl=False)
    elif not is_quiet:
        from rich.console import Console

        from shrinkc.report.bench_table import show

        # A file or a pipe has no width; figures should not be cut there.
        show(found, Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH))
