"""A model in another precision, by onnxruntime's own tools: float16, and int8 with Q/DQ nodes in the style a runtime wants."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from shrinkc import ir as shrinkc_ir
from shrinkc.errors import BuildError

Feed = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Style:
    """How Q/DQ nodes are laid out.

    Attributes
    ----------
    is_symmetric : bool
        Zero points are zero: TensorRT refuses any other.
    is_signed : bool
        Activations are S8; onnxruntime on x86 is fast with U8 only.
    has_quantized_bias : bool
    """

    is_symmetric: bool
    is_signed: bool
    has_quantized_bias: bool


STYLES = {
    "tensorrt": Style(is_symmetric=True, is_signed=True, has_quantized_bias=False),
    "onnxruntime-cpu": Style(is_symmetric=False, is_signed=False, has_quantized_bias=True),
    "openvino": Style(is_symmetric=True, is_signed=True, has_quantized_bias=True),
}
"""By runtime; weights are always symmetric S8, one scale a channel."""


def to_float16(model: Path, output: Path) -> None:
    """Write a model whose weights and arithmetic are float16, inputs and outputs as they were.

    Raises
    ------
    BuildError
        onnxruntime's converter refuses the model.
    """
    import onnx

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # values below float16's least are cut to it, which the comparison shows
            from onnxruntime.transformers.float16 import convert_float_to_float16

            converted = ir.from_proto(convert_float_to_float16(onnx.load(str(model)), keep_io_types=True))
        converted.graph.sort()  # the converter puts its casts at the end, wherever they are read
        shrinkc_ir.save(converted, output)
    except Exception as error:  # the converter raises whatever its walk runs into
        raise BuildError("the model cannot be converted to float16", where=str(model), because=str(error)[:400]) from error


def to_int8(model: Path, output: Path, batches: Sequence[Feed], style: Style) -> None:
    """Write a model with Q/DQ nodes whose scales come from calibration batches.

    Raises
    ------
    BuildError
        onnxruntime's quantiser refuses the model.
    """
    try:
        with warnings.catch_warnings(), tempfile.TemporaryDirectory(prefix="shrinkc-") as folder:
            warnings.simplefilter("ignore")
            _quantize(model, output, batches, style, Path(folder))
    except Exception as error:  # so does the quantiser
        raise BuildError("the model cannot be quantised", where=str(model), because=str(error)[:400]) from error


def _quantize(model: Path, output: Path, batches: Sequence[Feed], style: Style, folder: Path) -> None:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left: Iterator[Feed] = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            feed = next(self._left, None)
            return None if feed is None else dict(feed)

    logging.getLogger().setLevel(max(logging.getLogger().level, logging.ERROR))
    # BatchNormalization is folded first: between a convolution and its norm no scale would fit both.
    quant_pre_process(str(model), str(folder / "folded.onnx"), skip_symbolic_shape=True)
    quantize_static(
        str(folder / "folded.onnx"),
        str(output),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8 if style.is_signed else QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        extra_options={
            "ActivationSymmetric": style.is_symmetric,
            "WeightSymmetric": True,
            "QuantizeBias": style.has_quantized_bias,
        },
    )


def zero_points(model: Path) -> list[int]:
    """Every distinct zero point of a model's Q/DQ nodes; nodes without one count as 0."""
    import onnx
    from onnx import numpy_helper

    loaded = onnx.load(str(model))
    stored = {tensor.name: tensor for tensor in loaded.graph.initializer}
    found: set[int] = set()
    for node in loaded.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            has_point = len(node.input) > 2 and node.input[2] in stored
            values = numpy_helper.to_array(stored[node.input[2]]) if has_point else np.zeros(1)
            found.update(int(value) for value in np.unique(values))
    return sorted(found)
