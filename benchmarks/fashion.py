"""Fashion-MNIST for the accuracy benchmark: samples without labels to calibrate on, and the test set.

The data is Debian's package ``dataset-fashion-mnist`` (MIT).  The models were trained on all but the last 5,000 images of
the training split; the calibration images come from those, so neither training nor the test has seen them.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

FOLDER = Path("/usr/share/datasets/fashion-mnist")
HELD_OUT = 5000
"""Images at the end of the training split that were not trained on."""

INPUT = "image"


def read_idx(path: Path) -> np.ndarray:
    """Read one gzip-compressed idx file of unsigned bytes."""
    raw = gzip.decompress(path.read_bytes())
    dims = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(raw[3])]
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * len(dims)).reshape(dims)


def split(name: str, folder: Path = FOLDER) -> tuple[np.ndarray, np.ndarray]:
    """Images as float32 (N, 1, 28, 28) in [0, 1] and labels as int64 (N,) of ``train`` or ``t10k``."""
    images = read_idx(folder / f"{name}-images-idx3-ubyte.gz").astype(np.float32) / 255
    return images[:, None], read_idx(folder / f"{name}-labels-idx1-ubyte.gz").astype(np.int64)


def chosen(samples: int, seed: int, total: int) -> np.ndarray:
    """Indices of the calibration images of a seed, among the last ``HELD_OUT`` of ``total``."""
    return total - HELD_OUT + np.random.default_rng(seed).choice(HELD_OUT, samples, replace=False)


def write_calibration(path: Path, labels: Path, samples: int, seed: int, folder: Path = FOLDER) -> None:
    """Write the images of a seed to ``path``, and their labels to a file of their own for peers that cannot do without."""
    images, classes = split("train", folder)
    index = chosen(samples, seed, len(images))
    np.savez(path, **{INPUT: images[index]})
    np.savez(labels, labels=classes[index])


def write_test(path: Path, folder: Path = FOLDER) -> None:
    """Write all 10,000 test images with their labels."""
    images, classes = split("t10k", folder)
    np.savez(path, **{INPUT: images, "labels": classes})


def write_training(folder: Path, data: Path = FOLDER) -> None:
    """Write all 60,000 training images to ``images.npz``, and with their labels to ``labelled.npz``."""
    images, classes = split("train", data)
    np.savez(folder / "images.npz", **{INPUT: images})
    np.savez(folder / "labelled.npz", **{INPUT: images, "labels": classes})
