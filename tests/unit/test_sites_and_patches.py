"""A layer as a linear map gives what onnxruntime gives, whatever the layer's settings, and can be written back."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from cutting import outputs
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from models.builder import Net

from shrinkc import ir as shrinkc_ir
from shrinkc.evidence.patches import columns, n_positions, rows
from shrinkc.evidence.sites import Site, sites_of
from shrinkc.shapes import Shadow, input_shapes

BATCH = 3


def only_site(net: Net) -> tuple[Site, ir.Model]:
    model = ir.from_proto(net.model())
    (site,) = sites_of(model, Shadow.of(model, input_shapes(model)))
    return site, model


def check(net: Net) -> None:
    """``matrix @ columns + bias`` is the layer's output; other weights written back give theirs."""
    site, model = only_site(net)
    (shape,) = input_shapes(model).values()
    data = np.random.default_rng(5).standard_normal((BATCH, *shape[1:])).astype(np.float32)
    compare(site, data, outputs(model, [{"x": data}])[0])
    before = {value.name: shrinkc_ir.stored_array(value) for value in model.graph.initializers.values()}
    assert site.write(site.matrix(), site.bias())
    for value in model.graph.initializers.values():
        np.testing.assert_allclose(shrinkc_ir.stored_array(value), before[value.name], rtol=1e-6, err_msg=str(value.name))
    generator = np.random.default_rng(6)
    site.write(generator.standard_normal(site.matrix().shape), generator.standard_normal(site.bias().shape))
    if site.intercept is None or site.intercept.is_own:  # another's tensor holds its part apart from the output
        compare(site, data, outputs(model, [{"x": data}])[0])


def compare(site: Site, data: np.ndarray, output: np.ndarray) -> None:
    x, y = columns(site, data), rows(site, output)
    np.testing.assert_allclose(np.einsum("goc,grc->gro", site.matrix(), x) + site.bias()[:, None], y, rtol=1e-3, atol=1e-4)
    samples = 1 if site.windows is None else len(data)
    available = n_positions(site, data)
    assert available * samples == x.shape[1]
    some = np.arange(0, available, 2)
    np.testing.assert_array_equal(columns(site, data, some), sampled(x, some, available))
    np.testing.assert_array_equal(rows(site, output, some), sampled(y, some, available))


def sampled(whole: np.ndarray, positions: np.ndarray, available: int) -> np.ndarray:
    groups, _, width = whole.shape
    return whole.reshape(groups, -1, available, width)[:, :, positions].reshape(groups, -1, width)


@st.composite
def convolutions(draw: Any) -> Net:
    net, rank = Net(seed=draw(st.integers(0, 9))), draw(st.integers(1, 3))
    groups, per_group, outputs_per_group = (draw(st.integers(1, 3)) for _ in range(3))
    lists = {"strides": st.integers(1, 3), "dilations": st.integers(1, 2)}
    attributes: dict[str, Any] = {name: [draw(each) for _ in range(rank)] for name, each in lists.items()}
    kernel = [draw(st.integers(1, 3)) for _ in range(rank)]
    rule = draw(st.sampled_from(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    attributes["auto_pad"] = rule
    if rule == "NOTSET":
        attributes["pads"] = [draw(st.integers(0, 2)) for _ in range(2 * rank)]
    elif rule != "VALID":
        assume(all(d == 1 for d in attributes["dilations"]))  # onnxruntime takes the two together in its own way
    x = net.input("x", ["batch", groups * per_group, *(draw(st.integers(5, 7)) for _ in range(rank))])
    parts = [x, net.weight(groups * outputs_per_group, per_group, *kernel)]
    if draw(st.booleans()):
        parts.append(net.vector(groups * outputs_per_group))
    net.output(net.op("Conv", *parts, group=groups, **attributes))
    return net


@given(convolutions())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_convolution(net: Net) -> None:
    check(net)


def test_a_depthwise_convolution_is_told_apart() -> None:
    net = Net()
    net.output(net.conv(net.input("x", ["batch", 6, 5, 5]), 6, 12, group=6))
    assert only_site(net)[0].is_depthwise
    check(net)


@given(st.booleans(), st.sampled_from([1.0, 0.5, -2.0]), st.sampled_from([None, 1.0, 3.0]))
@settings(max_examples=18, deadline=None, derandomize=True)
def test_any_gemm(is_transposed: bool, alpha: float, beta: float | None) -> None:
    net = Net()
    parts = [net.input("x", ["batch", 5]), net.weight(*((4, 5) if is_transposed else (5, 4)))]
    parts += [] if beta is None else [net.vector(4)]
    net.output(net.op("Gemm", *parts, transB=int(is_transposed), alpha=alpha, beta=beta or 1.0))
    check(net)


@pytest.mark.parametrize("way", ["stored", "transposed", "reshaped", "transposed and squeezed"])
@pytest.mark.parametrize("lead", [[], [4], [2, 3]])
def test_any_matrix_product(way: str, lead: list[int]) -> None:
    net = Net()
    x = net.input("x", ["batch", *lead, 6])
    weight = {
        "stored": lambda: net.weight(6, 4),
        "transposed": lambda: net.op("Transpose", net.weight(4, 6), perm=[1, 0]),
        "reshaped": lambda: net.op("Reshape", net.weight(2, 3, 4), net.ints(6, 4)),
        "transposed and squeezed": lambda: net.op("Squeeze", net.op("Transpose", net.weight(4, 1, 6)), net.ints(1)),
    }[way]()
    net.output(net.op("MatMul", x, weight))
    check(net)


@pytest.mark.parametrize("behind", ["Add", "BatchNormalization"])
def test_an_intercept_goes_where_a_vector_is_added_behind(behind: str) -> None:
    net = Net()
    x = net.input("x", ["batch", 6] if behind == "Add" else ["batch", 6, 4, 4])
    if behind == "Add":
        net.output(net.op("Add", net.vector(5), net.op("MatMul", x, net.weight(6, 5))))
    else:
        net.output(net.bn(net.conv(x, 6, 5, bias=False), 5))
    site, model = only_site(net)
    shape = input_shapes(model)["x"]
    data = {"x": np.random.default_rng(0).standard_normal((BATCH, *shape[1:])).astype(np.float32)}
    shift = np.arange(5.0)
    before = outputs(model, [data])[0]
    site.write(site.matrix(), shift[None])
    gain = 1.0
    if behind == "BatchNormalization":
        scale, variance = (shrinkc_ir.stored_array(site.output.uses()[0].node.inputs[i]) for i in (1, 4))  # type: ignore[arg-type]
        gain = scale / np.sqrt(variance + 1e-5)
    along = [1, 5, 1, 1][: before.ndim]
    np.testing.assert_allclose(
        outputs(model, [data])[0] - before, np.broadcast_to((gain * shift).reshape(along), before.shape), atol=1e-4
    )


def test_shared_and_computed_weights_are_no_sites() -> None:
    net = Net()
    x, shared = net.input("x", ["batch", 6]), net.weight(6, 6)
    y = net.op("MatMul", net.op("MatMul", x, shared), shared)
    y = net.op("MatMul", y, net.op("Mul", net.weight(6, 6), net.vector(6)))
    net.output(net.op("MatMul", y, net.weight(6, 4)))
    assert only_site(net)[0].outputs == 4


def test_a_vector_with_other_readers_takes_no_intercept() -> None:
    net = Net()
    x, shared = net.input("x", ["batch", 3, 6, 6]), net.vector(4)
    left, right = (net.op("Conv", x, net.weight(4, 3, 1, 1), shared) for _ in range(2))
    net.output(net.op("Add", left, right))
    model = ir.from_proto(net.model())
    sites = sites_of(model, Shadow.of(model, input_shapes(model)))
    assert [site.intercept for site in sites] == [None, None]
    old = shrinkc_ir.stored_array(model.graph.initializers[shared])
    assert sites[0].write(sites[0].matrix(), np.ones((1, 4))) == [sites[0].weight.name]
    np.testing.assert_array_equal(shrinkc_ir.stored_array(model.graph.initializers[shared]), old)


def test_half_precision_stays_half_precision() -> None:
    net = Net(dtype=np.float16)
    net.output(net.conv(net.input("x", ["batch", 3, 5, 5]), 3, 4))
    site, model = only_site(net)
    site.write(2 * site.matrix(), site.bias())
    assert {value.dtype for value in model.graph.initializers.values()} == {ir.DataType.FLOAT16}
    assert ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
