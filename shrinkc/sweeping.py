"""Many runs of ``compress`` on one model: several budgets, recipes and criteria, side by side."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shrinkc.errors import BudgetError, GateError, RecipeError
from shrinkc.evidence import sources
from shrinkc.files import sha256, write_text
from shrinkc.log import Progress, Silent
from shrinkc.memory import Memory
from shrinkc.pipeline import DEFAULT_RECIPE, compress
from shrinkc.report import chart, facts
from shrinkc.report import json as report_json
from shrinkc.report.bench import Bench, BenchRow, markdown, metric
from shrinkc.report.model import Report

QUANTITIES = ("macs", "params", "size", "speedup", "prune_ratio")

WITHOUT_DATA = "magnitude"

RANDOM_NAME = "random"

RANDOM = {"criterion": "random", "allocator": "uniform"}
"""What the baseline does in place of the first recipe's own; the compensation stays."""


@dataclass(frozen=True)
class _Method:
    """A name for the table, and settings."""

    name: str
    settings: dict[str, Any]


def bench(
    model: str | os.PathLike[str],
    *,
    output: str | os.PathLike[str] | None = None,
    recipes: Sequence[str] = (),
    criteria: Sequence[str] = (),
    has_baseline: bool = False,
    data: sources.Source | None = None,
    eval_data: sources.Source | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Bench:
    """Compress a model many times, and write the models, ``bench.json``, ``bench.md`` and a chart into a folder.

    Evidence, gradients and scores are worked out once; the models are those that single runs would write, byte for byte.

    Parameters
    ----------
    model : path
    output : path, optional
        The folder, by default ``NAME.bench`` here.
    recipes : sequence of str
        Names or files; by default what ``compress`` does.
    criteria : sequence of str
        In place of the recipes' own; by default theirs.
    has_baseline : bool
        Also choose channels at random, the same share everywhere, with the first recipe's compensation.
    data, eval_data : source, optional
    progress : Progress, optional
    **settings
        A sequence of texts under one of ``macs``, ``params``, ``size``, ``speedup`` and ``prune_ratio``: the budgets; the rest
        is for :func:`shrinkc.pipeline.compress`.

    Raises
    ------
    RecipeError
        There is not exactly one quantity to go through, or a recipe is wrong.
    ShrinkcError
        The model or the data cannot be used.  A budget out of reach, or a model that is not as fast as was asked for, is a row.
    """
    source, reporter, memory = Path(model), progress or Silent(), Memory()
    folder = Path(output) if output is not None else Path(f"{source.stem}.bench")
    quantity, budgets = _budgets(settings)
    given = {name: value for name, value in settings.items() if name not in QUANTITIES}
    methods = list(_methods(recipes, criteria, has_data=data is not None))
    _check_names(methods)
    baseline = _baseline(methods[0]) if has_baseline else None
    cells = [(method, budget) for method in (*methods, *filter(None, [baseline])) for budget in budgets]
    made = Bench(
        source.name,
        sha256(source),
        quantity,
        (),
        None,
        "",
        "" if baseline is None else baseline.name,
        facts.machine(),
        facts.versions(),
    )
    for number, (method, budget) in enumerate(cells, 1):
        with reporter.stage(f"{number} of {len(cells)}: {method.name} at {budget}"):
            started, written = time.perf_counter(), folder / f"{_stem(f'{method.name}-{budget}')}.onnx"
            chosen = {**given, **method.settings, quantity: budget}
            found, error = _tried(source, written, memory, {**chosen, "data": data, "eval_data": eval_data})
            rows = (*made.rows, _row(method.name, str(budget), found, error, time.perf_counter() - started))
        made = replace(made, rows=rows, metric=metric(rows), before=made.before if found is None else found.before)
        _write(made, folder)  # after every row: a sweep takes long, and may be interrupted
    return made


def _budgets(settings: dict[str, Any]) -> tuple[str, list[Any]]:
    """What is gone through, and its values; each once."""
    given = {name: settings[name] for name in QUANTITIES if settings.get(name)}
    if len(given) != 1:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given or QUANTITIES)
        raise RecipeError("a sweep goes through the values of one quantity", where=flags, hint="--macs 70%,50%,30%")
    ((name, values),) = given.items()
    texts = [values] if isinstance(values, str | float | int) else list(values)
    return name, list(dict.fromkeys(texts if name not in ("speedup", "prune_ratio") else map(_number, texts)))


def _number(text: Any) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise RecipeError("not a number", where=str(text)) from error


def _methods(recipes: Sequence[str], criteria: Sequence[str], *, has_data: bool) -> Iterator[_Method]:
    for recipe in dict.fromkeys(recipes or [DEFAULT_RECIPE if has_data else WITHOUT_DATA]):
        name = Path(recipe).name.removesuffix(".toml")
        if not criteria:
            yield _Method(name, {"recipe": recipe})
        for criterion in dict.fromkeys(criteria):
            yield _Method(f"{name}, {criterion}", {"recipe": recipe, "criterion": criterion})


def _check_names(methods: Sequence[_Method]) -> None:
    """Refuse two recipes of one name: their files would be the same.

    Raises
    ------
    RecipeError
    """
    names = [method.name for method in methods]
    for name in names:
        if names.count(name) > 1 or name == RANDOM_NAME:
            raise RecipeError("two methods of a sweep have one name", where=name, hint="name the recipe's file otherwise")


def _baseline(first: _Method) -> _Method:
    return _Method(RANDOM_NAME, {**first.settings, **RANDOM})


def _stem(text: str) -> str:
    """A name for a file that every system takes."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text.replace("%", "pc")).strip("-.")


def _tried(source: Path, output: Path, memory: Memory, settings: dict[str, Any]) -> tuple[Report | None, str]:
    """Report of one run, or why there is none."""
    try:
        return compress(source, output=output, memory=memory, **settings), ""
    except (BudgetError, GateError) as error:
        return None, ": ".join(filter(None, [error.message, error.because]))


def _row(method: str, budget: str, found: Report | None, error: str, taken_s: float) -> BenchRow:
    if found is None:
        return BenchRow(method, budget, error, seconds=taken_s)
    quality = found.quality if found.quality.is_measured else None
    output = found.output or ""
    return BenchRow(method, budget, "", output, found.after, quality, found.latency, found.latency_runtime, taken_s)


def _write(made: Bench, folder: Path) -> None:
    drawn = chart.svg(chart.panels(made)) if made.metric else ""
    if drawn:
        write_text(folder / "bench.svg", drawn)
    write_text(folder / "bench.json", report_json.dumps(made))
    write_text(folder / "bench.md", markdown(made, "bench.svg" if drawn else ""))
