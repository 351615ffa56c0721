"""Targets: what the device likes, as data."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from shrinkc.errors import RecipeError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Target:
    """One deployment target.

    Attributes
    ----------
    name, description : str
    runtime : str
        Engine that runs the model there.
    precision : str
        What the engine computes in.
    channel_multiple : int
        Width the engine likes at that precision.
    source : str
        Where the multiple comes from.
    is_verified : bool
        Whether it was measured on the device.
    """

    name: str
    description: str
    runtime: str
    precision: str
    channel_multiple: int
    source: str
    is_verified: bool


def names() -> list[str]:
    """Names of the targets shrinkc ships."""
    return sorted(file.name.removesuffix(".toml") for file in files("shrinkc.targets").iterdir() if file.name.endswith(".toml"))


def load(name: str) -> Target:
    """Target by name.

    Raises
    ------
    RecipeError
        There is none of that name.
    """
    if name not in names():
        raise RecipeError("no target of that name", where=f"--target {name}", hint=f"known: {', '.join(names())}")
    data: dict[str, Any] = tomllib.loads(files("shrinkc.targets").joinpath(f"{name}.toml").read_text(encoding="utf-8"))
    multiple = data["channel_multiple"]
    return Target(
        name,
        data["description"],
        data["runtime"],
        data["precision"],
        int(multiple[data["precision"]]),
        multiple["source"],
        bool(multiple["verified"]),
    )
