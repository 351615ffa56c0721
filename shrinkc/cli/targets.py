"""``shrinkc targets``: the devices that models are compressed for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from shrinkc.cli.options import InputShape, progress_for, shapes_of
from shrinkc.errors import VerificationError

if TYPE_CHECKING:
    from shrinkc.board_results import BoardResult
    from shrinkc.target import Figure, Target


@click.group()
def targets() -> None:
    """Devices: list them, show what is known of one and how, add one, measure one, read what it measured."""


@targets.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def list_targets(as_json: bool) -> None:
    """Names of all targets, with what they run on."""
    from shrinkc import target

    found = [target.load(name) for name in target.names()]
    if as_json:
        from shrinkc.report.json import strict

        click.echo(strict([_json(one) for one in found]), nl=False)
        return
    width = max(len(one.name) for one in found)
    for one in found:
        also = f"  (also: {', '.join(one.aliases)})" if one.aliases else ""
        click.echo(f"{one.name:<{width}}  {one.description}; {one.runtime}, {one.precision}{also}")


@targets.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def show(name: str, as_json: bool) -> None:
    """Everything known of the target NAME (or of a TOML file), and where every figure comes from."""
    from shrinkc import target

    found = target.load(name)
    if as_json:
        from shrinkc.report.json import strict

        click.echo(strict(_json(found)), nl=False)
        return
    click.echo(f"{found.name}: {found.description}")
    if found.name != name and not found.origin:
        click.echo(f"{name} stands for {found.name}")
    click.echo(f"runtime {found.runtime}, precision {found.precision}, inherits: {' < '.join(found.lineage)}")
    _show_figures({f"channels, multiple of ({key})": value for key, value in found.channel_multiples.items()})
    _show_figures(found.figures)
    for note in found.notes:
        click.echo(f"note: {note}")
    if found.origin:
        click.echo(f"file: {found.origin}")


@targets.command()
@click.argument("file", type=click.Path(dir_okay=False))
def add(file: str) -> None:
    """Check the TOML file FILE and keep it as a target of its name."""
    from shrinkc import devices

    click.echo(f"{devices.add(file)}")


@targets.command()
@click.argument("name")
@click.argument("models", nargs=-1, required=True, type=click.Path(dir_okay=False))
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), help="The table; it grows if it is there.")
@click.option("--runtime", help="That runs the layers, also one elsewhere (remote:..., arm64:...).  [default: the target's]")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--input-shapes", multiple=True, type=InputShape(), help="Size of free dimensions, x:1x3x224x224.")
@click.option("--forms", metavar="NAMES", help="Also time the parts of layers factorised so: pointwise,matrix,spatial,tucker.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.option("-v", "--verbose", is_flag=True, help="Say how long it took.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def calibrate(
    name: str,
    models: tuple[str, ...],
    output: str,
    runtime: str | None,
    threads: int,
    input_shapes: tuple[tuple[str, tuple[int, ...]], ...],
    forms: str | None,
    quiet: bool,
    verbose: bool,
    debug: bool,
) -> None:
    r"""Time the layers of MODELS on the target NAME, at a grid of widths, for `compress --latency-table`.

    \b
    shrinkc targets calibrate cpu model.onnx -o cpu.json
    shrinkc compress model.onnx --latency 5ms --latency-table cpu.json
    """
    from shrinkc import devices

    progress = progress_for(quiet, verbose)
    shapes = shapes_of(input_shapes)
    names = [] if forms is None else [form.strip() for form in forms.split(",")]
    table = devices.calibrate(
        name, models, output, runtime=runtime, threads=threads, input_shapes=shapes, forms=names, progress=progress
    )
    points = sum(map(len, table.layers.values()))
    click.echo(f"{output}: {len(table.layers)} layers, {points} points, blocks of {table.block} channels")


@targets.command(name="read")
@click.argument("results", nargs=-1, required=True, type=click.Path(dir_okay=False))
@click.option("--folder", type=click.Path(file_okay=False), help="What was sent there.  [default: where the result lies]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def read_results(results: tuple[str, ...], folder: str | None, as_json: bool, debug: bool) -> None:
    r"""Check the RESULTS that a board wrote against what was sent there, and put them into the report.

    \b
    shrinkc targets read model.fp16.onnx.result.json --folder model.shrunk.jetson-orin-nano

    Exits with 5 if the board ran another file, or its outputs are off; such times do not count.
    """
    from dataclasses import asdict
    from pathlib import Path

    from shrinkc import board_results

    found = board_results.read(results, folder)
    report = board_results.merge(found, Path(folder) if folder is not None else Path(results[0]).parent)
    if as_json:
        from shrinkc.report.json import strict

        click.echo(
            strict({"report": None if report is None else str(report), "results": [asdict(one) for one in found]}), nl=False
        )
    else:
        for one in found:
            click.echo("\n  ".join((one.sentence(), *one.notes)))
        click.echo(f"report: {report}" if report is not None else "no report lies beside the folder; nothing was written")
    _judge(found)


def _judge(found: list[BoardResult]) -> None:
    """End with an error if numbers of a board are wrong."""
    for one in found:
        if one.status != "ok":
            raise VerificationError("a board computes something else", where=one.file, because=one.reason)


def _show_figures(figures: Any) -> None:
    for name, figure in figures.items():
        click.echo(_line(name, figure))


def _line(name: str, figure: Figure) -> str:
    state = "verified" if figure.is_verified else "NOT verified"
    return f"  {name}: {figure.value}{' ' + figure.unit if figure.unit else ''}  [{figure.basis}, {state}] {figure.source}"


def _json(found: Target) -> dict[str, Any]:
    from dataclasses import asdict

    return {"schema": "shrinkc.target/1", **asdict(found)}
