"""What some CPU minutes of training give back to cut models on Fashion-MNIST: with and without labels, beside Torch-Pruning.

    python benchmarks/recovery.py --resume                       # writes benchmarks/results/recovery.json; hours
    python benchmarks/recovery.py --variants label-free --models resnet20 --cuts 70 --output FOLDER/recovery_alone.json

The first file was made by two runs at a time on two cores, which share caches and take fewer steps for it; the second by one.

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
import sys
from itertools import product
from pathlib import Path

from accuracy_grid import MODELS, SEEDS
from accuracy_rows import Cell, Row, table
from processes import run
from training_runs import Runs, scored

FOLDER = Path(__file__).parent
CUTS = (50, 70, 85)
VARIANTS = ("none", "label-free", "labels", "scratch", "torch-pruning")
PEER = "torch-pruning"


def result(cell: Cell, models: Path, work: Path, python: Path, minutes: float, dense_macs: int) -> Row:
    """One variant of one cut."""
    output = work / "recovered.onnx"
    output.unlink(missing_ok=True)
    is_peer = cell.method == PEER
    script = FOLDER / "peers" / ("torch_pruning_tuned.py" if is_peer else "shrinkc_recovery.py")
    options = ["--variant", cell.method, "--remove", cell.removed / 100, "--seed", cell.seed, "--minutes", minutes]
    command = [python if is_peer else sys.executable, script, models / f"{cell.model}.onnx", *options]
    return scored(cell, run(*command, "--data", work, "--output", output), output, work, dense_macs)


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
    runs = Runs(args.folder, args.output, args.resume)
    python = args.environments / "torch-pruning" / "bin" / "python"

    def row(cell: Cell, work: Path, dense_macs: int) -> Row:
        return result(cell, args.folder, work, python, args.minutes, dense_macs)

    print(table(runs.updated(cells(args), row, {"minutes": args.minutes})))


if __name__ == "__main__":
    main()
