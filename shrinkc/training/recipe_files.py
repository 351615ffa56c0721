"""Training recipes as TOML files: those that come with the program, by name, and the user's own."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from shrinkc import registry
from shrinkc.errors import RecipeError
from shrinkc.recipe_files import ABOUT, parsed_training, training_names
from shrinkc.training.field_types import of_right_types
from shrinkc.training.settings import Settings, check, check_effects

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


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
    settings = check(Settings(**of_right_types({**own, **given, "options": options}, Settings, where)))
    _check_effects(own, given, settings)
    method = registry.load("training", settings.method)
    options = of_right_types(dict(settings.options), method, f"{where}:options")
    _check_patience(settings, method(**options))  # which refuses what is out of its range
    return dataclasses.replace(settings, options=options)


def _check_effects(own: Mapping[str, Any], given: Mapping[str, Any], settings: Settings) -> None:
    """Refuse what has no effect; what the recipe says may lose it to what is given over it."""
    check_effects(own, Settings(**{**own, "options": {}}))
    check_effects(given, settings)


def _check_patience(settings: Settings, method: object) -> None:
    if settings.patience and not getattr(method, "keeps_best", True):
        raise RecipeError(
            "would have no effect",
            where=f"patience = {settings.patience}",
            because=f"{settings.method} keeps its last weights, not its best",
        )


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
