"""``shrinkc compress``: the main job."""

from __future__ import annotations

from typing import Any

import click

from shrinkc.cli.options import aside, model_options, output_options, progress_for, shapes_of
from shrinkc.launching import rank

PLANNING = (
    "recipe",
    "prune_ratio",
    "macs",
    "params",
    "size",
    "latency",
    "speedup",
    "criterion",
    "allocator",
    "method",
    "factorization",
    "forms",
    "merge_factors",
    "max_drop",
    "round_to",
    "min_width",
    "prune",
    "independent_groups",
    "exclude",
    "include",
    "target",
)
USERS_OF_CHANCE = ("data", "recipe", "criterion", "allocator", "compensation", "recover")
"""Without any of these nothing but the proof draws random numbers."""

OF_RANKS = ("factorization", "forms")
OF_CHANNELS = ("criterion", "prune_ratio", "min_width", "prune", "independent_groups")

GRADIENT_CRITERIA = ("fisher", "taylor")
DEFAULT_RECOVERY = "3min"
RECOVERY = ("recover", "recover_with", "checkpoint")
PLANNING_WITH_A_PLAN = tuple(name for name in PLANNING if name != "target")


@click.command()
@click.argument("model", type=click.Path(dir_okay=False))
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="Compressed model.  [default: NAME.shrunk.onnx here]")
@click.option(
    "--recipe",
    metavar="NAME|FILE",
    help="Settings by name (`shrinkc recipes` lists them) or from a TOML file; flags override.  "
    "[default: default with data, magnitude without]",
)
@click.option("--target", help="What it shall run on.  [default: cpu]")
@click.option(
    "--data",
    metavar="SOURCE",
    help="Samples: .npz with the input names as keys and optional labels, folder of arrays or images, or module:callable.",
)
@click.option("--eval-data", metavar="SOURCE", help="Samples to measure quality on.  [default: those of --data]")
@click.option(
    "--preprocess",
    metavar="PRESET_OR_TOML",
    help="How images become inputs: imagenet, imagenet-inception, imagenet-caffe, unit, grey, raw, or a file.",
)
@click.option(
    "--samples",
    type=click.IntRange(1),
    metavar="N",
    help="Most samples to read of each source.  [default: all of a file, else 1024]",
)
@click.option(
    "--gradients",
    type=click.Path(dir_okay=False),
    help="For criteria taylor and fisher: .npz of gradients under the names of the weights, one sample along the first axis.",
)
@click.option("--macs", metavar="BUDGET", help="Multiply-accumulates that may remain: 50% or 1.5G.  [default: 70%]")
@click.option("--params", metavar="BUDGET", help="Parameters that may remain: 50% or 1.5M.")
@click.option("--size", metavar="BUDGET", help="Bytes of the file that may remain: 50% or 800KB.")
@click.option("--latency", metavar="BUDGET", help="Time a run may take on the target: 50% or 5ms.")
@click.option("--speedup", type=float, metavar="FACTOR", help="The same as a factor: 2 asks for half the time.")
@click.option(
    "--latency-table",
    type=click.Path(dir_okay=False),
    help="Times of layers recorded on the target.  [default: measured here, else estimated from its profile]",
)
@click.option("--latency-cache", type=click.Path(file_okay=False), help="Folder that keeps times measured here.")
@click.option(
    "--prune-ratio",
    type=float,
    metavar="RATIO",
    help="Fraction of the channels of every group to remove, in place of a budget.",
)
@click.option(
    "--method",
    type=click.Choice(["channels", "lowrank", "auto"]),
    help="Remove channels, factorise layers, or whichever of both (or neither) costs each layer least.  [default: channels]",
)
@click.option(
    "--factorization",
    help="How factors are found: svd, bn-svd, whitened-svd.  [default: whitened-svd with data, bn-svd without]",
)
@click.option(
    "--forms",
    metavar="NAMES",
    help="What factorised layers may look like: pointwise,matrix,recurrent,embedding,spatial,tucker,pairs.  "
    "[default: the first four; pairs as well with --method auto]",
)
@click.option(
    "--merge-factors",
    is_flag=True,
    help="First put pairs of factors back together where the layer is faster whole; without a budget nothing else is done.",
)
@click.option("--criterion", help="Which channels matter least: a criterion by name.  [default: obs with data, l2 without]")
@click.option(
    "--allocator",
    help="How the cut is spread over the groups; preset:NAME for published widths.  "
    "[default: lagrangian with data, uniform without]",
)
@click.option(
    "--compensation",
    help="How the rest makes up for what went: a compensation by name, or none.  [default: rectified with data, none without]",
)
@click.option(
    "--recover",
    is_flag=False,
    flag_value=DEFAULT_RECOVERY,
    metavar="[BUDGET]",
    help="Let the result learn from the original on --data for 5epochs, 2000steps, 3min or 3cpumin; no labels needed.  "
    f"[without a value: {DEFAULT_RECOVERY}]",
)
@click.option("--recover-with", metavar="NAME|FILE", help="Training recipe of the recovery.  [default: recovery]")
@click.option(
    "--checkpoint",
    type=click.Path(dir_okay=False),
    help="Where recovery writes how far it is, and goes on from if it was interrupted.",
)
@click.option(
    "--max-drop", type=float, metavar="POINTS", help="Look for the largest cut that loses no more, measured on held-out data."
)
@click.option("--round-to", type=int, metavar="N", help="Keep multiples of N channels.  [default: the target's]")
@click.option("--min-width", type=int, metavar="N", help="Keep at least N channels in every group.  [default: 1]")
@model_options
@click.option(
    "--independent-groups",
    is_flag=True,
    help="Let groups of grouped convolutions keep different inputs; their weights are put together anew.",
)
@click.option("--plan", type=click.Path(dir_okay=False), help="Replay a saved plan.")
@click.option("--save-plan", type=click.Path(dir_okay=False), help="Write the plan.")
@click.option("--no-optimize", is_flag=True, help="Surgery only: no folding or clean-up afterwards.")
@click.option("--no-verify", is_flag=True, help="Skip the proof.")
@click.option("--no-latency", is_flag=True, help="Skip the latency measurement.")
@click.option("--threads", type=click.IntRange(1), help="Threads of the latency measurement.  [default: 1]")
@click.option(
    "--seed",
    type=click.IntRange(0),
    help="Of whatever is drawn at random, the proof included.  [default: 0]",
)
@click.option("--dry-run", is_flag=True, help="Write the resolved recipe and the plan, change nothing else.")
@output_options
def compress(
    model: str,
    quiet: bool,
    verbose: bool,
    as_json: bool,
    debug: bool,
    input_shapes: tuple[tuple[str, tuple[int, ...]], ...],
    no_optimize: bool,
    no_verify: bool,
    no_latency: bool,
    threads: int | None,
    **options: Any,
) -> None:
    r"""Remove channels from MODEL, prove the result, measure it, and report.

    \b
    shrinkc compress model.onnx --macs 50% --data samples.npz
    shrinkc compress model.onnx --target jetson --prune-ratio 0.3
    """
    settings = {name: value for name, value in options.items() if value is not None and value is not False and value != ()}
    _refuse_idle_flags(settings, no_optimize, no_verify, no_latency, threads)
    if rank():
        quiet, as_json, verbose, no_latency = True, False, False, True
        settings.update(aside(settings, ("output", "save_plan")))
    progress = progress_for(quiet, verbose)

    from shrinkc.pipeline import compress as run

    report = run(
        model,
        input_shapes=shapes_of(input_shapes),
        optimize=False if no_optimize else None,
        verify=False if no_verify else None,
        measure_latency=not no_latency,
        threads=threads or 1,
        progress=progress,
        **settings,
    )
    _print(report, quiet, as_json)
    if verbose and not as_json:
        _print_groups(report)


def _refuse_idle_flags(
    settings: dict[str, Any], no_optimize: bool, no_verify: bool, no_latency: bool, threads: int | None
) -> None:
    """A flag that has no effect in this run is an error, not a decoration."""
    if "plan" in settings:
        idle = [name for name in PLANNING_WITH_A_PLAN if name in settings]
        if idle:
            raise click.UsageError(f"--plan settles what is removed; {_flags(idle)} would have no effect")
        if "save_plan" in settings:
            raise click.UsageError("--save-plan would only copy --plan")
    _refuse_idle_methods(settings)
    if "gradients" in settings and settings.get("criterion") not in GRADIENT_CRITERIA:
        raise click.UsageError(f"--gradients has no effect without --criterion {' or '.join(GRADIENT_CRITERIA)}")
    idle = [name for name in RECOVERY[1:] if name in settings and "recover" not in settings]
    if idle and "recipe" not in settings:
        raise click.UsageError(f"{_flags(idle)} has no effect without --recover")
    _refuse_idle_latency_flags(settings, no_latency)
    if threads is not None and no_latency:
        raise click.UsageError("--threads has no effect with --no-latency")
    if settings.get("dry_run"):
        idle = [
            name
            for name, given in (
                ("no_optimize", no_optimize),
                ("no_verify", no_verify),
                ("no_latency", no_latency),
                ("threads", threads),
                ("seed", settings.get("seed") and not any(name in settings for name in USERS_OF_CHANCE)),
                ("eval_data", settings.get("eval_data")),
                *((name, settings.get(name)) for name in RECOVERY),
            )
            if given
        ]
        if idle:
            raise click.UsageError(f"{_flags(idle)} would have no effect with --dry-run")
    if no_verify and "seed" in settings and not any(name in settings for name in USERS_OF_CHANCE):
        raise click.UsageError("--seed has no effect with --no-verify")


def _refuse_idle_methods(settings: dict[str, Any]) -> None:
    """Settings of channels do nothing for ranks, and the other way round."""
    method = settings.get("method", "channels")
    idle = [name for name in {"channels": OF_RANKS, "lowrank": OF_CHANNELS}.get(method, ()) if name in settings]
    if idle and "recipe" not in settings and "plan" not in settings:
        raise click.UsageError(f"{_flags(idle)} would have no effect with --method {method}")


def _refuse_idle_latency_flags(settings: dict[str, Any], no_latency: bool) -> None:
    has_budget = any(name in settings for name in ("latency", "speedup"))
    if no_latency and has_budget:
        raise click.UsageError("a budget of time is checked by measuring; --no-latency contradicts it")
    times_layers = has_budget or "recipe" in settings or settings.get("method") in ("lowrank", "auto")
    if "latency_cache" in settings and (not times_layers or ("latency_table" in settings and "method" not in settings)):
        raise click.UsageError(
            "--latency-cache has no effect without --latency, --speedup or --method, or with --latency-table"
        )
    if "latency_table" in settings and "plan" in settings:
        raise click.UsageError("--plan settles what is removed; --latency-table would have no effect")


def _flags(names: list[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


def _print(report: Any, is_quiet: bool, as_json: bool) -> None:
    if as_json:
        from shrinkc.report.json import dumps

        click.echo(dumps(report), nl=False)
    elif not is_quiet:
        from rich.console import Console

        from shrinkc.report.terminal import show

        show(report, Console(highlight=False))


def _print_groups(report: Any) -> None:
    from rich.console import Console

    from shrinkc.report.terminal import show_factors, show_groups

    show_groups(report, Console(highlight=False))
    show_factors(report, Console(highlight=False))
