"""Training to low ranks against what comes before or after training, on Fashion-MNIST: the same MACs, the same CPU minutes.

    python benchmarks/lrpet.py --resume                          # writes benchmarks/results/lrpet.json; hours
    python benchmarks/lrpet.py --variants lrpet svd-then-train --models resnet20 --cuts 50 --seeds 0

All train on the 60,000 training images, by distillation from the original and without labels unless ``--labels``, on one
thread, with the settings of the default recovery; but all at one learning rate, and with the statistics of batches to the end:

* ``lrpet``: from the trained model; ``lrpet-no-transfer``, ``lrpet-no-rectification``: one of its parts left out;
  ``lrpet-searched``: with searched ranks (the search is not part of the minutes); ``lrpet-fresh``: from fresh weights;
* ``train-then-svd``: plain training of the whole model, then the same share of every rank, statistics measured anew;
* ``svd-then-train``: ``--method lowrank`` (factors and ranks by data, compensated) and ``--recover``;
* ``channels``: the default removal of channels and ``--recover``;
* ``joint``: ``--method auto`` and ``--recover``.

Accuracy is onnxruntime's on the 10,000 test images, of which no variant has seen one.
"""

from __future__ import annotations

import argparse
import sys
from itertools import product
from pathlib import Path

from accuracy_grid import SEEDS
from accuracy_rows import Cell, Row, table
from processes import run
from training_runs import Runs, scored

FOLDER = Path(__file__).parent
MODELS = ("resnet20", "vgg16-bn-half")
CUTS = (50, 75)
VARIANTS = (
    "lrpet",
    "svd-then-train",
    "train-then-svd",
    "channels",
    "joint",
    "lrpet-no-transfer",
    "lrpet-no-rectification",
    "lrpet-searched",
    "lrpet-fresh",
)


def result(cell: Cell, work: Path, dense_macs: int, args: argparse.Namespace) -> Row:
    """One variant of one cut."""
    output = work / "trained.onnx"
    output.unlink(missing_ok=True)
    options = ["--variant", cell.method, "--remove", cell.removed / 100, "--seed", cell.seed, "--minutes", args.minutes]
    more = ["--every", args.every, "--learning-rate", args.learning_rate, *(["--labels"] if args.labels else [])]
    command = [sys.executable, FOLDER / "peers" / "shrinkc_lrpet.py", args.folder / f"{cell.model}.onnx", *options, *more]
    return scored(cell, run(*command, "--data", work, "--output", output), output, work, dense_macs)


def main() -> None:
    """Run, write down, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--cuts", nargs="+", type=int, default=CUTS, help="percent of the MACs to remove")
    parser.add_argument("--variants", nargs="+", default=VARIANTS, choices=VARIANTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--minutes", type=float, default=6.0, help="CPU minutes of training")
    parser.add_argument("--every", type=int, default=25, help="steps from one projection to the next")
    parser.add_argument("--learning-rate", type=float, default=0.02, help="of all variants")
    parser.add_argument("--labels", action="store_true", help="mix the labels in, in all variants")
    parser.add_argument("--resume", action="store_true", help="skip what the results have already")
    parser.add_argument("--folder", type=Path, default=FOLDER / "models", help="of the trained models")
    parser.add_argument("--output", type=Path, default=FOLDER / "results" / "lrpet.json")
    args = parser.parse_args()
    order = product(args.seeds, args.models, args.cuts, args.variants)  # every variant once before any twice
    cells = [Cell(model, cut, "shrinkc", name, seed) for seed, model, cut, name in order]
    about = {name: getattr(args, name) for name in ("minutes", "every", "learning_rate", "labels")}
    print(table(Runs(args.folder, args.output, args.resume).updated(cells, lambda *run: result(*run, args), about)))


if __name__ == "__main__":
    main()
