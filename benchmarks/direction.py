"""PP-OCR's text direction model at half its MACs, without and with training, on the lines of ``text_lines.py``.

    python benchmarks/direction.py                        # writes benchmarks/results/direction.json
    python benchmarks/direction.py --recover 3cpumin --output benchmarks/results/direction_recovered.json
    python benchmarks/direction.py --methods l2+refit+global obs+refit+global --cuts 30 50

A method is CRITERION+COMPENSATION+ALLOCATOR.  The calibration lines, 2048 of them as they cost nothing but their rendering,
have no labels and change with the seed; the lines the accuracy is measured on are others, and the same for all.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from accuracy_grid import DEFAULT, SEEDS
from processes import run

from shrinkc.files import sha256, write_text
from shrinkc.report import facts

FOLDER = Path(__file__).parent
TARGET = 0.03
"""Accuracy that may be lost at half the MACs."""


def rendered(folder: Path, seed: int, calibration: int, evaluation: int) -> None:
    """Write the lines of a seed, in a process of its own."""
    options = ["--folder", folder, "--seed", seed, "--calibration", calibration, "--evaluation", evaluation]
    subprocess.run([sys.executable, FOLDER / "text_lines.py", *map(str, options)], check=True, stdout=subprocess.DEVNULL)


def score(model: Path, lines: Path) -> dict[str, Any]:
    """Accuracy and MACs."""
    answer = run(sys.executable, FOLDER / "score.py", model, lines / "eval.npz").answer
    if "failed" in answer:
        raise SystemExit(f"{model.name}: {answer['failed']}")
    return answer


def compressed(model: Path, lines: Path, method: str, removed: int, seed: int, recover: str | None) -> dict[str, Any]:
    """One run: its method, what is left, what it cost."""
    output = lines / "pruned.onnx"
    options = ["--method", method, "--remove", removed / 100, "--seed", seed, "--output", output]
    options += [] if recover is None else ["--recover", recover]
    made = run(sys.executable, FOLDER / "peers" / "shrinkc_run.py", model, *options, "--calibration", lines / "calib.npz")
    if "failed" in made.answer:
        raise SystemExit(f"{method}: {made.complaint}")
    cost = {"cpu_s": made.cpu_s, "peak_bytes": made.peak_bytes}
    return {"method": method, "removed": removed, "seed": seed, **score(output, lines), **cost}


def measured(
    model: Path, methods: list[str], cuts: list[int], calibration: int, evaluation: int, recover: str | None
) -> dict[str, Any]:
    """Original and every run."""
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as work:
        for seed in SEEDS:
            lines = Path(work) / str(seed)
            rendered(lines, seed, calibration, evaluation)
            runs += [compressed(model, lines, method, cut, seed, recover) for method in methods for cut in cuts]
        original = score(model, lines)
    return {"original": {"sha256": sha256(model), **original}, "runs": runs}


def table(results: dict[str, Any]) -> str:
    """Mean and standard deviation over seeds, and the points lost."""
    before, rows = results["original"]["accuracy"], [f"original: {100 * results['original']['accuracy']:.1f} %"]
    for method, removed in dict.fromkeys((entry["method"], entry["removed"]) for entry in results["runs"]):
        found = [entry for entry in results["runs"] if (entry["method"], entry["removed"]) == (method, removed)]
        values = [100 * entry["accuracy"] for entry in found]
        left = statistics.mean(entry["macs"] for entry in found) / results["original"]["macs"]
        mean, std = statistics.mean(values), statistics.stdev(values)
        rows.append(f"{method}, {100 * left:.1f} % of the MACs: {mean:.1f} ±{std:.1f} %, {mean - 100 * before:+.1f} points")
    return "\n".join(rows)


def main() -> None:
    """Run, write down, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=[DEFAULT], metavar="METHOD")
    parser.add_argument("--cuts", nargs="+", type=int, default=[50], help="percent of the MACs to remove")
    parser.add_argument("--calibration", type=int, default=2048, help="lines to calibrate on")
    parser.add_argument("--evaluation", type=int, default=2000, help="lines the accuracy is measured on")
    parser.add_argument("--recover", metavar="BUDGET", help="train the cut model on the calibration lines as well, for so long")
    parser.add_argument("--output", type=Path, default=FOLDER / "results" / "direction.json")
    args = parser.parse_args()
    from text_lines import FONTS, fonts_below, model_path

    results = measured(model_path(), args.methods, args.cuts, args.calibration, args.evaluation, args.recover)
    results |= {
        "recover": args.recover,
        "calibration_lines": args.calibration,
        "target_points_lost": 100 * TARGET,
        "fonts": [font.name for font in fonts_below(FONTS)],
    }
    report = {**results, "machine": facts.machine(), "versions": facts.versions(), "load_average": os.getloadavg()}
    write_text(args.output, json.dumps(report, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
