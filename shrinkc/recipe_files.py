"""Recipes as TOML files: those that come with the program, by name, and the user's own."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shrinkc import recipe as recipes
from shrinkc.errors import RecipeError
from shrinkc.recipe import AMOUNTS, Recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

FOLDER = files("shrinkc.recipes")
TRAINING_FOLDER = files("shrinkc.recipes.training")

ABOUT = ("description", "source")
"""Keys of a recipe file that are no settings: texts for the reader."""

TYPES: dict[str, tuple[str, type | tuple[type, ...]]] = {
    "str": ("a text", str),
    "int": ("a whole number", int),
    "float": ("a number", (int, float)),
    "bool": ("true or false", bool),
    "tuple[str, ...]": ("a list of texts", list),
    "Mapping[str, tuple[int, ...]]": ("a table of lists of whole numbers", dict),
}
"""What a recipe file may hold for a field of :class:`~shrinkc.recipe.Recipe`, by the field's annotation."""


def names() -> list[str]:
    """Names of the recipes shrinkc ships."""
    return _names_in(FOLDER)


def text(name: str | os.PathLike[str]) -> str:
    """The text of a recipe, by its name or its file's.

    Raises
    ------
    RecipeError
        There is no such recipe or file.
    """
    return _text_in(FOLDER, name, "no such recipe", f"--recipe {name}")


def _names_in(folder: Traversable) -> list[str]:
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def _text_in(folder: Traversable, name: str | os.PathLike[str], missing: str, where: str) -> str:
    own = _names_in(folder)
    if str(name) in own:
        return folder.joinpath(f"{name}.toml").read_text(encoding="utf-8")
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        known = difflib.get_close_matches(str(name), own, 3, 0.4) or own
        raise RecipeError(missing, where=where, because=f"as a file: {error}", hint=f"by name: {', '.join(known)}") from error


def description(name: str | os.PathLike[str]) -> str:
    """What a recipe says about itself."""
    return str(_parsed(name).get("description", ""))


def read(name: str | os.PathLike[str]) -> dict[str, Any]:
    """Settings of a recipe, checked against the fields of :class:`~shrinkc.recipe.Recipe`.

    Raises
    ------
    RecipeError
        It is missing, not TOML, or has a key that is unknown or holds something of the wrong type.
    """
    settings = {key: value for key, value in _parsed(name).items() if key not in ABOUT}
    return {key: _checked(f"{name}:{key}", key, value) for key, value in settings.items()}


def resolve(*, recipe: str | os.PathLike[str] | None = None, **settings: Any) -> Recipe:
    """:func:`shrinkc.recipe.resolve`, with the settings of a recipe file under those given.

    Budgets and ratios are one setting, how much goes: giving any of them leaves out the recipe's.

    Raises
    ------
    RecipeError
        See :func:`read` and :func:`shrinkc.recipe.resolve`.
    """
    own = {} if recipe is None else read(recipe)
    given = {name: _plain(value) for name, value in settings.items() if value is not None}
    if any(name in given for name in AMOUNTS):
        own = {name: value for name, value in own.items() if name not in AMOUNTS}
    return recipes.resolve(**{**own, **given})


def _plain(value: Any) -> Any:
    """Paths as text: a recipe is stored as JSON."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _parsed(name: str | os.PathLike[str]) -> Mapping[str, Any]:
    return _toml(text(name), name)


def _toml(held: str, name: str | os.PathLike[str]) -> Mapping[str, Any]:
    try:
        return tomllib.loads(held)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError("the recipe is not TOML", where=str(name), because=str(error)) from error


def training_names() -> list[str]:
    """Names of the training recipes shrinkc ships."""
    return _names_in(TRAINING_FOLDER)


def training_text(name: str | os.PathLike[str]) -> str:
    """The text of a training recipe, by its name or its file's.

    Raises
    ------
    RecipeError
        There is no such recipe or file.
    """
    return _text_in(TRAINING_FOLDER, name, "no such training recipe", str(name))


def parsed_training(name: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Settings of a training recipe as they stand in its file.

    Raises
    ------
    RecipeError
        It is missing, or not TOML.
    """
    return _toml(training_text(name), name)


def _checked(where: str, key: str, value: Any) -> Any:
    known = Recipe.__dataclass_fields__
    if key not in known:
        nearest = difflib.get_close_matches(key, [*known, *ABOUT], 1, 0)
        raise RecipeError("no such setting", where=where, hint=f"the nearest one is {nearest[0]}")
    expected, types = TYPES[str(known[key].type).removesuffix(" | None")]
    if not isinstance(value, types) or (isinstance(value, bool) and types is not bool) or not _holds(value):
        raise RecipeError("a setting of the wrong type", where=where, because=f"expected {expected}, found {value!r}")
    return {name: tuple(sizes) for name, sizes in value.items()} if isinstance(value, dict) else value


def _holds(value: Any) -> bool:
    """Whether what lies in a list or table is what it should be; true of anything else."""
    if isinstance(value, list):
        return all(isinstance(item, str) for item in value)
    if isinstance(value, dict):
        return all(isinstance(sizes, list) and all(type(size) is int for size in sizes) for sizes in value.values())
    return True
