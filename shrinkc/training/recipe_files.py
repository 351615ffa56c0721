"""Training recipes as TOML files: those that come with the program, by name, and the user's own."""

from __future__ import annotations

import dataclasses
import difflib
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from shrinkc import registry
from shrinkc.errors import RecipeError
from shrinkc.recipe_files import ABOUT, parsed_training, training_names
from shrinkc.training.settings import Settings, check, check_effects

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TYPES: Mapping[str, tuple[str, tuple[type, ...]]] = {
    "str": ("a text", (str,)),
    "int": ("a whole number", (int,)),
    "float": ("a number", (int, float)),
    "bool": ("true or false", (bool,)),
    "tuple[str, ...]": ("a list of texts", (list, tuple)),
    "tuple[float, ...]": ("a list of numbers", (list, tuple)),
    "tuple[Mapping[str, Any], ...]": ("a list of tables", (list, tuple)),
    "Mapping[str, Any]": ("a table", (dict,)),
    "Mapping[str, int]": ("a table of whole numbers", (dict,)),
}
"""What a recipe may hold for a field, by the field's annotation."""


def resolve(recipe: str | os.PathLike[str] | None = None, **given: Any) -> Settings:
    """Settings of a recipe, by name or file, with those given over them; None is not given.

    Without a recipe those of the ``method`` that is given: of the recipe of that name, else of the only recipe for it, else the
    general defaults.  ``options`` that are given are put over the recipe's one by one; another method than the
    recipe's has none there.

    Raises
    ------
    RecipeError
        The recipe is missing or wrong, or a setting is unknown, of the wrong type, out of range, or without effect.
    """
    given = {key: value for key, value in given.items() if value is not None}
    found = parsed_training(recipe) if recipe is not None else _of_method(given.get("method"))
    own = {key: value for key, value in found.items() if key not in ABOUT}
    its = own.get("options", {}) if given.get("method") in (None, own.get("method", Settings.method)) else {}
    options = {**its, **given.pop("options", {})}
    where = str(recipe if recipe is not None else own["method"])
    settings = check(Settings(**_checked({**own, **given, "options": options}, Settings, where)))
    _check_effects(own, given, settings)
    method = registry.load("training", settings.method)
    options = _checked(dict(settings.options), method, f"{where}:options")
    method(**options)  # refuses what is out of its range
    return dataclasses.replace(settings, options=options)


def _check_effects(own: Mapping[str, Any], given: Mapping[str, Any], settings: Settings) -> None:
    """Refuse what has no effect; what the recipe says may lose it to what is given over it."""
    check_effects(own, Settings(**{**own, "options": {}}))
    check_effects(given, settings)


def _of_method(method: str | None) -> Mapping[str, Any]:
    """What to train by where a method was named in place of a recipe."""
    if method is None:
        raise RecipeError("nothing says how to train", where="--recipe", hint="--recipe NAME|FILE, or --method NAME")
    registry.load("training", method)  # says which there are
    own = [name for name in training_names() if parsed_training(name)["method"] == method]
    chosen = method if method in own else own[0] if len(own) == 1 else None
    return {"method": method} if chosen is None else parsed_training(chosen)


def assigned(texts: Iterable[str]) -> dict[str, Any]:
    """Settings out of ``NAME=VALUE``: those of every method, and the method's own under ``options``.

    A value is TOML, or a text where it is not.

    Raises
    ------
    RecipeError
        There is no ``=``, or a name comes twice.
    """
    found: dict[str, Any] = {}
    options: dict[str, Any] = {}
    shared = {field.name for field in dataclasses.fields(Settings)} - {"options"}
    for text in texts:
        name, sign, value = text.partition("=")
        name = name.strip()
        if not sign or not name or name in found or name in options:
            raise RecipeError("not a setting, or one that is given twice", where=f"--set {text}", hint="write NAME=VALUE")
        (found if name in shared else options)[name] = _parsed(value.strip())
    return {**found, "options": options} if options else found


def _parsed(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _checked(values: Mapping[str, Any], kind: Any, where: str) -> dict[str, Any]:
    """Values for the fields of a dataclass, of the right types."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    return {name: _value(name, value, fields, where) for name, value in values.items()}


def _value(name: str, value: Any, fields: Mapping[str, dataclasses.Field[Any]], where: str) -> Any:
    if name not in fields:
        # A name that is no option of the method may be a misspelled setting of every method.
        known = dict.fromkeys((*fields, *(field.name for field in dataclasses.fields(Settings))))
        nearest = difflib.get_close_matches(name, known, 1, 0)
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
    """Whether a list or table holds what it should; true of anything else."""
    if annotation == "tuple[str, ...]":
        return all(isinstance(item, str) for item in value)
    if annotation == "tuple[float, ...]":
        return all(isinstance(item, int | float) and not isinstance(item, bool) for item in value)
    if annotation == "tuple[Mapping[str, Any], ...]":
        return all(isinstance(item, Mapping) for item in value)
    if annotation == "Mapping[str, int]":
        return all(type(item) is int for item in value.values())
    return True
