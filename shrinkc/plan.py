"""A plan: which channels of which group stay, and what that cuts out of which tensor.  Pure data, replayable."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shrinkc.errors import RecipeError

FORMAT = "shrinkc.plan/1"

MOST_THREADS = 1024
"""A plan that asks for more was not written by any machine of ours."""


@dataclass(frozen=True)
class Keep:
    """Step: keep these positions of a group (sorted, unique), remove the others."""

    group: str
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Rank:
    """Step: put factors of a rank in the place of a layer.

    Attributes
    ----------
    layer : str
        Name of its output, which stays.
    form : str
        Name of the rewrite.
    rank : int
        Of every group of a grouped convolution.
    """

    layer: str
    form: str
    rank: int


@dataclass(frozen=True)
class TensorSlice:
    """Indices of the original tensor that go, along one axis.

    ``copy_name`` is set where a shared tensor was copied for some of its uses; the cut is then in the copy.  ``per_group``
    is set where every group of a grouped convolution loses inputs of its own: the weight is put together anew, and
    ``removed`` are those of the first group.
    """

    initializer: str
    axis: int
    removed: tuple[int, ...]
    copy_name: str | None = None
    per_group: tuple[tuple[int, ...], ...] | None = None


@dataclass(frozen=True)
class PlannedGroup:
    """What one group loses."""

    name: str
    width: int
    kept: int
    slices: tuple[TensorSlice, ...]


@dataclass(frozen=True)
class Plan:
    """Steps, and their effect on the tensors of one particular model.

    Attributes
    ----------
    model_sha256 : str
        Hash of the model file (external data aside) the plan was made for.
    steps : tuple of Keep
    groups : tuple of PlannedGroup
    settings : mapping
        The resolved recipe that led to the plan.
    compensated : tuple of str
        Tensors that were given other values after the cut.
    ranks : tuple of Rank
        Steps that follow the removal of channels.
    blas_threads : int
        Of the run that carried it out first: with another number fitted weights differ in their last bits.  0 if not known.
    """

    model_sha256: str
    steps: tuple[Keep, ...]
    groups: tuple[PlannedGroup, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    compensated: tuple[str, ...] = ()
    ranks: tuple[Rank, ...] = ()
    blas_threads: int = 0

    @property
    def changes_nothing(self) -> bool:
        """Whether every channel stays and every layer is whole."""
        return self.removes_nothing and not self.ranks

    @property
    def removes_nothing(self) -> bool:
        """Whether every channel stays."""
        return not any(slice_.removed for group in self.groups for slice_ in group.slices)

    @property
    def reconstructed(self) -> list[str]:
        """Tensors that are no plain slice of the original's."""
        slices = [slice_ for group in self.groups for slice_ in group.slices if slice_.per_group is not None]
        regrouped = [slice_.copy_name or slice_.initializer for slice_ in slices]
        return list(dict.fromkeys([*regrouped, *self.compensated]))

    def keep(self) -> dict[str, tuple[int, ...]]:
        """Kept positions by group name."""
        return {step.group: step.indices for step in self.steps}


def to_json(plan: Plan) -> dict[str, Any]:
    """Plan as plain JSON data (ARCHITECTURE §5)."""
    return {
        "format": FORMAT,
        "model_sha256": plan.model_sha256,
        "settings": dict(plan.settings),
        "steps": [
            *({"keep": step.group, "indices": list(step.indices)} for step in plan.steps),
            *({"factorise": step.layer, "form": step.form, "rank": step.rank} for step in plan.ranks),
        ],
        "groups": [
            {
                "name": group.name,
                "width": group.width,
                "kept": group.kept,
                "slices": [_slice_to_json(slice_) for slice_ in group.slices],
            }
            for group in plan.groups
        ],
        "reconstruction": bool(plan.reconstructed),
        "reconstructed": plan.reconstructed,
        "compensated": list(plan.compensated),
        **({"blas_threads": plan.blas_threads} if plan.blas_threads else {}),
    }


def _slice_to_json(slice_: TensorSlice) -> dict[str, Any]:
    entry: dict[str, Any] = {"initializer": slice_.initializer, "axis": slice_.axis, "removed": list(slice_.removed)}
    if slice_.copy_name is not None:
        entry["as"] = slice_.copy_name
    if slice_.per_group is not None:
        entry["per_group"] = [list(removed) for removed in slice_.per_group]
    return entry


def from_json(data: Any) -> Plan:
    """Inverse of :func:`to_json`.

    Raises
    ------
    RecipeError
        The data is not a plan of this format.
    """
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise RecipeError("not a shrinkc plan", because=f"its format is not {FORMAT!r}")
    try:
        plan = Plan(
            model_sha256=str(data["model_sha256"]),
            steps=tuple(
                Keep(_text(step["keep"]), tuple(int(i) for i in step["indices"]))
                for step in data["steps"]
                if "factorise" not in step
            ),
            groups=tuple(
                PlannedGroup(
                    group["name"], int(group["width"]), int(group["kept"]), tuple(_slice_from_json(s) for s in group["slices"])
                )
                for group in data["groups"]
            ),
            settings=dict(data.get("settings", {})),
            compensated=tuple(_text(name) for name in data.get("compensated", [])),
            ranks=tuple(
                Rank(_text(step["factorise"]), _text(step["form"]), int(step["rank"]))
                for step in data["steps"]
                if "factorise" in step
            ),
            blas_threads=_threads(data.get("blas_threads", 0)),
        )
        if list(data.get("reconstructed", [])) != plan.reconstructed:
            raise RecipeError("the plan asks for reconstruction", because="it does not say what was compensated")
        return plan
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RecipeError("a damaged shrinkc plan", because=f"{type(error).__name__}: {error}") from error


def _threads(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value <= MOST_THREADS:
        raise ValueError(f"{value!r} is no number of threads")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no name")
    return value


def _slice_from_json(entry: Mapping[str, Any]) -> TensorSlice:
    per_group = entry.get("per_group")
    return TensorSlice(
        _text(entry["initializer"]),
        int(entry["axis"]),
        tuple(int(i) for i in entry["removed"]),
        entry.get("as"),
        None if per_group is None else tuple(tuple(int(i) for i in removed) for removed in per_group),
    )


def dumps(plan: Plan) -> str:
    """Plan as text; the same plan always gives the same bytes."""
    return json.dumps(to_json(plan), indent=1) + "\n"


def read(path: str | os.PathLike[str]) -> Plan:
    """Read a plan file.

    Raises
    ------
    RecipeError
        The file is missing or not a plan.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise RecipeError("the plan cannot be read", where=str(path), because=str(error)) from error
    return from_json(data)
