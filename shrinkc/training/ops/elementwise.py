"""Element by element: arithmetic, comparisons, logic, activations, casts."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce

import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional as F

from shrinkc.training.ops.call import Builder, Call, Function, Table

op = Table()
OPS = op.ops


def divided(a: Tensor, b: Tensor) -> Tensor:
    """Quotient; of integers it is cut towards zero."""
    return a / b if a.is_floating_point() or a.is_complex() else torch.div(a, b, rounding_mode="trunc")


def powered(a: Tensor, b: Tensor) -> Tensor:
    """``a ** b`` in the type of ``a``."""
    wide = a.to(b.dtype) if b.is_floating_point() and not a.is_floating_point() else a
    return torch.pow(wide, b).to(a.dtype)


def _shifted_right(a: Tensor, b: Tensor) -> Tensor:
    return torch.bitwise_right_shift(a.to(torch.int64), b.to(torch.int64)).to(a.dtype)


def _shifted_left(a: Tensor, b: Tensor) -> Tensor:
    return torch.bitwise_left_shift(a.to(torch.int64), b.to(torch.int64)).to(a.dtype)


WIDE = frozenset({ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64})
"""Element types torch stores and does not compute with."""


def arithmetic(function: Function) -> Builder:
    """Builder of an operator on numbers; of types that torch has no arithmetic for, it is done in 64 bits."""

    def build(call: Call) -> Function:
        return _in_64_bits(function) if _is_wide(call) else function

    return build


def _is_wide(call: Call) -> bool:
    return any(value is not None and value.dtype in WIDE for value in call.node.inputs)


def _in_64_bits(function: Function) -> Function:
    def run(*inputs: Tensor) -> Tensor:
        dtype = inputs[0].dtype
        result: Tensor = function(*(x.to(torch.int64) if not x.is_floating_point() else x for x in inputs))
        return result.to(dtype) if result.dtype == torch.int64 else result

    return run


ARITHMETIC: dict[str, Function] = {
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Div": divided, "Pow": powered,
    "Equal": torch.eq, "Greater": torch.gt, "GreaterOrEqual": torch.ge, "Less": torch.lt, "LessOrEqual": torch.le,
    "BitwiseAnd": torch.bitwise_and, "BitwiseOr": torch.bitwise_or, "BitwiseXor": torch.bitwise_xor,
    "BitwiseNot": torch.bitwise_not,
}  # fmt: skip
for _name, _function in ARITHMETIC.items():
    op(_name)(arithmetic(_function))

op.plain(
    And=torch.logical_and, Or=torch.logical_or, Xor=torch.logical_xor, Not=torch.logical_not,
    Abs=torch.abs, Neg=torch.neg, Sqrt=torch.sqrt, Exp=torch.exp, Log=torch.log, Erf=torch.erf, Reciprocal=torch.reciprocal,
    Sin=torch.sin, Cos=torch.cos, Tan=torch.tan, Asin=torch.asin, Acos=torch.acos, Atan=torch.atan,
    Sinh=torch.sinh, Cosh=torch.cosh, Tanh=torch.tanh, Asinh=torch.asinh, Acosh=torch.acosh, Atanh=torch.atanh,
    Floor=torch.floor, Ceil=torch.ceil, Round=torch.round, Sign=torch.sign, IsNaN=torch.isnan,
    Relu=torch.relu, Sigmoid=torch.sigmoid, Softsign=F.softsign, HardSwish=F.hardswish, Mish=F.mish,
)  # fmt: skip


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), exact for large arguments too."""
    return torch.logaddexp(x, torch.zeros((), dtype=x.dtype, device=x.device))


op.plain(Softplus=softplus)


@op("Where")
def where(call: Call) -> Function:
    """Choice by a condition."""
    return torch.where


def nary(pair: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Call], Function]:
    """Builder of an operator that joins any number of inputs."""

    def build(call: Call) -> Function:
        if len(call.node.inputs) == 2 and not _is_wide(call):
            return pair
        joined: Function = lambda *inputs: reduce(pair, inputs)  # noqa: E731
        return _in_64_bits(joined) if _is_wide(call) else joined

    return build


op("Sum")(nary(torch.add))
op("Max")(nary(torch.maximum))
op("Min")(nary(torch.minimum))


@op("Mean")
def mean(call: Call) -> Function:
    """Mean of any number of inputs."""
    return lambda *inputs: reduce(torch.add, inputs) / len(inputs)


@op("Mod")
def mod(call: Call) -> Function:
    """Remainder: of the sign of the divisor, or, with ``fmod``, of the dividend."""
    return arithmetic(torch.fmod if call.integer("fmod") else torch.remainder)(call)


@op("BitShift")
def bit_shift(call: Call) -> Function:
    """Shift by a number of bits."""
    return _shifted_left if call.text("direction") == "LEFT" else _shifted_right


@op("Clip")
def clip(call: Call) -> Function:
    """Bounds as attributes before opset 11, as inputs since; a lower bound above the upper one gives the upper."""
    if call.has("min") or call.has("max") or call.version < 11:
        low = call.number("min", -math.inf) if call.has("min") else None
        high = call.number("max", math.inf) if call.has("max") else None
        return lambda x: x if low is None and high is None else torch.clamp(x, low, high)
    low_at, high_at = call.constant(1), call.constant(2)
    are_known = (low_at is not None or not call.given(1)) and (high_at is not None or not call.given(2))
    if are_known:
        return _clip_between(low_at, high_at)
    return clipped


def _clip_between(low_at: Tensor | None, high_at: Tensor | None) -> Function:
    low = None if low_at is None else low_at.item()
    high = None if high_at is None else high_at.item()
    if low is None and high is None:
        return lambda x, *_: x
    if (low, high) == (0, 6):
        return lambda x, *_: F.relu6(x) if x.is_floating_point() else torch.clamp(x, 0, 6)
    return lambda x, *_: torch.clamp(x, low, high)


def clipped(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """``x`` between bounds that are tensors."""
    x = x if low is None else torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


@op("LeakyRelu")
def leaky_relu(call: Call) -> Function:
    """Slope alpha below zero."""
    alpha = call.number("alpha", 0.01)
    return lambda x: F.leaky_relu(x, alpha)


@op("PRelu", since=1)
def prelu_by_channel(call: Call) -> Function:
    """A learned slope, one or one a channel (before opset 7)."""
    return lambda x, slope: F.prelu(x, slope.reshape(-1))


@op("PRelu", since=7)
def prelu(call: Call) -> Function:
    """A learned slope, broadcast towards ``x``."""
    return lambda x, slope: torch.where(x < 0, x * slope, x)


@op("Elu")
def elu(call: Call) -> Function:
    """An exponential, alpha (exp(x) - 1) below zero."""
    alpha = call.number("alpha", 1.0)
    return lambda x: F.elu(x, alpha)


@op("Celu")
def celu(call: Call) -> Function:
    """An exponential, alpha (exp(x / alpha) - 1), below zero."""
    alpha = call.number("alpha", 1.0)
    return lambda x: F.celu(x, alpha)


@op("Selu")
def selu(call: Call) -> Function:
    """Gamma times an ELU."""
    alpha = call.number("alpha", 1.67326319217681884765625)
    gamma = call.number("gamma", 1.05070102214813232421875)
    return lambda x: gamma * F.elu(x, alpha)


@op("ThresholdedRelu")
def thresholded_relu(call: Call) -> Function:
    """``x`` above alpha, else zero."""
    alpha = call.number("alpha", 1.0)
    return lambda x: torch.where(x > alpha, x, torch.zeros_like(x))


@op("HardSigmoid")
def hard_sigmoid(call: Call) -> Function:
    """max(0, min(1, alpha x + beta))."""
    alpha, beta = call.number("alpha", 0.2), call.number("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-7 and beta == 0.5:
        return F.hardsigmoid
    return lambda x: torch.clamp(alpha * x + beta, 0, 1)


@op("Gelu")
def gelu(call: Call) -> Function:
    """Exact, or by the tanh formula."""
    form = call.text("approximate", "none")
    return lambda x: F.gelu(x, approximate=form)


@op("Swish")
def swish(call: Call) -> Function:
    """The product x sigmoid(alpha x)."""
    alpha = call.number("alpha", 1.0)
    return F.silu if alpha == 1 else lambda x: x * torch.sigmoid(alpha * x)


@op("Shrink")
def shrink(call: Call) -> Function:
    """Towards zero by ``bias`` outside of plus and minus ``lambd``."""
    bound, bias = call.number("lambd", 0.5), call.number("bias", 0.0)

    def run(x: Tensor) -> Tensor:
        zero = torch.zeros_like(x)
        return torch.where(x < -bound, (x + bias).to(x.dtype), torch.where(x > bound, (x - bias).to(x.dtype), zero))

    return run


@op("IsInf")
def is_inf(call: Call) -> Function:
    """Of either sign, or of one."""
    positive, negative = call.integer("detect_positive", 1), call.integer("detect_negative", 1)
    if positive and negative:
        return torch.isinf
    if not positive and not negative:
        return lambda x: torch.zeros_like(x, dtype=torch.bool)
    return torch.isposinf if positive else torch.isneginf


@op("Identity")
def identity(call: Call) -> Function:
    """The input itself."""
    return lambda x: x


@op("Cast")
def cast(call: Call) -> Function:
    """Another element type."""
    dtype = call.dtype("to")
    assert dtype is not None
    if dtype in FLOAT8:
        return _to_float8(dtype, bool(call.integer("saturate", 1)))
    return lambda x: converted(x, dtype)


FLOAT8 = frozenset({torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz})


def _to_float8(dtype: torch.dtype, saturates: bool) -> Function:
    """What does not fit becomes the largest number, or, without saturation, what the type has instead of it."""
    largest = torch.finfo(dtype).max

    def run(x: Tensor) -> Tensor:
        y = x.to(torch.float32)
        if saturates:
            return y.clamp(-largest, largest).to(dtype)
        if dtype == torch.float8_e4m3fn:  # torch saturates this one; half a step above the largest is the last to fit
            y = torch.where(y.abs() > largest + 16, torch.full_like(y, torch.nan), y)
        return y.to(dtype)

    return run


def converted(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x`` in another element type; a number made a truth value is true unless it is zero."""
    return x != 0 if dtype == torch.bool and x.dtype != torch.bool else x.to(dtype)


@op("CastLike")
def cast_like(call: Call) -> Function:
    """The element type of another tensor."""
    saturates = bool(call.integer("saturate", 1))

    def run(x: Tensor, other: Tensor) -> Tensor:
        dtype = other.dtype
        return _to_float8(dtype, saturates)(x) if dtype in FLOAT8 else converted(x, dtype)

    return run


@op("BitCast")
def bit_cast(call: Call) -> Function:
    """The same bits read as another type."""
    dtype = call.dtype("to")
    assert dtype is not None
    return lambda x: x.contiguous().view(dtype)
