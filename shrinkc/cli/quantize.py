"""``shrinkc quantize``: another precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from shrinkc.cli.options import output_options, progress_for

if TYPE_CHECKING:
    from shrinkc.quantizing import Quantized


@click.command()
@click.argument("model", type=click.Path(dir_okay=False))
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), help="The converted model.")
@click.option("--to", type=click.Choice(["float16", "bfloat16", "int8"]), default="int8", show_default=True)
@click.option(
    "--target", "target_name", default="cpu", show_default=True, help="Whose runtime decides the style of Q/DQ nodes."
)
@click.option("--data", metavar="SOURCE", required=True, help="Samples, as for compress.")
@click.option("--eval-data", metavar="SOURCE", help="Samples to judge on.  [default: every fourth of --data]")
@click.option("--preprocess", metavar="PRESET_OR_TOML", help="How images become inputs, as for compress.")
@click.option("--max-drop", type=float, metavar="POINTS", help="Fail, and set the model aside, if it loses more.")
@output_options
def quantize(
    model: str,
    output: str,
    to: str,
    target_name: str,
    data: str,
    eval_data: str | None,
    preprocess: str | None,
    max_drop: float | None,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    debug: bool,
) -> None:
    r"""Convert MODEL to float16, bfloat16, or int8 the way the target's runtime likes it; measure it beside the original.

    \b
    shrinkc quantize model.shrunk.onnx --data samples.npz -o model.int8.onnx --max-drop 1
    """
    progress = progress_for(quiet, verbose)

    from shrinkc.quantizing import quantize as run

    found = run(
        model,
        output=output,
        data=data,
        eval_data=eval_data,
        preprocess=preprocess,
        to=to,
        target_name=target_name,
        max_drop=max_drop,
        progress=progress,
    )
    if as_json:
        from shrinkc.report.json import strict

        click.echo(strict(found.to_json()), nl=False)
    elif not quiet:
        _show(found)


def _show(found: Quantized) -> None:
    from shrinkc.report.rows import seconds, size

    quality, latency = found.quality, found.latency
    click.echo(f"{found.model} in {found.precision} for {found.target}: {found.output}")
    click.echo(f"  file size  {size(found.bytes_before)} to {size(found.bytes_after)}")
    if quality.accuracy_before is not None and quality.accuracy_after is not None:
        click.echo(f"  accuracy   {quality.accuracy_before:.2%} to {quality.accuracy_after:.2%}, {quality.samples} samples")
    for one in quality.agreement:
        agreement = "" if one.top1 is None else f", agreement {one.top1:.2%}"
        click.echo(f"  {one.output}: cosine {one.cosine:.5f}, relative error {one.relative_error:.2%}{agreement}")
    if found.verdict is not None:
        within = "within" if found.verdict.is_within else "OUTSIDE"
        click.echo(f"  {within} the tolerance of {found.precision}: {found.verdict.sentence}")
    if latency is not None:
        marked = ", by CPU time as others had the processor" if latency.is_contended else ""
        times = f"{seconds(latency.fair_seconds * latency.fair_speedup)} to {seconds(latency.fair_seconds)}"
        click.echo(f"  latency    {times}, {latency.fair_speedup:.2f}x speed on {found.latency_runtime}{marked}")
        if latency.fair_speedup < 1:
            click.echo("  SLOWER than the original on this machine")
    if found.islands:
        click.echo(f"  in float32 still: {', '.join(found.islands)}")
    for note in found.notes:
        click.echo(f"  {note}")
