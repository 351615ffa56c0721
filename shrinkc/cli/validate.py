"""``shrinkc validate``: original against compressed on every runtime present."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from shrinkc.cli.options import InputShape, output_options, progress_for, shapes_of
from shrinkc.errors import BuildError, RuntimeUnavailable, VerificationError

if TYPE_CHECKING:
    from shrinkc.report.validation import EngineResult, Validation


PIPE_WIDTH = 190
ON_ARM64 = ("arm64:ncnn", "arm64:mnn")


@click.command()
@click.argument("original", type=click.Path(dir_okay=False))
@click.argument("compressed", type=click.Path(dir_okay=False))
@click.option("--runtimes", default="auto", metavar="NAMES", help="Which ones, by comma; auto is every one that is here.")
@click.option(
    "--emulate-arm64",
    is_flag=True,
    help="Also run ncnn and MNN on the arm64 instruction set, emulated: numbers only, never times.",
)
@click.option("--data", metavar="SOURCE", help="Samples, as for compress.  [default: made up from the model]")
@click.option("--preprocess", metavar="PRESET_OR_TOML", help="How images become inputs, as for compress.")
@click.option("--inputs", "n_inputs", type=click.IntRange(1), default=4, show_default=True, help="Runs compared.")
@click.option("--input-shapes", multiple=True, type=InputShape(), help="Size of free dimensions, x:1x3x224x224.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "float16", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Type the runtimes shall compute in.",
)
@click.option("--time", "is_timed", is_flag=True, help="Also time both models, in turns, wherever the numbers are right.")
@click.option("--keep", metavar="FOLDER", help="Keep what each runtime's converter made of COMPRESSED: .ort, .mnn, engines, …")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, min_open=True),
    default=600.0,
    show_default=True,
    metavar="SECONDS",
    help="Most time of one conversion; longer ones are ended and the other runtimes go on.",
)
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of made-up inputs.")
@output_options
def validate(
    original: str,
    compressed: str,
    runtimes: str,
    emulate_arm64: bool,
    data: str | None,
    preprocess: str | None,
    n_inputs: int,
    input_shapes: tuple[tuple[str, tuple[int, ...]], ...],
    precision: str,
    is_timed: bool,
    keep: str | None,
    timeout_s: float,
    threads: int,
    seed: int,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    debug: bool,
) -> None:
    r"""Run COMPRESSED on every runtime and compare: with onnxruntime on the same model, and with ORIGINAL.

    \b
    shrinkc validate model.onnx model.shrunk.onnx
    shrinkc validate model.onnx model.shrunk.onnx --runtimes openvino,ncnn --data samples.npz --time
    """
    progress = progress_for(quiet, verbose)
    asked = tuple(name.strip() for name in runtimes.split(",") if name.strip())
    names = (*asked, *ON_ARM64) if emulate_arm64 else asked

    from shrinkc.validating import validate as run

    found = run(
        original,
        compressed,
        runtimes=names,
        data=data,
        preprocess=preprocess,
        n_inputs=n_inputs,
        input_shapes=shapes_of(input_shapes),
        precision=precision,
        threads=threads,
        seed=seed,
        is_timed=is_timed,
        keep=keep,
        timeout_s=timeout_s,
        progress=progress,
    )
    _print(found, quiet, as_json)
    _judge(found, names)


def _print(found: Validation, is_quiet: bool, as_json: bool) -> None:
    if as_json:
        from shrinkc.report.json import strict

        click.echo(strict(found.to_json()), nl=False)
    elif not is_quiet:
        from rich.console import Console

        from shrinkc.report.validation_table import show

        # A file or a pipe has no width; figures should not be cut there.
        show(found, Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH))


def _judge(found: Validation, names: tuple[str, ...]) -> None:
    """Fail if numbers are wrong; of runtimes asked for by name, also if one is missing or refuses the model."""
    for result in found.results:
        if result.status == "failed" and result.own:
            raise VerificationError("a runtime computes something else", where=result.runtime, because=result.reason)
    for result in found.results:
        if result.runtime in names and result.status != "ok":
            raise _error(result)


def _error(result: EngineResult) -> BuildError | RuntimeUnavailable:
    if result.status == "failed":
        return BuildError("a runtime cannot take the model", where=result.runtime, because=result.reason)
    return RuntimeUnavailable("a runtime was not run", where=result.runtime, because=result.reason)
