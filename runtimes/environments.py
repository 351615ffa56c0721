"""Engines whose packages do not go with ours: they live in an environment of their own, whose Python is named by a variable."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from shrinkc.runtimes.isolated import IsolatedEngine
from shrinkc.runtimes.isolation import HERE, Here, Place

from shrinkc.api import Probe


class InEnvironment(IsolatedEngine):
    """An engine in the environment that a variable names; without the variable, in this one, if it has it.

    Attributes
    ----------
    variable : str
        Names the Python of the environment: ``/path/to/venv/bin/python``.
    home : str
        What sort of environment it needs.
    """

    variable: ClassVar[str]
    home: ClassVar[str] = "an environment of its own"

    def __init__(self, place: Place | None = None) -> None:
        super().__init__(place or interpreter(self.variable) or HERE)

    def probe(self) -> Probe:
        """Whether the environment has the packages."""
        python = os.environ.get(self.variable)
        if not python:
            found = super().probe()
            hint = f"{self.hint}, in {self.home}; then export {self.variable}=ITS_PYTHON"
            return found if found.is_available else Probe(False, reason=found.reason, hint=hint)
        if not Path(python).is_file():
            return Probe(False, reason=f"{self.variable} names no file: {python}", hint=f"export {self.variable}=ITS_PYTHON")
        if not self.version():
            reason = f"{self.distributions[0]} is not in the environment of {python}"
            return Probe(False, reason=reason, hint=f"{python} -m {self.hint}")
        return Probe(True, version=self.version(), devices=self.devices())

    def version(self) -> str:
        """Version of the first of its packages that is installed there."""
        python = os.environ.get(self.variable)
        if not python:
            return super().version()
        return next(filter(None, (_version(Path(python), name) for name in self.distributions)), "")


def interpreter(variable: str) -> Here | None:
    """Place of the environment that a variable names; programs beside its Python can be found there."""
    python = os.environ.get(variable)
    return Here((python,), variables={"PATH": str(Path(python).parent)}) if python else None


def _version(python: Path, distribution: str) -> str:
    """Version by the name of the folder that holds a package's metadata."""
    wanted = distribution.replace("-", "_").lower()
    for folder in _site_packages(python):
        for entry in folder.glob("*.dist-info"):
            name, _, version = entry.name.removesuffix(".dist-info").partition("-")
            if name.lower() == wanted:
                return version
    return ""


def _site_packages(python: Path) -> Iterator[Path]:
    home = python.parent.parent
    yield from (*home.glob("lib/python*/site-packages"), *home.glob("Lib/site-packages"))
