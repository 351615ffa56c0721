"""What the accuracy benchmark runs: models, budgets, seeds, and every method of shrinkc and of the peers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from itertools import product

from accuracy_rows import Cell

MODELS = ("resnet20", "vgg16-bn-half", "mobilenetv2-like")
CUTS = (30, 50, 70)
SEEDS = (0, 1, 2)
SAMPLES = 512

DEFAULT = "obs+rectified+lagrangian"
"""The method the plot highlights."""

GRID: tuple[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...] = (
    # criteria, compensations, allocators: each line is their product
    (("obs", "random", "l2", "bn-gamma", "thinet-b"), ("rectified", "affine", "none"), ("lagrangian", "uniform")),
    (
        (
            "l1",
            "geometric-median",
            "bn-gamma-out",
            "mean-activation",
            "apoz",
            "nnrelief",
            "thinet-a",
            "lasso",
            "ispasp",
            "spline",
        ),
        ("rectified",),
        ("uniform",),
    ),
    (("l2",), ("bias", "scale", "refit", "obs", "batch-norm"), ("uniform",)),
    (("obs",), ("rectified",), ("global", "dynamic-programming")),
)

PEERS = {
    "torch-pruning": ("l2-local", "l2-global", "taylor-local", "taylor-global"),
    "onnxsim": tuple(
        "+".join(parts)
        for line in (
            (("l2-local", "l2-global", "l1-local", "l1-global", "wanda-local", "wanda-global"),),
            (("l2-local", "l2-global", "wanda-local", "wanda-global"), ("ridge",)),
            (("l2-local",), ("bias", "batch-norm")),
        )
        for parts in product(*line)
    ),
}

WEIGHTS_ONLY = frozenset(
    {"l1", "l2", "geometric-median", "bn-gamma", "bn-gamma-out", "none", "uniform", "global"}
    | {"l1-local", "l1-global", "l2-local", "l2-global"}
)
"""Parts of a method that see neither calibration images nor a random number: made of these alone, one seed says it all."""


def methods() -> Iterator[tuple[str, str]]:
    """Every tool and method, each once."""
    ours = dict.fromkeys("+".join(parts) for line in GRID for parts in product(*line))
    yield from (("shrinkc", method) for method in ours)
    yield from ((tool, method) for tool, names in PEERS.items() for method in names)


def cells(models: Sequence[str], cuts: Sequence[int], only: str, seeds: Sequence[int] = SEEDS) -> Iterator[Cell]:
    """What there is to run, seed by seed, so that an interrupted run has every method once before any twice."""
    tools = dict.fromkeys(tool for tool, _ in methods())
    for seed, model, asked, cut, (tool, method) in product(seeds, models, tools, cuts, list(methods())):
        if tool != asked:  # runs of one tool on one model lie side by side
            continue
        is_repetition = seed != SEEDS[0] and WEIGHTS_ONLY.issuperset(method.split("+"))
        cell = Cell(model, cut, tool, method, seed)
        if not is_repetition and fnmatch(cell.label, only):
            yield cell
