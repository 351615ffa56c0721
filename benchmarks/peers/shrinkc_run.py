"""shrinkc on a model of the benchmark: ``CRITERION+COMPENSATION+ALLOCATOR``, one budget; called like the peers."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from shrinkc_recovery import on_one_thread

import shrinkc


def main() -> None:
    """Compress without the proof and without timing, which the accuracy does not need."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--method", required=True)
    parser.add_argument("--remove", type=float, required=True, help="share of the MACs to remove")
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--labels", type=Path, help="not used: shrinkc needs none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--recover", metavar="BUDGET", help="train for so long as well")
    args = parser.parse_args()
    criterion, compensation, allocator = args.method.split("+")
    report = shrinkc.compress(
        args.model,
        output=args.output,
        data=args.calibration,
        eval_data=args.calibration,  # all of them calibrate: nothing is held out
        macs=f"{100 * (1 - args.remove):g}%",
        criterion=criterion,
        compensation=compensation,
        allocator=allocator,
        round_to=1,
        seed=args.seed,
        recover=args.recover,
        recover_with=None if args.recover is None else on_one_thread(args.output.parent),
        verify=False,
        measure_latency=False,
    )
    print(json.dumps({"macs": report.after.macs, "version": shrinkc.__version__}))


if __name__ == "__main__":
    main()
