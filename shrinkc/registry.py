"""Finds plug-ins by entry point; built-ins have no other door."""

from __future__ import annotations

import inspect
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from shrinkc.errors import PluginError, RecipeError

SINGULAR = {
    "criteria": "criterion",
    "allocators": "allocator",
    "compensation": "compensation",
    "runtimes": "runtime",
    "oprules": "operator rules",
    "rewrites": "rewrite",
    "targets": "package of targets",
    "factorizations": "factorization",
    "training": "training method",
    "torch_ops": "torch operators",
}


@cache
def _points(group: str) -> dict[str, EntryPoint]:
    points: dict[str, EntryPoint] = {}
    for point in entry_points(group=f"shrinkc.{group}"):
        if point.name in points and points[point.name].value != point.value:
            raise PluginError(
                "two plug-ins have one name",
                where=f"shrinkc.{group}: {point.name}",
                because=f"{points[point.name].value} and {point.value}",
                hint="uninstall one of the packages",
            )
        points[point.name] = point
    return points


def names(group: str) -> list[str]:
    """Sorted names of the plug-ins of a group (``criteria``, ``allocators``, ``runtimes``, ``oprules``)."""
    return sorted(_points(group))


def load(group: str, name: str) -> Any:
    """Object behind a plug-in's name.

    Raises
    ------
    RecipeError
        No plug-in has that name.
    PluginError
        It cannot be imported, or two have the name.
    """
    points = _points(group)
    if name not in points:
        known = ", ".join(names(group)) or "none is installed"
        raise RecipeError(f"no {SINGULAR[group]} of that name", where=name, hint=f"known: {known}")
    try:
        return points[name].load()
    except Exception as error:
        raise PluginError("a plug-in cannot be imported", where=points[name].value, because=str(error)) from error


def built(group: str, setting: str) -> Any:
    """Plug-in that a setting asks for: ``name``, or ``name:parameter`` where its factory takes one text.

    Raises
    ------
    RecipeError
        No plug-in has that name, or it wants a parameter that is missing, or none where there is one.
    PluginError
        See :func:`load`.
    """
    name, colon, parameter = setting.partition(":")
    factory = load(group, name)
    given = (parameter,) if colon else ()
    try:
        inspect.signature(factory).bind(*given)
    except TypeError as error:
        what = "takes no parameter" if given else "needs a parameter"
        hint = f"write {name}" if given else f"write {name}:{_wanted(factory)}"
        raise RecipeError(f"the {SINGULAR[group]} {what}", where=setting, hint=hint) from error
    return factory(*given)


def _wanted(factory: Any) -> str:
    """What a factory calls its parameter."""
    return next(iter(inspect.signature(factory).parameters)).upper()


def operator_rules() -> dict[tuple[str, str], Any]:
    """Every operator rule by (domain, operator), third parties' included.

    Raises
    ------
    PluginError
        Two plug-ins bring a rule for the same operator.
    """
    rules: dict[tuple[str, str], Any] = {}
    for name in names("oprules"):
        table = load("oprules", name)
        for key in table.keys() & rules.keys():
            raise PluginError(
                "two plug-ins bring a rule for one operator", where=f"{key[0] or 'ai.onnx'}::{key[1]}", because=name
            )
        rules.update(table)
    return rules
