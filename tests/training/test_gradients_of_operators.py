"""Gradients of every differentiable operator against finite differences, in double precision on small inputs."""

from __future__ import annotations

import warnings
from collections import defaultdict
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto

from shrinkc.errors import UnsupportedGraphError
from shrinkc.training.executor import Executor
from shrinkc.training.ops.tensors import from_array

CASES_PER_OPERATOR = 2
LARGEST_INPUT = 50_000

DIFFERENTIABLE = [
    "Abs", "Acos", "Acosh", "Add", "AffineGrid", "Asin", "Asinh", "Atan", "Atanh", "Attention", "AveragePool",
    "BatchNormalization", "CausalConvWithState", "Celu", "CenterCropPad", "Clip", "Col2Im", "Compress", "Concat", "Conv",
    "ConvTranspose", "Cos", "Cosh", "CumProd", "CumSum", "DFT", "DeformConv", "DepthToSpace", "DequantizeLinear", "Det",
    "Div", "Dropout", "Einsum", "Elu", "Erf", "Exp", "Expand", "Flatten", "FlexAttention", "GRU", "Gather", "GatherElements",
    "GatherND", "Gelu", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "GridSample", "GroupNormalization", "HardSigmoid",
    "HardSwish", "Identity", "InstanceNormalization", "LRN", "LSTM", "LayerNormalization", "LeakyRelu", "Log", "LogSoftmax",
    "LpNormalization", "LpPool", "MatMul", "Max", "MaxPool", "MaxUnpool", "Mean", "MeanVarianceNormalization", "Min", "Mish",
    "Mod", "Mul", "Neg", "NegativeLogLikelihoodLoss", "OneHot", "PRelu", "Pad", "Pow", "RMSNormalization", "RNN",
    "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Resize", "ReverseSequence", "RoiAlign",
    "RotaryEmbedding", "STFT", "Scan", "Scatter", "ScatterElements", "ScatterND", "Selu", "Shrink", "Sigmoid", "Sin", "Sinh",
    "Slice", "Softmax", "SoftmaxCrossEntropyLoss", "Softplus", "Softsign", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub",
    "Sum", "SwiGLU", "Swish", "Tan", "Tanh", "TensorScatter", "ThresholdedRelu", "Tile", "TopK", "Transpose", "Unsqueeze",
    "Upsample", "Where", "Xor",
]  # fmt: skip
DATA_ALONE = {"RoiAlign"}
"""The first input alone: where a region ends it is rounded."""

INTEGER_ALONE = {"Xor"}
"""Listed to see that an operator without float inputs is noticed."""


@cache
def cases() -> dict[str, list[Any]]:
    """Single-node cases of onnx's suite on floats of 32 or 64 bits, the smallest first."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        everything = load_model_tests(kind="node")
    found = defaultdict(list)
    for case in everything:
        nodes = case.model.graph.node
        arrays = case.data_sets[0][0] if case.data_sets else [None]
        if len(nodes) == 1 and all(isinstance(array, np.ndarray | np.generic) for array in arrays) and float_inputs(case):
            found[nodes[0].op_type].append(case)
    return {name: sorted(some, key=size_of) for name, some in found.items()}


def float_inputs(case: Any) -> list[str]:
    kinds = [value.type.tensor_type.elem_type for value in case.model.graph.input]
    if any(kind in (TensorProto.FLOAT16, TensorProto.BFLOAT16) for kind in kinds):
        return []
    real = (TensorProto.FLOAT, TensorProto.DOUBLE)
    return [value.name for value, kind in zip(case.model.graph.input, kinds, strict=True) if kind in real]


def size_of(case: Any) -> int:
    return sum(array.size for array in case.data_sets[0][0])


def in_double_precision(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in (*copy.graph.input, *copy.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    return copy


def checked(case: Any, random: np.random.Generator) -> bool:
    """Compare the gradients of all float inputs with finite differences; False if the case is not one for it."""
    model = in_double_precision(case.model)
    executor = Executor(ir.from_proto(model), is_trainable=lambda value: False).eval()
    fixed: dict[str, Any] = {}
    free: dict[str, torch.Tensor] = {}
    for name, array in zip(executor.input_names, case.data_sets[0][0], strict=False):
        tensor = from_array(np.asarray(array))
        if not tensor.is_floating_point() or (case.model.graph.node[0].op_type in DATA_ALONE and free):
            fixed[name] = tensor.double() if tensor.is_floating_point() else tensor
        elif tensor.numel() > 1:
            # A little off the round numbers of the suite, where many operators have a kink.
            noise = torch.from_numpy(random.uniform(0.003, 0.02, tensor.shape))
            free[name] = (tensor.double() + noise).requires_grad_()
        else:
            fixed[name] = tensor.double()
    if not free or sum(tensor.numel() for tensor in free.values()) > LARGEST_INPUT:
        return False

    def outputs(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = executor({**fixed, **dict(zip(free, tensors, strict=True))})
        return tuple(value for value in found.values() if isinstance(value, torch.Tensor) and value.is_floating_point())

    found = outputs(*free.values())
    if not any(value.requires_grad and value.numel() for value in found):
        return False
    return torch.autograd.gradcheck(outputs, tuple(free.values()), atol=1e-5, rtol=1e-3, fast_mode=True)


@pytest.mark.parametrize("operator", DIFFERENTIABLE)
def test_gradients_are_those_of_finite_differences(operator: str) -> None:
    random, count = np.random.default_rng(0), 0
    for case in cases().get(operator, []):
        try:
            count += checked(case, random)
        except UnsupportedGraphError:
            continue
        if count == CASES_PER_OPERATOR:
            break
    assert bool(count) == (operator not in INTEGER_ALONE)
