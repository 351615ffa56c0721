"""Rendered pages of a few lines each: the data of PP-OCR's text detector.

Lines as in ``text_lines.py``, some of them standing on their heads, on paper of one colour.  Preprocessing is that of the
package ``rapidocr-onnxruntime``, (x / 255 - 0.5) / 0.5 with the channels in the order blue, green, red; it differs in that
pages are drawn at their size and not resized.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from text_lines import drawn
from text_lines import model_path as direction_path

SIZE = 320
"""Pixels of a side; the detector halves them five times."""

MOST_LINES = 6


def model_path() -> Path:
    """The detector inside the installed package, which is not imported."""
    return direction_path().with_name("ch_PP-OCRv4_det_infer.onnx")


def drawn_page(random: np.random.Generator, fonts: list[Path]) -> Image.Image:
    """Lines below each other, at most as many as fit."""
    page = Image.new("RGB", (SIZE, SIZE), tuple(random.integers(150, 256, 3).tolist()))
    top = int(random.integers(4, 24))
    for _ in range(random.integers(1, MOST_LINES + 1)):
        line = drawn(random, fonts)
        line = line.rotate(180) if random.random() < 0.1 else line
        if top + line.height > SIZE:
            break
        page.paste(line, (int(random.integers(0, max(1, SIZE - line.width))), top))
        top += line.height + int(random.integers(2, 20))
    return page


def pages(count: int, seed: int, fonts: list[Path]) -> np.ndarray:
    """Float32 (count, 3, 320, 320), the same for a seed."""
    images = [drawn_page(np.random.default_rng([seed, number]), fonts) for number in range(count)]
    stacked = np.stack([np.asarray(image, np.float32)[:, :, ::-1].transpose(2, 0, 1) for image in images])
    return np.ascontiguousarray((stacked / 255 - 0.5) / 0.5)
