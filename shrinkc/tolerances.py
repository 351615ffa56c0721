"""How far off an engine may be, by the type a file is stored in and the type the engine computes in."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from shrinkc.comparing import Difference, worst

INT8 = "int8"

TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 2e-2, INT8: 5e-2}
"""Largest error of an engine, over the largest value of the output, that counts as the same.  Engines round a quantised model
in other places, so that values fall on neighbouring steps: OpenVINO was off by 1.7 to 2.4 % on the model of the demo."""

SAME_CLASS = 0.99
"""Share of the places where the same class has to win, for a quantised model that is further off than that: what it is for."""

NEGLIGIBLE = 1e-6
"""Absolute error that passes however small the outputs are: a sigmoid that finds nothing gives only rounding to compare."""

QUANTIZED = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"})

NARROW = {ir.DataType.FLOAT16: "float16", ir.DataType.BFLOAT16: "bfloat16"}


def stored_type(model: ir.Model) -> str:
    """The narrowest type that a model computes in as its file says: int8 where it is quantised."""
    if any(node.op_type in QUANTIZED for node in model.graph):
        return INT8
    types = {value.dtype for value in model.graph.initializers.values()}
    return next((name for dtype, name in NARROW.items() if dtype in types), "float32")


def objection(found: Sequence[Difference], tolerance: float, counts_classes: bool) -> str:
    """What is wrong with the worst output; empty if nothing is.

    Parameters
    ----------
    found : sequence of Difference
    tolerance : float
    counts_classes : bool
        Whether outputs that are off are right all the same if the same classes win: for quantised models on real inputs.
    """
    wrong = [one for one in found if not _is_right(one, tolerance, counts_classes)]
    if not wrong:
        return ""
    off = worst(wrong)
    reason = off.note or f"off by {off.relative:.1e} of the largest value, {tolerance:.0e} allowed"
    return f"output {off.output}: {reason}{_classes(off) if counts_classes else ''}"


def _is_right(found: Difference, tolerance: float, counts_classes: bool) -> bool:
    is_same = counts_classes and found.argmax_agreement is not None and found.argmax_agreement >= SAME_CLASS
    return found.relative <= tolerance or found.max_abs <= NEGLIGIBLE or is_same


def _classes(found: Difference) -> str:
    if found.argmax_agreement is None:
        return ""
    return f", and the same class wins in {found.argmax_agreement:.1%} of the places, {SAME_CLASS:.0%} wanted"


def excuse(found: Sequence[Difference], tolerance: float) -> str:
    """Why outputs count as right that are further off than the tolerance; empty where none is."""
    off = worst(found)
    if off.relative <= tolerance:
        return ""
    if off.max_abs <= NEGLIGIBLE:
        size = off.max_abs / off.relative
        return f"output {off.output} is next to nothing (at most {size:.0e}); differences of {off.max_abs:.0e} do not count"
    return f"output {off.output}: off by {off.relative:.1e} of the largest value, but the same class wins{_share(off)}"


def _share(found: Difference) -> str:
    return "" if found.argmax_agreement is None else f" in {found.argmax_agreement:.1%} of the places"
