"""What some CPU minutes of training give back to cut models on Fashion-MNIST: with and without labels, beside Torch-Pruning.

    python benchmarks/recovery.py --resume                       # writes benchmarks/results/recovery.json; hours
    python benchmarks/recovery.py --variants label-free --models resnet20 --cuts 70 --seeds 0

Variants, each with the same budget of CPU minutes on one thread where it trains at all:

* ``none``: the closed-form default on 2048 unlabelled images, no training;
* ``label-free``: the same and ``--recover`` on the 60,000 training images without their labels;
* ``labels``: the same with their labels;
* ``scratch``: the cut network with fresh weights, trained on the labels;
* ``torch-pruning``: Torch-Pruning's cut (L2, global) fine-tuned on the labels in its own environment.

Accuracy is onnxruntime's on the 10,000 test images, of which no variant has seen one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from fnmatch import fnmatch
from itertools import product
from pathlib import Path

from accuracy_grid import MODELS, SEEDS
from accuracy_rows import Cell, Row, merged, read, table, write
from processes import run

from shrinkc.files import sha256
from shrinkc.report import facts

FOLDER = Path(__file__).parent
CUTS = (50, 70, 85)
VARIANTS = ("none", "label-free", "labels", "scratch", "torch-pruning")
PEER = "torch-pruning"


def written(work: Path) -> None:
    """Let ``fashion`` write the data, in a process of its own."""
    calls = f"fashion.write_test(Path('{work}/test.npz')); fashion.write_training(Path('{work}'))"
    subprocess.run([sys.executable, "-c", f"import fashion; from pathlib import Path; {calls}"], check=True, cwd=FOLDER)


def result(cell: Cell, models: Path, work: Path, python: Path, minutes: float, dense_macs: int) -> Row:
    """One variant of one cut."""
    output = work / "recovered.onnx"
    output.unlink(missing_ok=True)
    is_peer = cell.method == PEER
    script = FOLDER / "peers" / ("torch_pruning_tuned.py" if is_peer else "shrinkc_recovery.py")
    options = ["--variant", cell.method, "--remove", cell.removed / 100, "--seed", cell.seed, "--minutes", minutes]
    command = [python if is_peer else sys.executable, script, models / f"{cell.model}.onnx", *options]
    made = run(*command, "--data", work, "--output", output)
    found = made.answer
    if "failed" not in found:
        found = run(sys.executable, FOLDER / "score.py", output, work / "test.npz").answer
    if "failed" in found:
        return Row(cell, None, None, made.cpu_s, made.peak_bytes, found["failed"])
    return Row(cell, found["accuracy"], round(found["macs"] / dense_macs, 5), made.cpu_s, made.peak_bytes)


def cells(args: argparse.Namespace) -> list[Cell]:
    """What there is to run, every variant once before any twice."""
    order = product(args.seeds, args.models, args.cuts, args.variants)
    tools = {PEER: "torch-pruning"}
    return [Cell(model, cut, tools.get(name, "shrinkc"), name, seed) for seed, model, cut, name in order]


def main() -> None:
    """Run, write down, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--cuts", nargs="+", type=int, default=CUTS, help="percent of the MACs to remove")
    parser.add_argument("--variants", nargs="+", default=VARIANTS, choices=VARIANTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--minutes", type=float, default=3.0, help="CPU minutes of training")
    parser.add_argument("--resume", action="store_true", help="skip what the results have already")
    parser.add_argument("--folder", type=Path, default=FOLDER / "models", help="of the trained models")
    parser.add_argument("--environments", type=Path, default=FOLDER / "peers" / "environments")
    parser.add_argument("--output", type=Path, default=FOLDER / "results" / "recovery.json")
    args = parser.parse_args()
    kept = read(args.output)
    rows, originals = kept["rows"], kept["originals"]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        written(work)
        for name in args.models:
            path = args.folder / f"{name}.onnx"
            if originals.get(name, {}).get("sha256") != sha256(path):
                scored = run(sys.executable, FOLDER / "score.py", path, work / "test.npz").answer
                originals[name] = {"sha256": sha256(path), **scored}
                rows = [row for row in rows if not fnmatch(row.cell.model, name)]
        done = {row.cell for row in rows} if args.resume else set()
        python = args.environments / "torch-pruning" / "bin" / "python"
        for cell in cells(args):
            if cell in done:
                continue
            row = result(cell, args.folder, work, python, args.minutes, originals[cell.model]["macs"])
            rows = merged(rows, row)
            about = {"minutes": args.minutes, "originals": originals, "machine": facts.machine(), "versions": facts.versions()}
            write(args.output, {**about, "load_average": os.getloadavg()}, rows)
            print(json.dumps(row.to_json()), flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
