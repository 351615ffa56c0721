"""Data from a folder of images; with one folder per class in it, the samples have labels.

The class folders are numbered in the order of their names, or by their names, if these are numbers.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from shrinkc import shapes
from shrinkc.errors import CalibrationError
from shrinkc.evidence import preprocessing as presets
from shrinkc.evidence.data import Data, evenly_spaced, fixed_batch
from shrinkc.evidence.preprocessing import Preprocessing

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})

BYTE_MODES = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"})
"""Pillow's modes of 8 bits a channel; it would clip others without a word."""

FloatArray = NDArray[np.float32]


def is_image_folder(path: Path) -> bool:
    """Whether a path is a folder with images in it or in folders of it."""
    return path.is_dir() and any(_is_image(file) for file in path.rglob("*"))


def read_folder(folder: Path, model: ir.Model, preprocess: str | None, most: int) -> Data:
    """At most ``most`` images of a folder, evenly spaced, as the only input of the model.

    Parameters
    ----------
    folder : Path
    model : ir.Model
    preprocess : str or None
        Name of a preset, or a TOML file.
    most : int

    Raises
    ------
    CalibrationError
        There is no preprocessing or no Pillow, the model takes no single image, or an image is unreadable.
    RecipeError
        The preprocessing is wrong.
    """
    value = _only_input(folder, model)
    settled = _settled(_chosen(folder, preprocess), value, folder)
    files = sorted(file for file in folder.rglob("*") if _is_image(file))
    classes = _classes(files, folder)
    chosen = evenly_spaced(len(files), most, fixed_batch(model) or 1)
    _require_pillow(folder)
    samples = np.stack([_sample(files[index], settled) for index in chosen])
    dtype = np.dtype(np.float32) if value.dtype is None else value.dtype.numpy()
    inputs = {value.name or "": _typed(samples, dtype, settled, folder)}
    if classes is None:
        return Data(inputs, None, folder.name)
    numbers, names = _numbered(classes)
    return Data(inputs, numbers[chosen], folder.name, names)


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and file.is_file() and not file.name.startswith(".")


def _only_input(folder: Path, model: ir.Model) -> ir.Value:
    inputs = shapes.real_inputs(model)
    shape = None if len(inputs) != 1 else inputs[0].shape
    if len(inputs) != 1 or (shape is not None and len(shape) != 4):
        found = ", ".join(f"{value.name} {value.shape}" for value in inputs)
        raise CalibrationError(
            "images cannot be fed to this model", where=str(folder), because=f"expected one input of four axes, found {found}"
        )
    return inputs[0]


def _chosen(folder: Path, preprocess: str | None) -> Preprocessing:
    """Nothing is assumed: another preprocessing than that of the training gives another, wrong accuracy."""
    if preprocess is None:
        raise CalibrationError(
            "a folder of images needs to know how they become inputs",
            where=str(folder),
            hint=f"--preprocess, as in training: {', '.join(presets.presets())}, or a TOML file",
        )
    return presets.load(preprocess)


def _settled(chosen: Preprocessing, value: ir.Value, folder: Path) -> Preprocessing:
    """Preprocessing with its layout and size, from the model where it leaves them open."""
    declared = [dim if isinstance(dim, int) and dim > 0 else None for dim in value.shape or [None] * 4]
    if chosen.layout is None:
        at_channels = {layout: declared[layout.index("C")] for layout in presets.LAYOUTS}
        fitting = [layout for size in (chosen.n_channels, None) for layout in presets.LAYOUTS if at_channels[layout] == size]
        if not fitting:
            raise CalibrationError(
                "wrong shape",
                where=f"{folder.name}: {value.name}",
                because=f"expected {value.shape}, found {chosen.n_channels} channels ({chosen.channels})",
                hint="--preprocess grey" if 1 in declared[1:] else "a preprocessing with as many channels as the model's input",
            )
        chosen = replace(chosen, layout=fitting[0])
    height, width = (declared[(chosen.layout or "NCHW").index(axis)] or shapes.DEFAULT_SPATIAL for axis in "HW")
    return replace(chosen, size=chosen.size or (height, width))


def _classes(files: list[Path], folder: Path) -> list[str] | None:
    """Name of the class folder of every image; None if they lie in one folder."""
    parts = [file.relative_to(folder).parts for file in files]
    is_loose = [len(part) == 1 for part in parts]
    if any(is_loose) and not all(is_loose):
        raise CalibrationError(
            "images both in class folders and outside of them",
            where=str(folder),
            because=f"expected one or the other, found {parts[is_loose.index(True)][0]} beside folders",
        )
    names = [part[0] for part in parts]
    return names if not any(is_loose) and len(set(names)) > 1 else None


def _numbered(classes: list[str]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Class of every image, and the names that were numbered for it."""
    if all(name.isdecimal() for name in classes):
        return np.asarray([int(name) for name in classes], np.int64), ()
    names = tuple(sorted(set(classes)))
    numbers = {name: number for number, name in enumerate(names)}
    return np.asarray([numbers[name] for name in classes], np.int64), names


def _require_pillow(folder: Path) -> None:
    if importlib.util.find_spec("PIL") is None:
        raise CalibrationError(
            "images cannot be read", where=str(folder), because="Pillow is not installed", hint='pip install "shrinkc[images]"'
        )


def _sample(file: Path, settled: Preprocessing) -> FloatArray:
    """Image as one sample, without the batch axis, float32."""
    pixels = np.asarray(_sized(_opened(file, settled), settled), np.float32).reshape(*(settled.size or ()), settled.n_channels)
    if settled.channels == "BGR":
        pixels = pixels[..., ::-1]
    mean, std = np.asarray(settled.mean, np.float32), np.asarray(settled.std, np.float32)
    values: FloatArray = (pixels * np.float32(settled.scale) - mean) / std
    return values.transpose(2, 0, 1) if settled.layout == "NCHW" else values


def _opened(file: Path, settled: Preprocessing) -> Image.Image:
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            mode = image.mode
            upright = ImageOps.exif_transpose(image)
            converted = upright.convert("L" if settled.channels == "grey" else "RGB")
    except Exception as error:  # Pillow's decoders raise many types; all mean the same to a user
        raise CalibrationError("an image cannot be read", where=str(file), because=str(error)) from error
    if mode not in BYTE_MODES:
        raise CalibrationError(
            "an image of another depth",
            where=str(file),
            because=f"expected 8 bits a channel, found mode {mode}",
            hint="convert it, or give the samples as .npz",
        )
    return converted


def _sized(image: Image.Image, settled: Preprocessing) -> Image.Image:
    from PIL import Image

    height, width = settled.size or image.size[::-1]
    resample = Image.Resampling[settled.interpolation.upper()]
    if settled.resize == "stretch":
        return image.resize((width, height), resample)
    if settled.resize == "letterbox":
        scale = min(width / image.width, height / image.height)
        inner = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), resample)
        padded = Image.new(image.mode, (width, height), (settled.pad,) * len(image.getbands()))
        padded.paste(inner, ((width - inner.width) // 2, (height - inner.height) // 2))
        return padded
    return _middle(image, height, width, settled.crop, resample)


def _middle(image: Image.Image, height: int, width: int, crop: float, resample: Image.Resampling) -> Image.Image:
    """Scaled until ``crop`` of it just covers the size, then cut out of the middle, as torchvision rounds it."""
    tall, wide = round(height / crop), round(width / crop)
    scale = max(tall / image.height, wide / image.width)
    # The tiny step keeps 512 * (256 / 512) from becoming 255.
    scaled = image.resize((max(wide, int(image.width * scale + 1e-6)), max(tall, int(image.height * scale + 1e-6))), resample)
    left, top = round((scaled.width - width) / 2), round((scaled.height - height) / 2)
    return scaled.crop((left, top, left + width, top + height))


def _typed(samples: FloatArray, dtype: np.dtype[np.generic], settled: Preprocessing, folder: Path) -> np.ndarray:
    if np.issubdtype(dtype, np.floating):
        return samples.astype(dtype, copy=False)
    if dtype == np.uint8 and settled.keeps_pixels:
        return samples.astype(np.uint8)
    raise CalibrationError(
        "wrong element type",
        where=str(folder),
        because=f"expected {dtype}, found float32 from this preprocessing",
        hint="--preprocess raw feeds bytes" if dtype == np.uint8 else "",
    )
