"""``shrinkc train``: training by a recipe, with labels or with the original as the teacher."""

from __future__ import annotations

from typing import Any

import click

from shrinkc.cli.options import aside, output_options, progress_for
from shrinkc.launching import rank


@click.command()
@click.argument("model", type=click.Path(dir_okay=False))
@click.option("--recipe", metavar="NAME|FILE", help="Training recipe: a name (`shrinkc recipes` lists them) or a TOML file.")
@click.option("--method", metavar="NAME", help="In place of a recipe: a training method, with the settings of its own recipe.")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="A setting over the recipe's, of every method (`batch=64`) or of this one (`macs=40%`); repeatable.",
)
@click.option(
    "--macs", metavar="BUDGET", help="What a method that lowers ranks leaves: 50% or absolute (1.5G).  [default: 50%]"
)
@click.option(
    "--data", required=True, metavar="SOURCE", help="Samples to train on, as for compress; labels in the .npz if needed."
)
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="Trained model.  [default: NAME.trained.onnx here]")
@click.option("--eval-data", metavar="SOURCE", help="Samples to measure quality on.")
@click.option("--preprocess", metavar="PRESET_OR_TOML", help="How images become inputs.")
@click.option("--samples", type=click.IntRange(1), metavar="N", help="Most samples to read of each source.")
@click.option(
    "--budget", metavar="BUDGET", help="Of a training phase: `5epochs`, `3min`, `3cpumin`, ... [default: the recipe's]"
)
@click.option(
    "--checkpoint",
    type=click.Path(dir_okay=False),
    help="Where the run writes how far it is, and goes on from if it was interrupted.",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="What to train on.  [default: the recipe's, else cpu]")
@click.option("--threads", type=click.IntRange(1), help="Of the processor.  [default: all]")
@click.option("--seed", type=click.IntRange(0), help="Of whatever is drawn at random.  [default: 0]")
@output_options
def train(
    model: str, quiet: bool, verbose: bool, as_json: bool, debug: bool, assignments: tuple[str, ...], **options: Any
) -> None:
    r"""Train MODEL by a recipe and write it back as ONNX.

    \b
    shrinkc train model.onnx --recipe slimming --data train.npz
    shrinkc train model.onnx --method lrpet --macs 50% --data train.npz
    torchrun --nproc-per-node 2 -m shrinkc train model.onnx --recipe mine.toml --data train.npz
    """
    settings = _with_assignments({name: value for name, value in options.items() if value is not None}, assignments)
    if rank():
        quiet, as_json, verbose = True, False, False
        settings.update(aside(settings, ("output",)))
    progress = progress_for(quiet, verbose)

    from shrinkc.learning import train as run

    report = run(model, progress=progress, **settings)
    if as_json:
        from shrinkc.report.json import dumps

        click.echo(dumps(report), nl=False)
    elif not quiet:
        from shrinkc.report.training import lines

        for line in [*lines(report), *(f"{name:>8}: {path}" for name, path in report.files.items())]:
            click.echo(line)


def _with_assignments(given: dict[str, Any], assignments: tuple[str, ...]) -> dict[str, Any]:
    """Flags together with what ``--set`` says; each setting once."""
    if ("recipe" in given) == ("method" in given):
        raise click.UsageError("give --recipe or --method, one of them")
    flags = {name: value for name, value in given.items() if name != "macs"}
    own = {"macs": given["macs"]} if "macs" in given else {}
    if not assignments:
        return {**flags, "options": own} if own else flags

    from shrinkc.training.recipe_files import assigned

    found = assigned(assignments)
    options = found.pop("options", {})
    twice = sorted((found.keys() & given.keys()) | (options.keys() & own.keys()))
    if twice:
        raise click.UsageError(f"--set and a flag both give {', '.join(twice)}")
    return {**flags, **found, "options": {**options, **own}}
