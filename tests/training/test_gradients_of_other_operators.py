"""Gradients of the operators that onnx's suite has no case of float tensors for, against finite differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from models.builder import Net
from onnx import TensorProto, defs, helper

from shrinkc.training.executor import Executor

CONTRIBUTED = "com.microsoft"
Made = tuple[Net, dict[str, tuple[int, ...]]]
"""A net, and the shapes of its float inputs; what else it reads is stored."""


def net(opset: int = 20) -> Net:
    return Net(opset=opset, ir_version=9, dtype=np.float64)


def one(kind: str, shapes: dict[str, tuple[int, ...]], *more: str, graph: Net | None = None, **attributes: object) -> Made:
    """A net of one node that reads float inputs, then what is stored."""
    made = graph or net()
    inputs = [made.input(name, list(shape)) for name, shape in shapes.items()]
    found = made.op(kind, *inputs, *more, **attributes)
    made.output(found if isinstance(found, str) else found[0])
    return made, shapes


def contributed(kind: str, shapes: dict[str, tuple[int, ...]], *more: str, graph: Net | None = None, **given: object) -> Made:
    made = graph or net()
    made.domains[CONTRIBUTED] = 1
    return one(kind, shapes, *more, graph=made, domain=CONTRIBUTED, **given)


def regions() -> Made:
    made = net()
    boxes = made.const(np.array([[0, 0, 0, 3, 3], [0, 1, 1, 4, 4]], np.float64))
    return one("MaxRoiPool", {"x": (1, 2, 6, 6)}, boxes, graph=made, pooled_shape=[2, 2])


def bodies(then_kind: str, else_kind: str) -> list[onnx.GraphProto]:
    """Two bodies that read ``x`` from outside."""
    out = helper.make_tensor_value_info("out", TensorProto.DOUBLE, None)
    return [
        helper.make_graph([helper.make_node(kind, ["x"], ["out"])], kind.lower(), [], [out]) for kind in (then_kind, else_kind)
    ]


def chosen(condition: bool) -> Made:
    made = net()
    made.input("x", [3, 4])
    then, other = bodies("Sin", "Exp")
    made.nodes.append(helper.make_node("If", [made.const(np.array(condition))], ["y"], then_branch=then, else_branch=other))
    made.output("y")
    return made, {"x": (3, 4)}


def looped() -> Made:
    """``state = sin(state) * x`` four times, and all states on the way."""
    made = net()
    made.input("x", [3])
    made.input("start", [3])
    values = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in (
        ("i", TensorProto.INT64, []), ("c", TensorProto.BOOL, []), ("state", TensorProto.DOUBLE, [3]),
        ("c2", TensorProto.BOOL, []), ("next", TensorProto.DOUBLE, [3]), ("seen", TensorProto.DOUBLE, [3]),
    )]  # fmt: skip
    nodes = [
        helper.make_node("Identity", ["c"], ["c2"]),
        helper.make_node("Sin", ["state"], ["s"]),
        helper.make_node("Mul", ["s", "x"], ["next"]),
        helper.make_node("Identity", ["next"], ["seen"]),
    ]
    body = helper.make_graph(nodes, "body", values[:3], values[3:])
    made.nodes.append(
        helper.make_node("Loop", [made.const(np.int64(4)), made.const(np.array(True)), "start"], ["last", "all"], body=body)
    )
    made.output("last")
    made.output("all")
    return made, {"x": (3,), "start": (3,)}


def in_a_sequence() -> Made:
    made = net()
    pieces = made.op("SplitToSequence", made.input("x", [4, 3]), made.ints(1, 3), axis=0)
    turned = made.op("SequenceInsert", pieces, made.op("Sin", "x"), made.const(np.int64(0)))
    first = made.op("SequenceAt", turned, made.const(np.int64(2)))
    made.output(str(made.op("Mul", first, made.op("ReduceSum", made.op("ConcatFromSequence", turned, axis=0)))))
    return made, {"x": (4, 3)}


def embedded() -> Made:
    made = net()
    ids, kinds = made.const(np.array([[1, 0, 2]], np.int32)), made.const(np.array([[0, 1, 1]], np.int32))
    made.domains[CONTRIBUTED] = 1
    names = ("words", "positions", "kinds", "gamma", "beta")
    shapes = dict(zip(names, ((4, 6), (3, 6), (2, 6), (6,), (6,)), strict=True))
    inputs = [ids, kinds, *(made.input(name, list(shape)) for name, shape in shapes.items())]
    made.output(made.op("EmbedLayerNormalization", *inputs, domain=CONTRIBUTED, outputs=2)[0])
    return made, shapes


def grouped() -> Made:
    made = net()
    made.domains[CONTRIBUTED] = 1
    shapes = {"q": (1, 5, 8), "k": (1, 5, 4), "v": (1, 5, 4)}
    inputs = [made.input(name, list(shape)) for name, shape in shapes.items()]
    lengths = [made.const(np.array([4], np.int32)), made.const(np.array(5, np.int32))]
    found = made.op(
        "GroupQueryAttention", *inputs, "", "", *lengths, domain=CONTRIBUTED, num_heads=4, kv_num_heads=2, outputs=3
    )
    made.output(found[0])
    return made, shapes


CASES: dict[str, Callable[[], Made]] = {
    "Trilu": lambda: one("Trilu", {"x": (4, 5)}, upper=1),
    "Cast": lambda: one("Cast", {"x": (3, 2)}, to=TensorProto.DOUBLE),
    "CastLike": lambda: one("CastLike", {"x": (3, 2), "like": (1,)}),
    "GlobalLpPool": lambda: one("GlobalLpPool", {"x": (2, 3, 4, 4)}, p=3),
    "MaxRoiPool": regions,
    "If": lambda: chosen(True),
    "If, otherwise": lambda: chosen(False),
    "Loop": looped,
    "sequences": in_a_sequence,
    "FastGelu": lambda: contributed("FastGelu", {"x": (3, 4), "b": (4,)}),
    "QuickGelu": lambda: contributed("QuickGelu", {"x": (3, 4)}, alpha=1.7),
    "FusedMatMul": lambda: contributed("FusedMatMul", {"a": (4, 3), "b": (5, 4)}, alpha=0.5, transA=1, transB=1),
    "FusedConv": lambda: contributed(
        "FusedConv", {"x": (1, 2, 5, 5), "w": (3, 2, 3, 3), "b": (3,), "z": (1, 3, 3, 3)}, activation="Tanh"
    ),
    "FusedGemm": lambda: contributed("FusedGemm", {"a": (3, 4), "b": (5, 4), "c": (5,)}, transB=1, activation="Sigmoid"),
    "SkipLayerNormalization": lambda: contributed(
        "SkipLayerNormalization", {"x": (2, 3, 6), "skip": (2, 3, 6), "gamma": (6,), "beta": (6,), "bias": (6,)}
    ),
    "SkipSimplifiedLayerNormalization": lambda: contributed(
        "SkipSimplifiedLayerNormalization", {"x": (2, 3, 6), "skip": (2, 3, 6), "gamma": (6,), "bias": (6,)}
    ),
    "EmbedLayerNormalization": embedded,
    "MultiHeadAttention": lambda: contributed(
        "MultiHeadAttention", {"q": (1, 3, 8), "k": (1, 5, 8), "v": (1, 5, 8), "bias": (24,)}, num_heads=2
    ),
    "GroupQueryAttention": grouped,
    "Attention of onnxruntime": lambda: contributed(
        "Attention", {"x": (1, 4, 6), "w": (6, 18), "b": (18,)}, num_heads=3, unidirectional=1
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    made, shapes = CASES[name]()
    executor = Executor(ir.from_proto(made.model()), is_trainable=lambda value: False).eval()
    random = np.random.default_rng(0)
    free = {key: torch.from_numpy(random.uniform(0.2, 1.2, shape)).requires_grad_() for key, shape in shapes.items()}

    def outputs(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(executor(dict(zip(free, tensors, strict=True))).values())

    assert any(value.requires_grad for value in outputs(*free.values()))
    assert torch.autograd.gradcheck(outputs, tuple(free.values()), atol=1e-6, rtol=1e-4)


def test_gradients_of_linear_attention_are_those_of_its_formula() -> None:
    """It computes its state in float32, where finite differences tell nothing: ``o = scale tril(q k^T) v``."""
    made = Net(opset=defs.get_schema("LinearAttention").since_version, ir_version=11)
    shapes = {"query": (2, 5, 8), "key": (2, 5, 8), "value": (2, 5, 6)}
    inputs = [made.input(name, list(shape)) for name, shape in shapes.items()]
    attributes = {"q_num_heads": 2, "kv_num_heads": 2, "update_rule": "linear", "scale": 0.3}
    made.output(made.op("LinearAttention", *inputs, outputs=2, **attributes)[0])
    executor = Executor(ir.from_proto(made.model()), is_trainable=lambda value: False).eval()
    torch.manual_seed(0)
    given = {name: torch.randn(shape, requires_grad=True) for name, shape in shapes.items()}
    (found,) = executor(given).values()
    q, k, v = (tensor.unflatten(2, (2, -1)).transpose(1, 2) for tensor in given.values())
    expected = (0.3 * (q @ k.mT).tril() @ v).transpose(1, 2).flatten(2)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn(found.shape)
    gradients = [torch.autograd.grad((y * weights).sum(), list(given.values())) for y in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)
