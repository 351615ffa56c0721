"""Movement of compressed labels equals movement of full arrays: numpy and onnx's reference operators are the oracle."""

from __future__ import annotations

import itertools
import math

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from shrinkc.analysis import moves
from shrinkc.analysis.labels import LabelSpace, compress
from shrinkc.analysis.node_moves import positions


def slicer() -> ort.InferenceSession:
    """One-node model that slices a vector."""
    values = [helper.make_tensor_value_info(name, TensorProto.INT64, [None]) for name in "xseaty"]
    graph = helper.make_graph([helper.make_node("Slice", list("xseat"), ["y"])], "slice", values[:5], values[5:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


SLICER = slicer()
DIMS = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@st.composite
def labelled(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, ...]]:
    """Compressed labels and the true shape: each axis carries labels or not."""
    shape = tuple(draw(DIMS))
    carried = [size if draw(st.booleans()) else 1 for size in shape]
    labels = draw(st.permutations(range(math.prod(carried))))
    return np.asarray(labels, np.int64).reshape(carried), shape


def full(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(labels, shape)


@st.composite
def reshapes(draw: st.DrawFn) -> tuple[np.ndarray, tuple[int, ...], tuple[int, ...]]:
    labels, shape = draw(labelled())
    factors = [p for size in shape for p in _prime_factors(size)] + [1] * draw(st.integers(0, 2))
    factors = list(draw(st.permutations(factors))) or [1]
    cuts = sorted(draw(st.lists(st.integers(0, len(factors)), max_size=3)))
    bounds = [0, *cuts, len(factors)]
    return labels, shape, tuple(math.prod(factors[a:b]) for a, b in itertools.pairwise(bounds))


def _prime_factors(size: int) -> list[int]:
    return {1: [], 2: [2], 3: [3], 4: [2, 2]}[size]


@given(reshapes())
@settings(deadline=None)
def test_reshape_moves_labels_as_it_moves_data(case: tuple[np.ndarray, tuple[int, ...], tuple[int, ...]]) -> None:
    labels, old, new = case
    moved = moves.reshape(labels, old, new)
    assert all(size in (1, true) for size, true in zip(moved.shape, new, strict=True))
    np.testing.assert_array_equal(full(moved, new), full(labels, old).reshape(new))


@given(labelled(), st.data())
@settings(deadline=None)
def test_take_moves_labels_as_gather_does(case: tuple[np.ndarray, tuple[int, ...]], data: st.DataObject) -> None:
    labels, shape = case
    axis = data.draw(st.integers(0, len(shape) - 1))
    indices = np.asarray(data.draw(st.lists(st.integers(0, shape[axis] - 1), min_size=1, max_size=5)))
    expected = full(labels, shape).take(indices, axis)
    np.testing.assert_array_equal(np.broadcast_to(moves.take(labels, indices, axis), expected.shape), expected)


@given(labelled(), st.data())
@settings(deadline=None)
def test_concat_lays_labels_end_to_end(case: tuple[np.ndarray, tuple[int, ...]], data: st.DataObject) -> None:
    labels, shape = case
    axis = data.draw(st.integers(0, len(shape) - 1))
    parts = [labels, labels + labels.size, labels]
    expected = np.concatenate([full(part, shape) for part in parts], axis)
    moved = moves.concat(parts, [shape] * 3, axis)
    np.testing.assert_array_equal(np.broadcast_to(moved, expected.shape), expected)


@given(labelled())
@settings(deadline=None)
def test_compress_loses_nothing(case: tuple[np.ndarray, tuple[int, ...]]) -> None:
    labels, shape = case
    np.testing.assert_array_equal(full(compress(np.ascontiguousarray(full(labels, shape))), shape), full(labels, shape))


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(-20, 20), st.integers(-20, 20), st.integers(-3, 3).filter(bool))
def test_slice_positions_are_those_of_onnxruntime(size: int, start: int, stop: int, step: int) -> None:
    # onnx's own reference slices like numpy and differs from the operator's text for negative steps from before the start.
    feeds = {
        "x": np.arange(size),
        "s": np.asarray([start]),
        "e": np.asarray([stop]),
        "a": np.asarray([0]),
        "t": np.asarray([step]),
    }
    assert list(positions(size, start, stop, step)) == SLICER.run(None, feeds)[0].tolist()


@pytest.mark.parametrize(
    ("kept", "expected"),
    [([[1, 0], [1, 0]], True), ([[1, 0], [0, 1]], False), ([[1, 1], [0, 0]], True), ([[0, 1], [1, 1]], False)],
)
def test_rectangles_are_outer_products(kept: list[list[int]], expected: bool) -> None:
    assert moves.is_rectangle(np.asarray(kept, bool)) is expected


@settings(deadline=None)
@given(st.integers(1, 30), st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=40))
def test_classes_are_connected_components(count: int, edges: list[tuple[int, int]]) -> None:
    space = LabelSpace()
    space.fresh(count)
    edges = [(a % count, b % count) for a, b in edges]
    for a, b in edges:
        space.tie(np.asarray([a]), np.asarray([b]))
    groups = [{label} for label in range(count)]
    for a, b in edges:  # brute force: merge sets
        first, second = (next(g for g in groups if x in g) for x in (a, b))
        if first is not second:
            first |= second
            groups.remove(second)
    classes = space.classes()
    for group in groups:
        assert len({int(classes[label]) for label in group}) == 1
    assert len(set(classes.tolist())) == len(groups)
