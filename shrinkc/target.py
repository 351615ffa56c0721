"""Targets: what a device likes and what it can, as data; every figure says where it comes from."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shrinkc import registry
from shrinkc.errors import PluginError, RecipeError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

BASES = ("measured", "read", "derived", "memory")
"""How a figure came to be known: measured by whoever wrote the file, read elsewhere, worked out from such, or remembered."""

UNITS = {
    "compute_capability": "",
    "processor": "",
    "streaming_multiprocessors": "",
    "dla_cores": "",
    "float32_tflops": "TFLOP/s",
    "float16_tflops": "TFLOP/s",
    "bfloat16_tflops": "TFLOP/s",
    "int8_tops": "TOP/s",
    "int8_sparse_tops": "TOP/s, 2:4 sparse",
    "float4_sparse_tops": "TFLOP/s, 2:4 sparse",
    "npu_int8_tops": "TOP/s",
    "bandwidth_gb_s": "GB/s",
    "memory_gb": "GB",
    "power_w": "W",
    "overhead_us": "us per layer",
}
"""Every figure a profile may hold, and its unit."""

PEAKS = {
    "float32": "float32_tflops",
    "float16": "float16_tflops",
    "bfloat16": "bfloat16_tflops",
    "int8": "int8_tops",
}
"""Figure that bounds arithmetic in a precision."""

HERE, BOARD = "here", "board"

SHIPPED = "shrinkc.targets"
"""Package of the targets that come with the program."""

KEYS = {
    "inherits": str,
    "is_abstract": bool,
    "description": str,
    "aliases": list,
    "runtime": str,
    "place": str,
    "precision": str,
    "notes": list,
    "channel_multiple": dict,
    "figures": dict,
}
FIGURE_KEYS = {"value", "basis", "verified", "source"}

Number = float | str


@dataclass(frozen=True)
class Figure:
    """One number or text about a device, and how it is known.

    Attributes
    ----------
    value : float or str
    unit : str
    basis : str
        One of :data:`BASES`.
    source : str
    is_verified : bool
        Whether it was measured on the device, or checked against the maker's own data sheet.
    """

    value: Number
    unit: str
    basis: str
    source: str
    is_verified: bool

    def number(self) -> float | None:
        """The value, None if it is a text."""
        return None if isinstance(self.value, str) else float(self.value)


@dataclass(frozen=True)
class Target:
    """One deployment target.

    Attributes
    ----------
    name, description : str
    runtime : str
        Engine that runs the model there.
    place : str
        ``here`` if that is this machine, else ``board``.
    precision : str
        What the engine computes in.
    channel_multiples : mapping of precision to Figure
        Widths the engine likes.
    figures : mapping of name to Figure
        Peaks, bandwidth and the like, of those in :data:`UNITS` that are known.
    lineage : tuple of str
        The profile itself, then what it inherits from.
    aliases, notes : tuple of str
    origin : str
        The file of a user's target, or of another package's; empty for one that comes with the program.
    """

    name: str
    description: str
    runtime: str
    place: str
    precision: str
    channel_multiples: Mapping[str, Figure]
    figures: Mapping[str, Figure] = field(default_factory=dict)
    lineage: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    origin: str = ""

    @property
    def channel_multiple(self) -> int:
        """Width the engine likes at the precision it computes in."""
        return int(self.channel_multiples[self.precision].value)

    @property
    def is_here(self) -> bool:
        """Whether the model will run on this machine."""
        return self.place == HERE

    def number(self, name: str) -> float | None:
        """A figure as a number; None if it is not known, or a text."""
        return self.figures[name].number() if name in self.figures else None


def user_folder() -> Path:
    """Folder of the user's own targets, where the system keeps settings."""
    if sys.platform == "win32":
        base = Path(os.environ.get("APPDATA", Path.home() / "AppData" / "Roaming"))
    else:
        base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return base / "shrinkc" / "targets"


def names() -> list[str]:
    """Names of the targets one can compress for, the user's own included."""
    return sorted(name for name in _stored() if not _parsed(name).get("is_abstract", False))


def load(name: str) -> Target:
    """Target by name, by one of its aliases, or from a TOML file.

    Raises
    ------
    RecipeError
        There is none of that name, or its file is wrong.
    """
    if name.endswith(".toml"):
        return from_text(Path(name).stem, _read(Path(name)), origin=name)
    found = _aliases().get(name, name)
    if found not in _stored() or _parsed(found).get("is_abstract", False):
        raise RecipeError("no target of that name", where=f"--target {name}", hint=f"known: {', '.join(names())}")
    return _built(found, _parsed(found), _origin(found))


def from_text(name: str, text: str, origin: str = "") -> Target:
    """Target from the text of a TOML file; what it inherits from are targets by name.

    Raises
    ------
    RecipeError
        The text is not TOML, or breaks the schema.
    """
    return _built(name, _toml(name, text), origin)


def forget() -> None:
    """Forget what was read, after a target was added."""
    for cached in (_packaged, _stored, _parsed, _aliases):
        cached.cache_clear()


@cache
def _stored() -> dict[str, str]:
    """Text of every profile by name; the user's take precedence."""
    packaged = {name: file.read_text(encoding="utf-8") for name, (_, file) in _packaged().items()}
    return {**packaged, **{path.stem: _read(path) for path in _user_files()}}


@cache
def _packaged() -> dict[str, tuple[str, Traversable]]:
    """Files of installed packages by the name of their target, with the package: what comes with the program is one of them.

    Raises
    ------
    PluginError
        An entry point names no package with profiles, or two packages have a target of one name.
    """
    found: dict[str, tuple[str, Traversable]] = {}
    for point in registry.names("targets"):
        package = registry.load("targets", point)
        where = getattr(package, "__name__", repr(package))
        profiles = _profiles(package)
        if not profiles:
            raise PluginError("a plug-in brings no targets", where=where, because="it is no package with .toml files in it")
        for name, file in profiles.items():
            if name in found:
                raise PluginError("two packages have a target of one name", where=name, because=f"{found[name][0]} and {where}")
            found[name] = (where, file)
    return found


def _profiles(package: Any) -> dict[str, Traversable]:
    """Files of targets in a package, by name; none where it is no package."""
    held = files(package).iterdir() if hasattr(package, "__path__") else ()
    return {file.name.removesuffix(".toml"): file for file in held if file.name.endswith(".toml")}


def _user_files() -> Iterator[Path]:
    folder = user_folder()
    return iter(sorted(folder.glob("*.toml"))) if folder.is_dir() else iter(())


def _origin(name: str) -> str:
    path = user_folder() / f"{name}.toml"
    if path.is_file():
        return str(path)
    package = _packaged()[name][0]
    return "" if package == SHIPPED else f"{package}/{name}.toml"


@cache
def _parsed(name: str) -> dict[str, Any]:
    return _toml(name, _stored()[name])


@cache
def _aliases() -> dict[str, str]:
    return {alias: name for name in _stored() for alias in _parsed(name).get("aliases", [])}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError("a target file cannot be read", where=str(path), because=str(error)) from error


def _toml(name: str, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError("a target is not TOML", where=name, because=str(error)) from error


def _built(name: str, data: Mapping[str, Any], origin: str) -> Target:
    lineage = _lineage(name, data)
    merged: dict[str, Any] = {"channel_multiple": {}, "figures": {}}
    for ancestor, own in reversed(lineage):
        _check_keys(ancestor, own)
        tables = {table: {**merged[table], **own.get(table, {})} for table in ("channel_multiple", "figures")}
        merged = {**merged, **own, **tables}
    for key in ("description", "runtime", "place", "precision"):
        if key not in merged:
            raise RecipeError(f"a target needs {key}", where=name)
    if merged["precision"] not in merged["channel_multiple"] or merged["place"] not in (HERE, BOARD):
        raise RecipeError(
            f"place is {HERE} or {BOARD}, and [channel_multiple] has an entry for the precision {merged['precision']}",
            where=name,
        )
    return Target(
        name,
        merged["description"],
        merged["runtime"],
        merged["place"],
        merged["precision"],
        {key: _multiple(f"{name}:channel_multiple.{key}", value) for key, value in merged["channel_multiple"].items()},
        {key: _figure(f"{name}:figures.{key}", key, value) for key, value in merged["figures"].items()},
        tuple(ancestor for ancestor, _ in lineage),
        tuple(data.get("aliases", ())),
        tuple(merged.get("notes", ())),
        origin,
    )


def _lineage(name: str, data: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """A profile and what it inherits from, nearest first."""
    found = [(name, data)]
    while "inherits" in data:
        parent = str(data["inherits"])
        if parent not in _stored():
            raise RecipeError("a target inherits from one that does not exist", where=f"{name}:inherits", because=parent)
        if parent in [ancestor for ancestor, _ in found]:
            raise RecipeError("a target inherits from itself", where=f"{name}:inherits", because=parent)
        data = _parsed(parent)
        found.append((parent, data))
    return found


def _check_keys(name: str, data: Mapping[str, Any]) -> None:
    for key, value in data.items():
        if key not in KEYS:
            raise RecipeError("no such key in a target", where=f"{name}:{key}", hint=f"known: {', '.join(KEYS)}")
        if not isinstance(value, KEYS[key]):
            raise RecipeError("a key of the wrong type", where=f"{name}:{key}", because=f"expected {KEYS[key].__name__}")


def _multiple(where: str, entry: Any) -> Figure:
    figure = _entry(where, "", entry)
    if type(figure.value) is not int or figure.value < 1:
        raise RecipeError("a channel multiple is a whole number of at least 1", where=where, because=repr(figure.value))
    return figure


def _figure(where: str, name: str, entry: Any) -> Figure:
    if name not in UNITS:
        raise RecipeError("no such figure", where=where, hint=f"known: {', '.join(UNITS)}")
    return _entry(where, UNITS[name], entry)


def _entry(where: str, unit: str, entry: Any) -> Figure:
    """A figure; one without a source is refused, whatever it says."""
    if not isinstance(entry, dict) or entry.keys() != FIGURE_KEYS:
        raise RecipeError("a figure needs value, basis, verified and source, and nothing else", where=where)
    if entry["basis"] not in BASES or not str(entry["source"]).strip() or not isinstance(entry["verified"], bool):
        raise RecipeError(
            "a figure that does not say where it comes from", where=where, hint=f"basis is one of {', '.join(BASES)}"
        )
    if entry["verified"] and entry["basis"] == "memory":
        raise RecipeError("what is only remembered is not verified", where=where)
    return Figure(entry["value"], unit, entry["basis"], entry["source"], entry["verified"])
