"""shrinkc's side of the recovery benchmark: cut a model, and train what is left for some CPU minutes."""

from __future__ import annotations

import argparse
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

import shrinkc

CALIBRATION = 2048
"""Images that choose channels and repair the rest; with recovery shrinkc itself takes no more of those it is given."""


def main() -> None:
    """Make one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--variant", required=True)
    parser.add_argument("--remove", type=float, required=True, help="share of the MACs to remove")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with images.npz and labelled.npz")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    if args.variant == "scratch":
        cut = args.output.with_suffix(".cut.onnx")
        report = compressed(args, cut, None)
        fresh(cut, args.seed)
        steps = shrinkc.train(
            cut,
            recipe="fine-tuning",
            data=args.data / "labelled.npz",
            output=args.output,
            budget=f"{args.minutes}cpumin",
            learning_rate=0.1,
            augment=["shift", "flip"],
            seed=args.seed,
            threads=1,
        ).steps
    else:
        report = compressed(args, args.output, None if args.variant == "none" else f"{args.minutes}cpumin")
        steps = None if report.recovery is None else report.recovery.steps
    print(json.dumps({"macs": report.after.macs, "steps": steps}))


def compressed(args: argparse.Namespace, output: Path, budget: str | None, **settings: object) -> shrinkc.report.model.Report:
    """Cut, repaired, and trained if there is a budget; ``settings`` go over these."""
    few = few_of(args.data / "images.npz", args.seed, args.output.parent)
    whole = args.data / ("labelled.npz" if args.variant == "labels" else "images.npz")
    given = {
        "data": few if budget is None else whole,
        "eval_data": few,
        "macs": f"{100 * (1 - args.remove):g}%",
        "round_to": 1,
        "seed": args.seed,
        "recover": budget,
        "recover_with": None if budget is None else on_one_thread(args.output.parent),
        "verify": False,
        "measure_latency": False,
    }
    return shrinkc.compress(args.model, output=output, **{**given, **settings})


def on_one_thread(folder: Path) -> Path:
    """The default recovery, on one thread: CPU time is what is counted."""
    default = files("shrinkc.recipes.training").joinpath("recovery.toml").read_text(encoding="utf-8")
    path = folder / "recovery.toml"
    path.write_text(default + "threads = 1\n", encoding="utf-8")
    return path


def few_of(images: Path, seed: int, folder: Path) -> Path:
    """File with a draw of calibration images."""
    with np.load(images) as arrays:
        drawn = np.random.default_rng(seed).choice(len(arrays["image"]), CALIBRATION, replace=False)
        np.savez(folder / "few.npz", image=arrays["image"][drawn])
    return folder / "few.npz"


def fresh(path: Path, seed: int) -> None:
    """Give a network the weights it would start with: He's for layers, ones and zeros for normalisations."""
    model, random = onnx.load(path), np.random.default_rng(seed)
    settings = {name: value for node in model.graph.node for name, value in _at_rest(node)}
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if tensor.name in settings:
            array = np.full_like(array, settings[tensor.name])
        elif array.ndim > 1:
            array = (random.standard_normal(array.shape) * np.sqrt(2 / np.prod(array.shape[1:]))).astype(array.dtype)
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))
    onnx.save(model, path)


def _at_rest(node: onnx.NodeProto) -> list[tuple[str, float]]:
    if node.op_type == "BatchNormalization":
        return list(zip(node.input[1:], (1.0, 0.0, 0.0, 1.0), strict=True))
    if node.op_type in ("Conv", "Gemm") and len(node.input) > 2:
        return [(node.input[2], 0.0)]
    return []


if __name__ == "__main__":
    main()
