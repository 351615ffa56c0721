"""Tensors of ONNX as torch tensors and back, bit for bit."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from shrinkc import ir as shrinkc_ir
from shrinkc.errors import UnsupportedGraphError

T = ir.DataType
DTYPES: dict[ir.DataType, torch.dtype] = {
    T.FLOAT: torch.float32, T.DOUBLE: torch.float64, T.FLOAT16: torch.float16, T.BFLOAT16: torch.bfloat16,
    T.INT8: torch.int8, T.INT16: torch.int16, T.INT32: torch.int32, T.INT64: torch.int64,
    T.UINT8: torch.uint8, T.UINT16: torch.uint16, T.UINT32: torch.uint32, T.UINT64: torch.uint64, T.BOOL: torch.bool,
    T.COMPLEX64: torch.complex64, T.COMPLEX128: torch.complex128,
    T.FLOAT8E4M3FN: torch.float8_e4m3fn, T.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    T.FLOAT8E5M2: torch.float8_e5m2, T.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
}  # fmt: skip
"""Element types torch has too."""

NARROW = {
    "bfloat16": (np.int16, torch.bfloat16),
    "float8_e4m3fn": (np.uint8, torch.float8_e4m3fn),
    "float8_e4m3fnuz": (np.uint8, torch.float8_e4m3fnuz),
    "float8_e5m2": (np.uint8, torch.float8_e5m2),
    "float8_e5m2fnuz": (np.uint8, torch.float8_e5m2fnuz),
}
"""Element types numpy knows through ml_dtypes: name to (integer of the same width, torch's type)."""


CARRIERS: dict[ir.DataType, torch.dtype] = {
    T.INT4: torch.int8, T.INT2: torch.int8, T.UINT4: torch.uint8, T.UINT2: torch.uint8, T.FLOAT4E2M1: torch.float32,
}  # fmt: skip
"""Element types torch lacks, and the one that holds their values where they are only quantised and dequantised."""

RANGES: dict[ir.DataType, tuple[int, int]] = {T.INT4: (-8, 7), T.INT2: (-2, 1), T.UINT4: (0, 15), T.UINT2: (0, 3)}
"""Least and largest values of the integers among them."""

CARRIED = {"int4": torch.int8, "int2": torch.int8, "uint4": torch.uint8, "uint2": torch.uint8, "float4_e2m1fn": torch.float32}
"""The same, by numpy's names."""


def dtype_of(dtype: ir.DataType) -> torch.dtype:
    """Torch's element type for one of ONNX.

    Raises
    ------
    UnsupportedGraphError
        Torch has no such type.
    """
    if dtype not in DTYPES:
        raise UnsupportedGraphError("torch has no such element type", because=dtype.name)
    return DTYPES[dtype]


def tensor_of(tensor: ir.TensorProtocol) -> Tensor:
    """A stored tensor, copied; one of a few bits in a type that holds its values.

    Raises
    ------
    UnsupportedGraphError
        Torch has no such type.
    """
    if tensor.dtype not in CARRIERS:
        dtype_of(tensor.dtype)
    return from_array(shrinkc_ir.contents(tensor))


def from_array(array: np.ndarray) -> Tensor:
    """Torch tensor of an array, copied.

    Raises
    ------
    UnsupportedGraphError
        Torch has no such type.
    """
    if array.dtype.name in NARROW:
        carrier, dtype = NARROW[array.dtype.name]
        return torch.from_numpy(np.array(array).view(carrier)).view(dtype)
    if array.dtype.name in CARRIED:
        return torch.from_numpy(np.array(array).astype(np.float32)).to(CARRIED[array.dtype.name])
    if array.dtype.kind not in "biufc":
        raise UnsupportedGraphError(
            "torch has no such element type", because="text" if array.dtype == object else array.dtype.name
        )
    return torch.from_numpy(np.array(array))


def to_array(tensor: Tensor) -> np.ndarray:
    """Array of a torch tensor, of the same bits."""
    tensor = tensor.detach().cpu().contiguous()
    for name, (carrier, dtype) in NARROW.items():
        if tensor.dtype == dtype:
            same_width = torch.int16 if carrier is np.int16 else torch.uint8
            return tensor.view(same_width).numpy().view(getattr(ml_dtypes, name))
    return tensor.numpy()
