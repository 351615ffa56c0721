"""Queries and keys that lost dims inside heads: the map between what is left is the best there is, and is folded in."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from cutting import EVERY_KIND, again, analysed, cut, error, normal_batches, outputs, random_keep
from models.attention_topologies import ATTENTION, DIM, HEADS, LENGTH, linear, split_heads
from models.builder import Net
from shrinkc.passes.compensation.affine import Affine
from shrinkc.passes.compensation.refit import Refit

from shrinkc.analysis.groups import Analysis
from shrinkc.analysis.kinds import Kind
from shrinkc.api import Repair
from shrinkc.evidence import regression

DIMS = EVERY_KIND - {Kind.STREAM, Kind.HEADS}


def cut_dims(net: Net, seed: int = 3) -> Repair:
    analysis = analysed(net, kinds=DIMS)
    return cut(analysis, random_keep(analysis, 0.4, seed))


def products(repair: Repair, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A value of both networks, over all samples."""
    found = []
    for model in (repair.analysis.model.clone(), repair.pruned.clone()):
        (value,) = (node.outputs[0] for node in model.graph if node.outputs[0].name == name)
        model.graph.outputs.append(value)
        found.append(outputs(model, repair.batches)[-1].astype(np.float64))
    return found[0], found[1]


def relative(wanted: np.ndarray, got: np.ndarray) -> float:
    return float(((wanted - got) ** 2).sum() / ((wanted - wanted.mean()) ** 2).sum())


def scores_net(seed: int = 0) -> Net:
    """Queries, keys and their products, which are the output."""
    net = Net(seed=seed)
    x = net.input("x", ["batch", LENGTH, 5])
    q, k = (split_heads(net, linear(net, net.op("Tanh", linear(net, x, 5, DIM)), DIM, DIM)) for _ in range(2))
    net.output(net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])))
    return net


def group_of_dims(net: Net) -> tuple[Analysis, str]:
    analysis = analysed(net, kinds=DIMS)
    (name,) = (group.name for group in analysis.groups if group.kind is Kind.HEAD_DIM)
    return analysis, name


def test_the_map_is_the_best_over_all_pairs_of_queries_and_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regression, "DAMPING", 1e-9)
    monkeypatch.setattr(regression, "DAMPING_PER_COLUMN", 0.0)
    analysis, group = group_of_dims(scores_net())
    batches = normal_batches(analysis, n=1, size=1)
    repair = cut(analysis, {group: [0, 1, 4, 6, 9, 11, 13, 14]}, batches)
    scores = analysis.model.graph.outputs[0].name or ""
    (operands,) = (node.inputs for node in repair.pruned.graph if node.outputs[0].name == scores)
    queries, keys = (products(repair, value.name or "")[1][0] for value in operands if value is not None)
    wanted, before = products(repair, scores)
    best = 0.0
    for head in range(HEADS):
        pairs = np.einsum("qa,bk->qkab", queries[head], keys[head]).reshape(LENGTH * LENGTH, -1)
        best += float(np.linalg.lstsq(pairs, wanted[0, head].reshape(-1), rcond=None)[1][0])
    Refit().apply(repair)
    after = products(repair, scores)[1]
    assert ((after - wanted) ** 2).sum() == pytest.approx(best, rel=1e-3)
    assert best < 0.8 * ((before - wanted) ** 2).sum()


NAMES = [
    "vision_transformer_with_class_token", "cross_attention", "heads_in_the_batch", "one_head", "one_key_for_two_layers",
    "free_length_and_dims_computed_from_the_width", "values_from_outside", "window_attention_with_roll",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_products_get_nearer_to_what_they_were_and_the_report_says_how_near(name: str) -> None:
    repair = cut_dims(ATTENTION[name]())
    uncut = {node.outputs[0].name for node in repair.analysis.model.graph if is_product(node, repair)}
    plain = again(repair)
    result = Affine().apply(repair)
    coupled = [layer for layer in result.layers if layer.name in uncut]
    assert coupled
    assert not result.notes
    for layer in coupled:
        assert layer.error_after < layer.error_before
        assert relative(*products(repair, layer.name)) == pytest.approx(layer.error_after, rel=1e-2)
    assert error(repair) < error(plain)


def is_product(node: ir.Node, repair: Repair) -> bool:
    """Whether a node multiplies two computed matrices."""
    return node.op_type == "MatMul" and not any(repair.analysis.shadow[value].is_static for value in node.inputs)


def test_grouped_queries_have_maps_of_their_own() -> None:
    """Eight heads of queries, four of keys, which are repeated: the map goes into the queries."""
    net = Net(seed=2)
    x = linear(net, net.input("x", ["batch", LENGTH, 5]), 5, DIM)
    q, k = split_heads(net, linear(net, x, DIM, 32), 8), split_heads(net, linear(net, x, DIM, 16), 4)
    k = net.op("Expand", net.op("Unsqueeze", k, net.ints(2)), net.ints(1, 4, 2, LENGTH, 4))
    k = net.op("Reshape", k, net.ints(0, 8, LENGTH, 4))
    net.output(net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])))
    repair = cut_dims(net)
    before = error(repair)
    result = Affine().apply(repair)
    assert result.layers[-1].error_after == pytest.approx(relative(*products(repair, result.layers[-1].name)), rel=1e-2)
    assert error(repair) < before


@pytest.mark.parametrize("name", ["rotary_positions_and_grouped_queries", "normalised_queries_and_keys", "cosine_attention"])
def test_where_more_than_movement_lies_between_the_report_says_so(name: str) -> None:
    repair = cut_dims(ATTENTION[name]())
    result = Affine().apply(repair)
    (note,) = result.notes
    (product,) = (node for node in repair.analysis.model.graph if note.endswith(f" {node.outputs[0].name}."))
    assert is_product(product, repair)
    assert product.outputs[0].name not in {layer.name for layer in result.layers}


@pytest.mark.parametrize("is_moved", [True, False])
def test_queries_that_somebody_else_reads_are_left_alone_and_the_keys_take_the_map(is_moved: bool) -> None:
    net = scores_net()
    made_by = {node.output[0]: node for node in net.nodes}
    queries = net.nodes[-1].input[0]
    grid = made_by[queries].input[0]  # positions before heads
    net.output(net.op("ReduceSum", queries if is_moved else net.op("Transpose", grid, perm=[0, 2, 1, 3]), net.ints(3)))
    analysis, group = group_of_dims(net)
    repair = cut(analysis, {group: [0, 2]})
    plain = again(repair)
    Refit().apply(repair)
    assert error(repair) < error(plain)
    np.testing.assert_array_equal(*(outputs(model, repair.batches)[1] for model in (repair.pruned, plain.pruned)))


def test_heads_that_go_as_a_whole_need_no_map() -> None:
    analysis = analysed(ATTENTION["cross_attention"](), kinds=frozenset({Kind.HEADS}))
    repair = cut(analysis, random_keep(analysis, 0.5))
    fitted = {layer.name for layer in Affine().apply(repair).layers}
    assert fitted
    assert not any(is_product(node, repair) for node in analysis.model.graph if node.outputs[0].name in fitted)
