"""Rendered lines of text, upright or turned by 180 degrees: the data of PP-OCR's text direction model.

    python benchmarks/text_lines.py --folder /tmp/lines     # writes calib.npz (no labels) and eval.npz, scores the original

Random words in every Latin font below /usr/share/fonts (Debian's fonts-dejavu, fonts-liberation, fonts-freefont-ttf ...), in
several sizes and colours, slightly rotated, blurred and noisy.  Needs Pillow and the package ``rapidocr-onnxruntime``, of
which only the model file is used.  Preprocessing is that package's: 48 pixels high, at most 192 wide, keeping the ratio where
it fits, (x / 255 - 0.5) / 0.5, channels in the order blue, green, red, padded with zeros on the right.  It differs in that
Pillow smooths when it makes an image smaller.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

FONTS = Path("/usr/share/fonts")
SUFFIXES = (".ttf", ".otf")
SIZES = (18, 44)
HEIGHT, WIDTH = 48, 192
INPUT = "x"

LETTERS = "etaoinshrdlcumwfgypbvk"
WEIGHTS = np.array(
    [12.7, 9.1, 8.2, 7.5, 7.0, 6.7, 6.3, 6.1, 6.0, 4.3, 4.0, 2.8, 2.8, 2.4, 2.4, 2.2, 2.0, 2.0, 1.9, 1.5, 1.0, 0.8]
)
"""Letters about as frequent as in English, in percent."""


def model_path() -> Path:
    """The direction model inside the installed package, which is not imported."""
    found = importlib.util.find_spec("rapidocr_onnxruntime")
    if found is None or found.origin is None:
        raise SystemExit("pip install --no-deps rapidocr-onnxruntime: the model file is in it")
    return Path(found.origin).parent / "models" / "ch_ppocr_mobile_v2.0_cls_infer.onnx"


def fonts_below(folder: Path) -> list[Path]:
    """Fonts that have Latin letters, sorted by name."""
    files = [file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES]
    return sorted((file for file in files if is_latin(file)), key=lambda file: file.name)


def is_latin(file: Path) -> bool:
    """Whether letters look different from each other; a missing letter is drawn as the same box every time."""
    font = ImageFont.truetype(str(file), 20)
    shapes = {bytes(font.getmask(letter)) for letter in "AEgk5"}
    return len(shapes) == 5


def words(random: np.random.Generator) -> str:
    """One to three made-up words or numbers."""
    return " ".join(word(random) for _ in range(random.integers(1, 4)))


def word(random: np.random.Generator) -> str:
    """Letters in lower case, capitalised or in capitals, or digits."""
    length = int(random.integers(3, 10))
    if random.random() < 0.15:
        return "".join(random.choice(list("0123456789"), length))
    text = "".join(random.choice(list(LETTERS), length, p=WEIGHTS / WEIGHTS.sum()))
    style = random.random()
    return text.upper() if style < 0.2 else text.capitalize() if style < 0.5 else text


def drawn(random: np.random.Generator, fonts: list[Path]) -> Image.Image:
    """An upright line: ink on paper, slightly rotated, blurred, noisy."""
    font = ImageFont.truetype(str(fonts[random.integers(len(fonts))]), int(random.integers(*SIZES)))
    text, margin = words(random), int(random.integers(2, 9))
    left, top, right, bottom = font.getbbox(text)
    paper, ink = _colours(random)
    image = Image.new("RGB", (int(right - left) + 2 * margin, int(bottom - top) + 2 * margin), paper)
    ImageDraw.Draw(image).text((margin - left, margin - top), text, ink, font)
    image = image.rotate(random.uniform(-4, 4), Image.Resampling.BICUBIC, expand=True, fillcolor=paper)
    image = image.filter(ImageFilter.GaussianBlur(random.uniform(0, 2.0)))
    noisy = np.asarray(image, np.float32) + random.normal(0, random.uniform(0, 20), (image.height, image.width, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def _colours(random: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Light paper and dark ink, or the other way round."""
    light, dark = random.integers(170, 256, 3).tolist(), random.integers(0, 110, 3).tolist()
    return (tuple(light), tuple(dark)) if random.random() < 0.8 else (tuple(dark), tuple(light))


def prepared(image: Image.Image) -> np.ndarray:
    """Float32 (3, 48, 192) as the model wants it."""
    width = min(WIDTH, math.ceil(HEIGHT * image.width / image.height))
    resized = np.asarray(image.resize((width, HEIGHT), Image.Resampling.BILINEAR), np.float32)
    padded = np.zeros((3, HEIGHT, WIDTH), np.float32)
    padded[:, :, :width] = (resized[:, :, ::-1].transpose(2, 0, 1) / 255 - 0.5) / 0.5
    return padded


def sample(fonts: list[Path], seed: int, number: int) -> tuple[np.ndarray, int]:
    """One line and its label: 1 if it stands on its head."""
    random = np.random.default_rng([seed, number])
    image, is_turned = drawn(random, fonts), int(random.integers(2))
    return prepared(image.rotate(180) if is_turned else image), is_turned


def lines(count: int, seed: int, fonts: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Float32 (count, 3, 48, 192) and labels as int64 (count,)."""
    images, labels = zip(*(sample(fonts, seed, number) for number in range(count)), strict=True)
    return np.stack(images), np.array(labels, np.int64)


def write(folder: Path, fonts: list[Path], calibration: int, evaluation: int, seed: int) -> None:
    """Write calib.npz without labels and eval.npz with them; no line is in both."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "calib.npz", **{INPUT: lines(calibration, 2 * seed + 1, fonts)[0]})
    samples, labels = lines(evaluation, 0, fonts)
    np.savez(folder / "eval.npz", **{INPUT: samples, "labels": labels})


def main() -> None:
    """Write both files and score the original."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--fonts", type=Path, default=FONTS)
    parser.add_argument("--calibration", type=int, default=512)
    parser.add_argument("--evaluation", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="of the calibration lines; the evaluation lines stay the same")
    args = parser.parse_args()
    from score import accuracy

    write(args.folder, fonts_below(args.fonts), args.calibration, args.evaluation, args.seed)
    test = np.load(args.folder / "eval.npz")
    print(f"accuracy of the original: {accuracy(model_path(), INPUT, test[INPUT], test['labels']):.4f}")


if __name__ == "__main__":
    main()
