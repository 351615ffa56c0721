"""How an image becomes an input: presets as data, or a TOML file of the user with the same keys.

``value = (pixel * scale - mean) / std``, with the pixel from 0 to 255.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

from shrinkc.errors import RecipeError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RESIZES = ("shortest", "stretch", "letterbox")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
LAYOUTS = ("NCHW", "NHWC")
CHANNELS = ("RGB", "BGR", "grey")


@dataclass(frozen=True)
class Preprocessing:
    """One way to make inputs of images; the attributes are the keys of the TOML file.

    Attributes
    ----------
    description : str
    size : tuple of int, (height, width) in pixels, or None
        None is the size the model fixes, else 224 by 224.
    resize : str
        ``shortest`` scales the image until it just covers the size and takes the middle, ``stretch`` ignores its
        proportions, ``letterbox`` fits it in and pads.
    crop : float in (0, 1]
        Share of the scaled image's height and width that is taken; for ``shortest`` only.
    pad : int in [0, 255]
        Pixel that ``letterbox`` pads with.
    interpolation : str
    layout : str or None
        ``NCHW`` or ``NHWC``; None is what the model's input shape says.
    channels : str
        ``RGB``, ``BGR`` or ``grey``.
    scale : float
    mean, std : tuple of float
        One for all channels, or one per channel in the order of ``channels``.
    """

    description: str = ""
    size: tuple[int, int] | None = None
    resize: str = "shortest"
    crop: float = 1.0
    pad: int = 0
    interpolation: str = "bilinear"
    layout: str | None = None
    channels: str = "RGB"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    @property
    def n_channels(self) -> int:
        """Channels of the input."""
        return 1 if self.channels == "grey" else 3

    @property
    def keeps_pixels(self) -> bool:
        """Whether values are pixels as they are, so that they can be bytes."""
        return self.scale == 1 and set(self.mean) == {0.0} and set(self.std) == {1.0}


def presets() -> list[str]:
    """Names of the presets shrinkc ships."""
    found = [file.name for file in files("shrinkc.evidence.presets").iterdir()]
    return sorted(name.removesuffix(".toml") for name in found if name.endswith(".toml"))


def load(name: str) -> Preprocessing:
    """Preprocessing by the name of a preset or the path of a TOML file.

    Raises
    ------
    RecipeError
        There is no such preset or file, or a key or value of it is wrong.
    """
    if name in presets():
        return _parsed(files("shrinkc.evidence.presets").joinpath(f"{name}.toml").read_text(encoding="utf-8"), name)
    if not Path(name).is_file():
        raise RecipeError(
            "no such preprocessing",
            where=f"--preprocess {name}",
            because="it is neither a preset nor a file",
            hint=f"presets: {', '.join(presets())}",
        )
    try:
        text = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError("the preprocessing cannot be read", where=name, because=str(error)) from error
    return _parsed(text, name)


def _parsed(text: str, name: str) -> Preprocessing:
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError("not a TOML file", where=name, because=str(error)) from error
    for key, value in table.items():
        _check_key(key, value, name)
    result = Preprocessing(**{key: _value(key, value) for key, value in table.items()})
    _check_together(result, table, name)
    return result


def _check_key(key: str, value: Any, name: str) -> None:
    known = [field.name for field in fields(Preprocessing)]
    if key not in known:
        close = get_close_matches(key, known, 1)
        raise RecipeError(
            "no such key",
            where=f"{name}: {key}",
            hint=f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}",
        )
    expected, is_valid = SCHEMA[key]
    if not is_valid(value):
        raise RecipeError("wrong value", where=f"{name}: {key}", because=f"expected {expected}, found {value!r}")


def _check_together(preprocessing: Preprocessing, table: dict[str, Any], name: str) -> None:
    for key in ("mean", "std"):
        counts = sorted({1, preprocessing.n_channels})
        if len(getattr(preprocessing, key)) not in counts:
            wanted = " or ".join(map(str, counts))
            raise RecipeError(
                "wrong value",
                where=f"{name}: {key}",
                because=f"expected {wanted} for {preprocessing.channels}, found {table[key]!r}",
            )
    for key, rule in (("crop", "shortest"), ("pad", "letterbox")):
        if key in table and preprocessing.resize != rule:
            raise RecipeError(
                "a key without effect",
                where=f"{name}: {key}",
                because=f"only with resize = {rule!r}, not {preprocessing.resize!r}",
            )


def _value(key: str, value: Any) -> Any:
    if key == "size":
        return (value, value) if isinstance(value, int) else tuple(value)
    if key in ("mean", "std"):
        return tuple(map(float, value if isinstance(value, list) else [value]))
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _are(is_valid: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: all(map(is_valid, value)) and bool(value) if isinstance(value, list) else is_valid(value)


def _one_of(*names: str) -> tuple[str, Callable[[Any], bool]]:
    return f"one of {', '.join(names)}", lambda value: value in names


SCHEMA: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "description": ("a text", lambda value: isinstance(value, str)),
    "size": (
        "a number of pixels, or [height, width]",
        lambda value: _are(_is_count)(value) and (not isinstance(value, list) or len(value) == 2),
    ),
    "resize": _one_of(*RESIZES),
    "crop": ("a number above 0, at most 1", lambda value: _is_number(value) and 0 < value <= 1),
    "pad": ("a whole number from 0 to 255", lambda value: type(value) is int and 0 <= value <= 255),
    "interpolation": _one_of(*INTERPOLATIONS),
    "layout": _one_of(*LAYOUTS),
    "channels": _one_of(*CHANNELS),
    "scale": ("a number above 0", lambda value: _is_number(value) and value > 0),
    "mean": ("a number, or one per channel", _are(_is_number)),
    "std": ("a number above 0, or one per channel", _are(lambda value: _is_number(value) and value > 0)),
}
"""What each key must be, in words and as a test."""
