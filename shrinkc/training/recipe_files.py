"""Training recipes as TOML files: those that come with the program, by name, and the user's own."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping
from typing import Any

from shrinkc import registry
from shrinkc.errors import RecipeError
from shrinkc.recipe_files import ABOUT, parsed_training
from shrinkc.training.settings import Settings, check

TYPES: Mapping[str, tuple[str, tuple[type, ...]]] = {
    "str": ("a text", (str,)),
    "int": ("a whole number", (int,)),
    "float": ("a number", (int, float)),
    "bool": ("true or false", (bool,)),
    "tuple[str, ...]": ("a list of texts", (list, tuple)),
    "tuple[float, ...]": ("a list of numbers", (list, tuple)),
    "Mapping[str, Any]": ("a table", (dict,)),
}
"""What a recipe may hold for a field, by the field's annotation."""


def resolve(recipe: str | os.PathLike[str], **given: Any) -> Settings:
    """Settings of a recipe, by name or file, with those given over them; None is not given.

    Raises
    ------
    RecipeError
        The recipe is missing or wrong, or a setting is unknown, of the wrong type, out of range, or without effect.
    """
    own = {key: value for key, value in parsed_training(recipe).items() if key not in ABOUT}
    wanted = {**own, **{key: value for key, value in given.items() if value is not None}}
    settings = check(Settings(**_checked(wanted, Settings, str(recipe))))
    method = registry.load("training", settings.method)
    options = _checked(dict(settings.options), method, f"{recipe}:options")
    method(**options)  # refuses what is out of its range
    return dataclasses.replace(settings, options=options)


def _checked(values: Mapping[str, Any], kind: Any, where: str) -> dict[str, Any]:
    """Values for the fields of a dataclass, of the right types."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    return {name: _value(name, value, fields, where) for name, value in values.items()}


def _value(name: str, value: Any, fields: Mapping[str, dataclasses.Field[Any]], where: str) -> Any:
    if name not in fields:
        nearest = difflib.get_close_matches(name, fields, 1, 0)
        hint = f"the nearest one is {nearest[0]}" if nearest else "there are none"
        raise RecipeError("no such setting", where=f"{where}:{name}", hint=hint)
    annotation = str(fields[name].type)
    expected, types = TYPES[annotation]
    is_right = isinstance(value, types) and (bool in types or not isinstance(value, bool)) and _holds(annotation, value)
    if not is_right:
        raise RecipeError(
            "a setting of the wrong type", where=f"{where}:{name}", because=f"expected {expected}, found {value!r}"
        )
    return tuple(value) if isinstance(value, list) else float(value) if annotation == "float" else value


def _holds(annotation: str, value: Any) -> bool:
    """Whether a list holds what it should; true of anything else."""
    if annotation == "tuple[str, ...]":
        return all(isinstance(item, str) for item in value)
    if annotation == "tuple[float, ...]":
        return all(isinstance(item, int | float) and not isinstance(item, bool) for item in value)
    return True
