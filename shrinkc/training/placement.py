"""Which values stay on the CPU whatever the device: sizes, and what is computed of sizes alone."""

from __future__ import annotations

import onnx_ir as ir

SIZES = frozenset({"Shape", "Size", "SequenceLength", "OptionalHasElement"})
"""Operators whose result is made on the CPU."""

READ_ON_CPU: dict[str, frozenset[int]] = {
    name: frozenset(positions)
    for name, positions in {
        "Reshape": (1,), "Expand": (1,), "Tile": (1,), "Slice": (1, 2, 3, 4), "Squeeze": (1,), "Unsqueeze": (1,),
        "Split": (1,), "Pad": (1, 2, 3), "Resize": (1, 2, 3), "Upsample": (1,), "TopK": (1,), "CenterCropPad": (1,),
        "Col2Im": (1, 2), "CumSum": (1,), "CumProd": (1,), "Trilu": (1,), "ConstantOfShape": (0,), "OneHot": (1,),
        "ReduceSum": (1,), "ReduceMean": (1,), "ReduceMax": (1,), "ReduceMin": (1,), "ReduceProd": (1,), "ReduceL1": (1,),
        "ReduceL2": (1,), "ReduceSumSquare": (1,), "ReduceLogSum": (1,), "ReduceLogSumExp": (1,), "MaxUnpool": (2,),
        "Dropout": (1, 2), "If": (0,), "Loop": (0, 1), "DFT": (1, 2), "STFT": (1, 3), "AffineGrid": (1,),
        "NonMaxSuppression": (2, 3, 4), "SequenceAt": (1,), "SequenceInsert": (2,), "SequenceErase": (1,),
        "SplitToSequence": (1,), "Range": (0, 1, 2), "HannWindow": (0,), "HammingWindow": (0,), "BlackmanWindow": (0,),
        "MelWeightMatrix": (0, 1, 2, 3, 4),
    }.items()
}  # fmt: skip
"""Inputs that are read as numbers and not computed with, by operator."""


def read_on_cpu(node: ir.Node) -> frozenset[int]:
    """Positions of the inputs of a node that belong on the CPU."""
    return READ_ON_CPU.get(node.op_type, frozenset()) if node.domain in ("", "ai.onnx") else frozenset()


def makes_sizes(node: ir.Node) -> bool:
    """Whether a node's result is made on the CPU whatever its input."""
    return node.domain in ("", "ai.onnx") and node.op_type in SIZES
