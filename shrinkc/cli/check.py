"""``shrinkc check``: a gate for pipelines."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shrinkc.cli.options import InputShape, output_options, progress_for, shapes_of
from shrinkc.errors import GateError, InconclusiveError, RecipeError, RuntimeUnavailable, ShrinkcError

if TYPE_CHECKING:
    from shrinkc.report.check import Check, Verdict

PIPE_WIDTH = 140


@click.command()
@click.argument("original", type=click.Path(dir_okay=False))
@click.argument("compressed", type=click.Path(dir_okay=False))
@click.option("--limits", type=click.Path(dir_okay=False), help="TOML file of limits; flags take precedence.")
@click.option("--max-drop", metavar="POINTS", help="Loss of accuracy; without labels of agreement, without classes of cosine.")
@click.option("--min-accuracy", metavar="SHARE", help="Of the result, 91% or 0.91; needs labels.")
@click.option("--min-agreement", metavar="SHARE", help="Samples whose largest class is the original's.")
@click.option("--max-macs", metavar="BUDGET", help="50% of the original's, or 1.5G.")
@click.option("--max-params", metavar="BUDGET", help="50% of the original's, or 1.5M.")
@click.option("--max-size", metavar="BUDGET", help="50% of the original's, or 800KB.")
@click.option("--min-speedup", metavar="FACTOR", help="Measured here on onnxruntime, in turns with the original.")
@click.option("--runtimes", metavar="NAMES", help="Engines, by comma, that must load it and agree; auto: all that are here.")
@click.option("--plan", type=click.Path(dir_okay=False), help="Replay this plan; it must give the same bytes, proved.")
@click.option("--calibration", metavar="SOURCE", help="--data of the run that made the plan (its --eval-data is --data here).")
@click.option("--data", metavar="SOURCE", help="Samples to judge on, as for compress.")
@click.option("--preprocess", metavar="PRESET_OR_TOML", help="How images become inputs, as for compress.")
@click.option("--samples", type=click.IntRange(1), metavar="N", help="Most samples to read of each source.")
@click.option("--input-shapes", multiple=True, type=InputShape(), help="Size of free dimensions, x:1x3x224x224.")
@click.option("--threads", type=click.IntRange(1), help="Of the measurement of speed.  [default: 1]")
@click.option("--junit", type=click.Path(dir_okay=False), help="Write JUnit XML, one test case a limit.")
@click.option("--markdown", type=click.Path(dir_okay=False), help="Write a summary for a pull request.")
@click.option("--append-markdown", type=click.Path(dir_okay=False), help='Append it to a file: "$GITHUB_STEP_SUMMARY".')
@output_options
def check(
    original: str,
    compressed: str,
    input_shapes: tuple[tuple[str, tuple[int, ...]], ...],
    junit: str | None,
    markdown: str | None,
    append_markdown: str | None,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    debug: bool,
    **options: Any,
) -> None:
    r"""Hold COMPRESSED against limits, and exit with 1 if one is not met.

    \b
    shrinkc check model.onnx small.onnx --max-size 60% --max-drop 0.5 --data eval.npz
    shrinkc check model.onnx small.onnx --limits check.toml --data eval.npz --junit check.xml

    Exits with 6 if an engine asked for by name is missing, with 10 if the machine was too busy to tell the speed.
    """
    progress = progress_for(quiet, verbose)
    read = [options[name] for name in ("limits", "plan", "data", "calibration", "preprocess")]
    _refuse_overwriting([original, compressed, *read], [junit, markdown, append_markdown])

    from shrinkc.checking import check as run

    found = run(original, compressed, input_shapes=shapes_of(input_shapes), progress=progress, **options)
    _write(found, junit, markdown, append_markdown)
    _print(found, quiet, as_json)
    _judge(found)


def _refuse_overwriting(read: list[str | None], written: list[str | None]) -> None:
    taken = {Path(path).resolve() for path in read if path is not None}
    for path in written:
        if path is not None and Path(path).resolve() in taken:
            raise RecipeError("a result would overwrite what is read, or another result", where=path)
        taken |= {Path(path).resolve()} if path is not None else set()


def _write(found: Check, junit: str | None, markdown: str | None, append_markdown: str | None) -> None:
    from shrinkc.files import write_text
    from shrinkc.report import check_markdown
    from shrinkc.report import junit as report_junit

    if junit is not None:
        write_text(Path(junit), report_junit.render(found))
    if markdown is not None:
        write_text(Path(markdown), check_markdown.render(found))
    if append_markdown is not None:
        with Path(append_markdown).open("a", encoding="utf-8") as stream:
            stream.write(check_markdown.render(found))


def _print(found: Check, is_quiet: bool, as_json: bool) -> None:
    if as_json:
        from shrinkc.report.json import strict

        click.echo(strict(found.to_json()), nl=False)
    elif not is_quiet:
        from rich.console import Console

        from shrinkc.report.check_table import show

        # A file or a pipe has no width; figures should not be cut there.
        show(found, Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH))


def _judge(found: Check) -> None:
    """End with the error of the gravest verdict."""
    from shrinkc.report.check import PASSED

    if found.outcome != PASSED:
        raise _error(found.outcome, found.of_status(found.outcome))


def _error(outcome: str, verdicts: list[Verdict]) -> ShrinkcError:
    from shrinkc.report.check import FAILED, MISSING

    where = ", ".join(verdict.name for verdict in verdicts)
    because = "; ".join(f"{verdict.found}, {verdict.detail or verdict.allowed}" for verdict in verdicts)
    if outcome == FAILED:
        return GateError(f"{len(verdicts)} of the limits are not met", where=where, because=because)
    if outcome == MISSING:
        return RuntimeUnavailable("an engine that has to agree is not here", where=where, because=because)
    return InconclusiveError("the measurement does not tell", where=where, because=because, hint="run it on a quiet machine")
