"""Whether values that a user wrote are of the types that a dataclass's fields have."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from typing import Any

from shrinkc.errors import RecipeError
from shrinkc.training.settings import Settings

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
"""What a recipe may hold for a field, by the field's annotation; any other annotation is the dataclass's own to check."""

_MODULE = re.compile(r"\b(?:\w+\.)+(?=\w)")


def of_right_types(values: Mapping[str, Any], kind: Any, where: str) -> dict[str, Any]:
    """Values for the fields of a dataclass, lists as tuples, whole numbers as floats where a field wants those.

    Raises
    ------
    RecipeError
        There is no such field, or the value is of another type.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    return {name: _value(name, value, fields, where) for name, value in values.items()}


def _value(name: str, value: Any, fields: Mapping[str, dataclasses.Field[Any]], where: str) -> Any:
    if name not in fields:
        raise RecipeError("no such setting", where=f"{where}:{name}", hint=_nearest(name, fields))
    annotation = _annotation(fields[name])
    if annotation in TYPES and not _is(annotation, value):
        because = f"expected {TYPES[annotation][0]}, found {value!r}"
        raise RecipeError("a setting of the wrong type", where=f"{where}:{name}", because=because)
    return tuple(value) if isinstance(value, list) else float(value) if annotation == "float" else value


def _nearest(name: str, fields: Mapping[str, dataclasses.Field[Any]]) -> str:
    """What may have been meant; a name that is no option of the method may be a misspelled setting of every method."""
    known = dict.fromkeys((*fields, *(field.name for field in dataclasses.fields(Settings))))
    nearest = difflib.get_close_matches(name, known, 1, 0)
    return f"the nearest one is {nearest[0]}" if nearest else "there are none"


def _annotation(field: dataclasses.Field[Any]) -> str:
    """As one writes it, whether or not the module's annotations are texts, without the modules that names come from."""
    written = field.type.__name__ if type(field.type) is type else str(field.type)
    return _MODULE.sub("", written.strip("'\""))


def _is(annotation: str, value: Any) -> bool:
    types = TYPES[annotation][1]
    return isinstance(value, types) and (bool in types or not isinstance(value, bool)) and _holds(annotation, value)


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
