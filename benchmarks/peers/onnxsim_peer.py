"""onnxsim's structured pruning on a model of the benchmark: one method, one budget.  Runs in an environment of its own.

``CRITERION-SCOPE[+RECOVERY]``.  The model is simplified first, as onnxsim's own documentation asks (its chains want
BatchNormalization folded); the ratio that removes the share of MACs asked for is found by bisection.  Recoveries, all in
closed form on the calibration images: ``ridge`` is ``apply_pruning_finetune``, its recovery made for pruning; ``bias`` is
``correct_bias`` and ``batch-norm`` is ``recover_batch_norm`` with the original as its target, both made for quantised and
fused models and applied here as they are.  ``apply_block_finetune`` trains by gradients and is left out as all training is.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxsim
from onnx import numpy_helper
from search import Search, answer, arguments

Batches = list[dict[str, np.ndarray]]
Prune = Callable[[onnx.ModelProto, float, Batches], onnx.ModelProto]

BATCH = 64


def magnitude(norm: str, is_global: bool) -> Prune:
    """Norm of the weights of a channel."""
    return lambda model, ratio, _: onnxsim.apply_structured_pruning(
        model, sparsity=ratio, importance_norm=norm, global_sparsity=is_global
    )


def wanda(norm: str, is_global: bool) -> Prune:
    """Norm of the weights of a channel times the norm of its activations."""
    return lambda model, ratio, batches: onnxsim.apply_structured_wanda_pruning(
        model, calibration_data=batches, sparsity=ratio, importance_norm=norm, global_sparsity=is_global
    )


PRUNING: dict[str, Prune] = {
    "l2-local": magnitude("l2", is_global=False),
    "l2-global": magnitude("l2", is_global=True),
    "l1-local": magnitude("l1", is_global=False),
    "l1-global": magnitude("l1", is_global=True),
    "wanda-local": wanda("l2", is_global=False),
    "wanda-global": wanda("l2", is_global=True),
}

RECOVERY: dict[str, Callable[[onnx.ModelProto, onnx.ModelProto, Batches], onnx.ModelProto]] = {
    "none": lambda original, pruned, batches: pruned,
    "ridge": lambda original, pruned, batches: onnxsim.apply_pruning_finetune(original, pruned, calibration_data=batches),
    "bias": lambda original, pruned, batches: onnxsim.correct_bias(original, pruned, calibration_data=batches),
    "batch-norm": lambda original, pruned, batches: onnxsim.recover_batch_norm(
        pruned, calibration_data=batches, target_model=original
    ),
}

METHODS = [*PRUNING, *(f"{name}+{recovery}" for name in PRUNING for recovery in RECOVERY if recovery != "none")]


def batches_of(path: Path) -> Batches:
    """Calibration images, some at a time."""
    images = np.load(path)["image"]
    return [{"image": images[start : start + BATCH]} for start in range(0, len(images), BATCH)]


def count_macs(model: onnx.ModelProto) -> int:
    """Multiply-accumulates of convolutions and linear layers for one image, from inferred shapes."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    weights = {tensor.name: numpy_helper.to_array(tensor).shape for tensor in graph.initializer}
    shapes = {value.name: value.type.tensor_type.shape.dim for value in [*graph.value_info, *graph.output]}
    total = 0
    for node in graph.node:
        if node.op_type == "Conv":
            positions = [dim.dim_value for dim in shapes[node.output[0]][2:]]
            total += int(np.prod(weights[node.input[1]])) * int(np.prod(positions))
        elif node.op_type in ("Gemm", "MatMul"):
            total += int(np.prod(weights[node.input[1]]))
    return total


def main() -> None:
    """Prune to the budget, recover, write, answer."""
    args = arguments(METHODS, __doc__)

    def work() -> dict[str, object]:
        pruning, _, recovery = args.method.partition("+")
        batches = batches_of(args.calibration)
        original, _ = onnxsim.simplify(onnx.load(str(args.model)))

        def prune(ratio: float) -> tuple[onnx.ModelProto, int]:
            copied = onnx.ModelProto()
            copied.CopyFrom(original)
            smaller = PRUNING[pruning](copied, ratio, batches)
            return smaller, count_macs(smaller)

        macs, ratio, smaller = Search(prune, count_macs(original) * (1 - args.remove)).run()
        onnx.save(RECOVERY[recovery or "none"](original, smaller, batches), str(args.output))
        return {"ratio": ratio, "macs": macs, "version": version("onnxsim")}

    answer(work)


if __name__ == "__main__":
    main()
