"""Statistics of BatchNormalization measured anew, and the same where it was folded into a layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import onnx_ir as ir
from cutting import Batch, analysed, cut, error, normal_batches, outputs, random_keep
from models.builder import Net
from shrinkc.passes.compensation.batch_norm import BatchNorm

from shrinkc import ir as shrinkc_ir
from shrinkc.analysis.groups import Analysis

WIDTHS = (3, 10, 8, 6)


def network(*, is_folded: bool, analysis: Analysis | None = None) -> Net:
    """Three layers, each with a BatchNormalization or, folded, with that of ``analysis`` in weight and bias; then a head."""
    net = Net(seed=4)
    x = net.input("x", ["batch", 3, 6, 6])
    for inputs, width in pairwise(WIDTHS):
        x = net.conv(x, inputs, width, bias=is_folded)
        if not is_folded:
            x = net.bn(x, width)
        x = net.relu(x)
    net.output(net.head(x, WIDTHS[-1]))
    return net


def stored(model: ir.Model, node: ir.Node, index: int) -> np.ndarray:
    value = node.inputs[index]
    assert value is not None
    return shrinkc_ir.stored_array(value)


def nodes(model: ir.Model, kind: str) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == kind]


def with_statistics_of(batches: Sequence[Batch]) -> Analysis:
    """The network with a BatchNormalization whose statistics are those of the data."""
    analysis = analysed(network(is_folded=False))
    repair = cut(analysis, {}, batches)
    BatchNorm().apply(repair)
    return analysed(ir.to_proto(repair.pruned))


def folded(analysis: Analysis) -> Analysis:
    """The same network with every BatchNormalization in the layer before."""
    model = ir.from_proto(network(is_folded=True).model())
    source = analysis.model
    pairs = zip(nodes(source, "Conv"), nodes(source, "BatchNormalization"), nodes(model, "Conv"), strict=True)
    for convolution, normalization, target in pairs:
        scale, shift, mean, variance = (stored(source, normalization, index) for index in range(1, 5))
        gain = scale / np.sqrt(variance + 1e-5)
        for index, array in ((1, stored(source, convolution, 1) * gain[:, None, None, None]), (2, shift - mean * gain)):
            shrinkc_ir.replace_tensor(target.inputs[index], array.astype(np.float32))  # type: ignore[arg-type]
    for index in (1, 2):
        head = nodes(model, "Gemm")[0].inputs[index]
        shrinkc_ir.replace_tensor(head, stored(source, nodes(source, "Gemm")[0], index))  # type: ignore[arg-type]
    return analysed(ir.to_proto(model))


def test_statistics_are_those_of_all_samples_through_what_was_measured_before() -> None:
    repair = cut(analysed(network(is_folded=False)), {}, batches := normal_batches(analysed(network(is_folded=False))))
    model = repair.pruned
    changed = BatchNorm().apply(repair).tensors
    normalizations = nodes(model, "BatchNormalization")
    assert set(changed) >= {value.name for node in normalizations for value in node.inputs[3:5] if value is not None}
    for node in normalizations:
        model.graph.outputs.append(node.inputs[0])  # type: ignore[arg-type]
    for node, values in zip(normalizations, outputs(model, batches)[1:], strict=True):
        np.testing.assert_allclose(stored(model, node, 3), values.mean((0, 2, 3)), atol=1e-4)
        np.testing.assert_allclose(stored(model, node, 4), values.var((0, 2, 3)), rtol=1e-3)


def test_a_whole_network_stays_as_it_is_up_to_what_few_samples_say() -> None:
    batches = normal_batches(analysed(network(is_folded=False)), n=16, size=32)
    analysis = with_statistics_of(batches)
    errors = []
    for n in (1, 16):
        repair = cut(analysis, {}, batches[:n])
        BatchNorm().apply(repair)
        errors.append(error(replace(repair, batches=batches)))
    assert errors[1] < 1e-9, "the very samples"
    assert 1e-9 < errors[0] < 0.02, "a sixteenth of them"


def test_folded_or_not_the_repaired_network_is_the_same() -> None:
    batches = normal_batches(analysed(network(is_folded=False)), n=4, size=16)
    open_one = with_statistics_of(batches)
    closed = folded(open_one)
    keep = random_keep(open_one, 0.5, seed=3)
    by_place = dict(zip([group.name for group in closed.groups], keep.values(), strict=True))
    repairs = [cut(open_one, keep, batches), cut(closed, by_place, batches)]
    before = [outputs(repair.pruned, batches)[0] for repair in repairs]
    np.testing.assert_allclose(*before, atol=1e-3)
    for repair in repairs:
        assert BatchNorm().apply(repair).tensors
    after = [outputs(repair.pruned, batches)[0] for repair in repairs]
    np.testing.assert_allclose(*after, atol=1e-3)
    assert np.abs(after[0] - before[0]).max() > 0.1


def ending_in(kind: str) -> Net:
    net = Net()
    middle = net.relu(net.conv(net.input("x", ["batch", 3, 4, 4]), 3, 4, 1))
    constant = [net.const(np.zeros((2, 4, 1, 1), np.float32)), net.const(np.asarray([1, 2], np.float32))]
    y = net.op("Conv", middle, *constant)
    net.output(net.op(kind, y) if kind else y)
    return net


def test_a_layer_that_gives_an_output_of_the_model_is_left_alone() -> None:
    analysis = analysed(ending_in(""))
    assert not BatchNorm().apply(cut(analysis, {analysis.groups[0].name: [0, 2]})).tensors


def test_a_constant_output_stays_finite() -> None:
    analysis = analysed(ending_in("Relu"))
    repair = cut(analysis, {analysis.groups[0].name: [0, 2]})
    BatchNorm().apply(repair)
    np.testing.assert_allclose(*(outputs(model, repair.batches)[0] for model in (analysis.model, repair.pruned)))


def test_statistics_with_two_readers_stay() -> None:
    net = Net()
    x = net.input("x", ["batch", 3, 4, 4])
    statistics = [net.vector(4), net.positive(4)]
    convolutions = [net.conv(x, 3, 4, bias=False) for _ in range(2)]
    parts = [net.op("BatchNormalization", y, net.vector(4), net.vector(4), *statistics) for y in convolutions]
    net.output(net.op("Add", *parts))
    assert not BatchNorm().apply(cut(analysed(net), {})).tensors
