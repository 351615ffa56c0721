"""shrinkc's side of the LRPET benchmark: one model by training to low ranks, or by cutting before or after training."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from shrinkc_recovery import compressed, few_of, on_one_thread

import shrinkc

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LRPET = {
    "lrpet": {},
    "lrpet-no-transfer": {"energy_transfer": False},
    "lrpet-no-rectification": {"rectification": False},
    "lrpet-searched": {"choice": "searched"},
    "lrpet-fresh": {"start": "fresh"},
}
"""Options of the method, by variant."""

CUT_FIRST = {"svd-then-train": "lowrank", "channels": "channels", "joint": "auto"}
"""``--method`` of what is cut and then recovered, by variant."""


def main() -> None:
    """Make one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--variant", required=True)
    parser.add_argument("--remove", type=float, required=True, help="share of the MACs to remove")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--every", type=int, required=True)
    parser.add_argument("--learning-rate", type=float, required=True)
    parser.add_argument("--labels", action="store_true")
    parser.add_argument("--data", type=Path, required=True, help="folder with images.npz and labelled.npz")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    if args.variant in LRPET:
        macs = by_lrpet(args)
    elif args.variant in CUT_FIRST:
        macs = cut_first(args)
    else:
        macs = trained_first(args)
    print(json.dumps({"macs": macs}))


def by_lrpet(args: argparse.Namespace) -> int:
    """Train, projecting now and then."""
    options = {"macs": left(args), "every": args.every, **LRPET[args.variant]}
    report = trained(args, args.output, method="lrpet", reestimate=True, options=options)
    decomposition = next(phase for phase in report.phases if phase["phase"] == "decomposition")
    return int(decomposition["macs_after"])


def cut_first(args: argparse.Namespace) -> int:
    """Cut, and train what is left."""
    given = argparse.Namespace(**{**vars(args), "variant": "labels" if args.labels else "label-free"})
    settings = {"recover_with": shared_settings(args), "method": CUT_FIRST[args.variant]}
    report = compressed(given, args.output, f"{args.minutes}cpumin", **settings)
    return int(report.after.macs)


def trained_first(args: argparse.Namespace) -> int:
    """Train the whole model, and truncate the same share of every rank."""
    whole = args.output.with_suffix(".whole.onnx")
    trained(args, whole)
    report = shrinkc.compress(
        whole,
        output=args.output,
        data=few_of(args.data / "images.npz", args.seed, args.output.parent),
        macs=left(args),
        method="lowrank",
        factorization="svd",
        allocator="uniform",
        compensation="batch-norm",
        round_to=1,
        verify=False,
        measure_latency=False,
    )
    return int(report.after.macs)


def trained(args: argparse.Namespace, output: Path, **settings: object) -> shrinkc.report.training.TrainingReport:
    """Training by the settings that all variants share."""
    return shrinkc.train(
        args.model,
        recipe=shared_settings(args),
        data=args.data / ("labelled.npz" if args.labels else "images.npz"),
        output=output,
        budget=f"{args.minutes}cpumin",
        seed=args.seed,
        **settings,
    )


def shared_settings(args: argparse.Namespace) -> Path:
    """Recipe of the default recovery on one thread, at one rate: what it would try, other methods cannot."""
    path = on_one_thread(args.output.parent)
    default = tomllib.loads(path.read_text(encoding="utf-8"))
    given = {**default, "learning_rate": args.learning_rate, "batch_norm": "batch"}
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in given.items() if name != "options"), "utf-8")
    return path


def left(args: argparse.Namespace) -> str:
    """Budget of MACs."""
    return f"{100 * (1 - args.remove):g}%"


if __name__ == "__main__":
    main()
