"""The resolved recipe: every setting of one run, checked against each other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from shrinkc import budget, registry, target
from shrinkc.analysis.kinds import DEFAULT_KINDS, Kind, parse_kinds
from shrinkc.api import Prescription
from shrinkc.budget import Budget
from shrinkc.errors import RecipeError

NO_COMPENSATION = "none"

DEFAULT_MACS = "70%"
"""Budget when none is given: a cut that leaves many models usable without recovery."""

CHANNELS, LOWRANK, AUTO = "channels", "lowrank", "auto"

METHODS = (CHANNELS, LOWRANK, AUTO)
"""What a run may do to layers: remove channels, factorise, or whichever of both costs least."""

JOINT_ALLOCATOR = "lagrangian"
"""Allocator of ranks where none was asked for: their errors are known without data too, of the weights at least."""

AMOUNTS = ("prune_ratio", "macs", "params", "size", "latency", "speedup", "max_drop")
"""Settings that say how much goes."""


@dataclass(frozen=True)
class Recipe:
    """Settings of one compression; text where the user gave text, so it can be written back.

    Attributes
    ----------
    target : str
    prune_ratio : float or None
        Fraction of the channels of every group to remove; excludes budgets.
    macs, params, size : str or None
        Budgets, see :func:`shrinkc.budget.parse`.
    latency : str or None
        Budget of time on the target, see :func:`shrinkc.budget.parse`.
    speedup : float or None
        The same as a factor: 2 asks for half the time.
    max_drop : float or None
        Largest drop, in points, that is allowed; excludes ratio and budgets.
    method : str
        ``channels`` removes channels, ``lowrank`` factorises layers, ``auto`` chooses for each layer.
    factorization : str
        How factors are found: a plug-in name.
    forms : str or None
        What factorised layers may look like: names of rewrites, comma-separated; None is those that take little time to try.
    merge_factors : bool
        First put pairs of factors back together where the layer is better off whole; alone, nothing else is done.
    criterion, allocator : str
        Plug-in names; a parameter may follow after a colon.  With an allocator that prescribes widths there is no budget, no
        ratio, and widths are rounded to nothing.
    compensation : str
        How what stays makes up for what goes: a plug-in name, or ``none``.
    recover : str or None
        How long the cut model may learn from the original, see :func:`shrinkc.training.budget.parse`; None for not at all.
    recover_with : str or None
        Training recipe of that, by name or file; by default ``recovery``.
    round_to, min_width : int
    prune : str or None
        Kinds of channels that may go, comma-separated; None is conv, mlp and heads.
    independent_groups : bool
        Groups of a grouped convolution may keep different inputs, equally many; its weight is put together anew.
    exclude, include : tuple of str
        Patterns of node, tensor or group names.
    optimize : bool
        Fold what became constant after surgery; surgery only, if false.
    verify : bool
        Prove the surgery.
    input_shapes : mapping of input name to shape
    seed : int
    """

    target: str = "cpu"
    prune_ratio: float | None = None
    macs: str | None = None
    params: str | None = None
    size: str | None = None
    latency: str | None = None
    speedup: float | None = None
    max_drop: float | None = None
    method: str = CHANNELS
    factorization: str = "bn-svd"
    forms: str | None = None
    merge_factors: bool = False
    criterion: str = "l2"
    allocator: str = "uniform"
    compensation: str = NO_COMPENSATION
    recover: str | None = None
    recover_with: str | None = None
    round_to: int = 1
    min_width: int = 1
    prune: str | None = None
    independent_groups: bool = False
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    optimize: bool = True
    verify: bool = True
    input_shapes: Mapping[str, tuple[int, ...]] | None = None
    seed: int = 0

    @property
    def only_merges(self) -> bool:
        """Whether factors are put back together and nothing else is asked for."""
        return self.merge_factors and all(getattr(self, name) is None for name in AMOUNTS)

    def kinds(self) -> frozenset[Kind]:
        """Kinds of channels that may go."""
        return DEFAULT_KINDS if self.prune is None else parse_kinds(self.prune)

    def budgets(self) -> list[Budget]:
        """Every budget of the recipe."""
        given = [("macs", self.macs), ("parameters", self.params), ("size_bytes", self.size), ("latency_s", self.latency)]
        found = [budget.parse(quantity, text) for quantity, text in given if text is not None]
        return found if self.speedup is None else [*found, Budget("latency_s", 1 / self.speedup, is_relative=True)]

    def latency_budget(self) -> Budget | None:
        """The budget of time, if there is one."""
        return next((found for found in self.budgets() if found.quantity == "latency_s"), None)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        data: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return data

    def sha256(self) -> str:
        """Hash of the recipe, the same for the same settings."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()


def resolve(**settings: Any) -> Recipe:
    """Fill in defaults and check settings against each other.

    Parameters
    ----------
    **settings
        Fields of :class:`Recipe`; None means "not given".

    Raises
    ------
    RecipeError
        A setting is unknown, out of range, or contradicts another.
    """
    unknown = settings.keys() - Recipe.__dataclass_fields__.keys()
    if unknown:
        raise RecipeError(
            "no such setting", where=", ".join(sorted(unknown)), hint=f"known: {', '.join(Recipe.__dataclass_fields__)}"
        )
    given = {name: value for name, value in settings.items() if value is not None}
    chosen = target.load(given.get("target", "cpu"))
    if given.get("method", CHANNELS) != CHANNELS:
        given.setdefault("allocator", JOINT_ALLOCATOR)
    if isinstance(registry.built("allocators", given.get("allocator", Recipe.allocator)), Prescription):
        _check_prescribed(given)
    else:
        given.setdefault("round_to", chosen.channel_multiple)
        if not any(name in given for name in AMOUNTS) and not given.get("merge_factors"):
            given["macs"] = DEFAULT_MACS
    for name in ("exclude", "include"):
        given[name] = tuple(given.get(name, ()))
    recipe = Recipe(**given)
    _check(recipe)
    return recipe


def _check_prescribed(given: Mapping[str, Any]) -> None:
    idle = [name for name in (*AMOUNTS, "round_to", "min_width") if name in given]
    if idle:
        raise RecipeError(
            f"the allocator prescribes every width; {_flags(idle)} would contradict it",
            where=f"--allocator {given['allocator']}",
            hint="leave one of them out",
        )


def _flags(names: list[str]) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names)


def _check(recipe: Recipe) -> None:
    if recipe.speedup is not None and not recipe.speedup > 1:
        raise RecipeError("a speed-up is a factor above 1", where=f"--speedup {recipe.speedup:g}")
    if recipe.speedup is not None and recipe.latency is not None:
        raise RecipeError("both say how much time may remain", where="--latency, --speedup", hint="give one of them")
    if recipe.prune_ratio is not None and not 0 < recipe.prune_ratio < 1:
        raise RecipeError("the ratio must lie between 0 and 1", where=f"--prune-ratio {recipe.prune_ratio}")
    if recipe.prune_ratio is not None and recipe.budgets():
        raise RecipeError("a ratio and a budget contradict each other", where="--prune-ratio", hint="give one of them")
    if recipe.max_drop is not None and (recipe.prune_ratio is not None or recipe.budgets()):
        raise RecipeError(
            "a largest drop looks for the cut itself", where="--max-drop", hint="give it, or a budget, or a ratio"
        )
    if recipe.max_drop is not None and not 0 <= recipe.max_drop < 100:
        raise RecipeError("the largest drop is in points from 0 to 100", where=f"--max-drop {recipe.max_drop:g}")
    if recipe.recover_with is not None and recipe.recover is None:
        raise RecipeError("would have no effect without recovery", where="--recover-with", hint="--recover 3min")
    for name in ("round_to", "min_width"):
        if getattr(recipe, name) < 1:
            raise RecipeError("must be at least 1", where=f"--{name.replace('_', '-')} {getattr(recipe, name)}")
    recipe.budgets()
    recipe.kinds()
    _check_method(recipe)


def _check_method(recipe: Recipe) -> None:
    if recipe.method not in METHODS:
        raise RecipeError("no such method", where=f"--method {recipe.method}", hint=f"known: {', '.join(METHODS)}")
    if recipe.method == CHANNELS:
        return
    if recipe.prune_ratio is not None:
        raise RecipeError(
            "a ratio is one of channels; ranks need a budget", where=f"--method {recipe.method}", hint="give --macs or --params"
        )
    if isinstance(registry.built("allocators", recipe.allocator), Prescription):
        raise RecipeError("the allocator prescribes widths of channels", where=f"--allocator {recipe.allocator}")
    registry.built("factorizations", recipe.factorization)
    for name in [] if recipe.forms is None else recipe.forms.split(","):
        form = registry.built("rewrites", name.strip())
        if recipe.method == AUTO and hasattr(form, "candidates") and Kind.HEAD_DIM in recipe.kinds():  # a JointForm
            raise RecipeError(
                "both choose the dims of heads",
                where=f"--forms {name.strip()}, --prune {recipe.prune}",
                hint="leave head-dim out of --prune: pairs remove what matters least of turned heads",
            )
