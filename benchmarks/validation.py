"""The demo model and PP-OCR's two, compressed, on every runtime that is here.

    python benchmarks/validation.py        # writes benchmarks/results/validation.json

Each is compressed on samples and validated on others: the demo's own, and lines and pages of text that are rendered
(``text_lines.py``, ``text_pages.py``).  ``SHRINKC_LITERT`` and the like name environments of their own, as for
``shrinkc validate``.  Engines agree or do not; times are not taken.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from text_lines import FONTS, fonts_below, lines
from text_lines import model_path as direction_path
from text_pages import model_path as detector_path
from text_pages import pages

from shrinkc.comparing import worst
from shrinkc.files import write_text
from shrinkc.pipeline import compress
from shrinkc.report import facts
from shrinkc.report.validation import EngineResult
from shrinkc.validating import validate

FOLDER = Path(__file__).parent
EXAMPLES = FOLDER.parent / "examples"
RUNTIMES = ("auto", "arm64:ncnn", "arm64:mnn")
CALIBRATION_SEED, EVALUATION_SEED = 1, 0
LINES, PAGES, INPUTS = 512, 64, 8


@dataclass(frozen=True)
class Case:
    """One model, what is asked of its cut, and where its samples come from: calibration first, then others."""

    title: str
    model: Path
    macs: str
    samples: Callable[[Path], tuple[Path, Path]]


def cases() -> dict[str, Case]:
    """By name."""
    return {
        "demo": Case("ResNet of the demo", EXAMPLES / "fashion_resnet.onnx", "40%", _of_the_demo),
        "direction": Case("PP-OCR text direction", direction_path(), "50%", _lines),
        "detector": Case("PP-OCRv4 text detector", detector_path(), "50%", _pages),
    }


def _of_the_demo(folder: Path) -> tuple[Path, Path]:
    return EXAMPLES / "fashion_calibration.npz", EXAMPLES / "fashion_eval.npz"


def _lines(folder: Path) -> tuple[Path, Path]:
    fonts = fonts_below(FONTS)
    return _saved(folder, "lines", lines(LINES, CALIBRATION_SEED, fonts)[0], lines(INPUTS, EVALUATION_SEED, fonts)[0])


def _pages(folder: Path) -> tuple[Path, Path]:
    fonts = fonts_below(FONTS)
    return _saved(folder, "pages", pages(PAGES, CALIBRATION_SEED, fonts), pages(INPUTS, EVALUATION_SEED, fonts))


def _saved(folder: Path, name: str, calibration: np.ndarray, others: np.ndarray) -> tuple[Path, Path]:
    """Both under the name that Paddle's exports give their input."""
    files = folder / f"{name}_calibration.npz", folder / f"{name}.npz"
    for file, array in zip(files, (calibration, others), strict=True):
        np.savez(file, x=array)
    return files


def validated(case: Case) -> dict[str, Any]:
    """One model's entry."""
    with tempfile.TemporaryDirectory() as folder:
        calibration, others = case.samples(Path(folder))
        output = Path(folder) / f"{case.model.stem}.shrunk.onnx"
        report = compress(case.model, macs=case.macs, data=calibration, output=output, measure_latency=False)
        found = validate(case.model, output, runtimes=RUNTIMES, data=others, n_inputs=INPUTS)
    return {
        "title": case.title,
        "model": case.model.name,
        "sha256": found.original_sha256,
        "macs_left": report.after.macs / report.before.macs,
        "inputs": found.inputs,
        "compression": asdict(worst(found.compression)),
        "results": [row(result) for result in found.results],
    }


def row(result: EngineResult) -> dict[str, Any]:
    """What the table needs of a result, and what one would ask next."""
    kept = ("runtime", "version", "status", "level", "reason", "place", "provider", "precision", "size_bytes", "tolerance")
    refused = None if result.support is None else len(result.support.refused())
    judged = 0 if result.support is None else len(result.support.verdicts)
    own = asdict(worst(result.own)) if result.own else None
    nodes = {"judged_nodes": judged, "refused_nodes": refused}
    return {**{name: getattr(result, name) for name in kept}, "own": own, **nodes, "warnings": result.warnings}


def main() -> None:
    """Run, write down, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=FOLDER / "results" / "validation.json")
    args = parser.parse_args()
    entries = {name: validated(case) for name, case in cases().items()}
    report = {"models": entries, "machine": facts.machine(), "versions": facts.versions(), "load_average": os.getloadavg()}
    write_text(args.output, json.dumps(report, indent=1) + "\n")
    from validation_table import markdown

    print(markdown(report))


if __name__ == "__main__":
    main()
