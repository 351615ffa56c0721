"""Estimated time of layers from what a device can at most: arithmetic or traffic, whichever takes longer.

Williams, Waterman, Patterson. Roofline: an insightful visual performance model for multicore architectures. CACM 52(4), 2009.
Differs: widths count as the next multiple that the device likes, and a layer may carry a fixed overhead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from shrinkc.errors import RecipeError
from shrinkc.latency.layers import PRODUCTS, LayerSpec
from shrinkc.latency.table import Rates, multiple
from shrinkc.target import PEAKS, Target

ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}


@dataclass(frozen=True)
class Roofline:
    """A device as two numbers.

    Attributes
    ----------
    macs_per_s : float
    bytes_per_s : float
    item_bytes : int
        Of a number in the precision computed in.
    multiple : int
        Widths are paid for in steps of this.
    overhead_s : float
        Of every layer.
    basis : str
        Where the two numbers come from.
    """

    macs_per_s: float
    bytes_per_s: float
    item_bytes: int = 4
    multiple: int = 1
    overhead_s: float = 0.0
    basis: str = ""

    @property
    def rates(self) -> Rates:
        """Seconds of a multiply-accumulate and of a byte."""
        return Rates(1 / self.macs_per_s, 1 / self.bytes_per_s)

    def seconds(self, spec: LayerSpec, widths: Sequence[int]) -> float:
        """Least time of a layer at some widths."""
        if not all(widths):
            return 0.0
        paid = [_padded(width, self.multiple) for width in widths]
        return self.least(macs_of(spec, paid), self.item_bytes * elements_of(spec, paid)) + self.overhead_s

    def least(self, macs: float, traffic_bytes: float) -> float:
        """Seconds that so much work takes at least."""
        return max(macs / self.macs_per_s, traffic_bytes / self.bytes_per_s)


def _padded(width: int, step: int) -> int:
    """What is paid for: whole steps, or the width itself below half of one, as inputs of three channels are not padded."""
    return width if width < step // 2 else multiple(width, step)


def macs_of(spec: LayerSpec, widths: Sequence[int]) -> int:
    """Multiply-accumulates of a layer."""
    weight = math.prod(spec.weight_shape(widths))
    if spec.op_type in PRODUCTS:
        return weight * math.prod(spec.shape[:-1])
    spatial = spec.shape[2:] if spec.op_type == "ConvTranspose" else output_size(spec)
    return weight * spec.shape[0] * math.prod(spatial)


def elements_of(spec: LayerSpec, widths: Sequence[int]) -> int:
    """Numbers a layer reads and writes: inputs, weight, outputs."""
    outputs = spec.outputs(widths)
    written = math.prod(spec.shape[:-1]) if spec.op_type in PRODUCTS else spec.shape[0] * math.prod(output_size(spec))
    return math.prod(spec.input_shape(widths)) + math.prod(spec.weight_shape(widths)) + outputs * written


def output_size(spec: LayerSpec) -> tuple[int, ...]:
    """Spatial size of a convolution's output."""
    attributes = dict(spec.attributes)
    rank = len(spec.kernel)
    strides, dilations = attributes.get("strides", (1,) * rank), attributes.get("dilations", (1,) * rank)
    pads = attributes.get("pads", (0,) * 2 * rank)
    sizes = []
    for axis, size in enumerate(spec.shape[2:]):
        reach = dilations[axis] * (spec.kernel[axis] - 1)
        if spec.op_type == "ConvTranspose":
            sizes.append((size - 1) * strides[axis] + reach + 1 - pads[axis] - pads[axis + rank])
        elif str(attributes.get("auto_pad", "NOTSET")).startswith("SAME"):
            sizes.append(-(-size // strides[axis]))
        else:
            sizes.append((size + pads[axis] + pads[axis + rank] - reach - 1) // strides[axis] + 1)
    return tuple(sizes)


def of_target(target: Target) -> Roofline:
    """Roofline from a profile's figures, in the precision it computes in or, where that peak is not known, in float32.

    Raises
    ------
    RecipeError
        The profile knows no peak or no bandwidth.
    """
    peaks = [name for name in (PEAKS[target.precision], "float32_tflops") if target.number(name)]
    peak = target.number(peaks[0]) if peaks else None
    bandwidth = target.number("bandwidth_gb_s")
    if peak is None or bandwidth is None:
        raise RecipeError(
            "nothing is known from which the target's latency could be estimated",
            where=f"--target {target.name}",
            because="its profile has no peak" if peak is None else "its profile has no bandwidth",
            hint="measure it there (`shrinkc targets calibrate`) and give --latency-table, or give a budget of MACs",
        )
    basis = ", ".join(
        f"{name} {target.figures[name].value:g} [{target.figures[name].basis}]" for name in (peaks[0], "bandwidth_gb_s")
    )
    return Roofline(
        peak * 1e12 / 2,
        bandwidth * 1e9,
        ITEM_BYTES[target.precision],
        target.channel_multiple,
        (target.number("overhead_us") or 0.0) / 1e6,
        basis,
    )
