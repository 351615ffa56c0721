"""Queries with keys, and values with what reads them, at a lower rank: heads of fewer dims."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from cutting import outputs
from models.attention_topologies import ATTENTION, DIM, HEADS, LENGTH, finish, linear, merge_heads, split_heads, weighted
from models.builder import Net
from shrinkc.passes.lowrank.pairs import Pairs
from shrinkc.passes.lowrank.svd import Svd

import shrinkc
from shrinkc import ir as shrinkc_ir
from shrinkc import registry
from shrinkc.errors import RecipeError
from shrinkc.evidence.head_pairs import pairs_in
from shrinkc.factorable import Scope, candidates_in
from shrinkc.head_folding import PairCandidate, folded, lowered, measured_error, with_means, zeroed
from shrinkc.opening import counted_cost
from shrinkc.rank_allocation import apart
from shrinkc.shapes import Shadow, input_shapes
from shrinkc.verify import prove

FOLDABLE = [
    "encoder_of_two_blocks", "vision_transformer_with_class_token", "cross_attention", "window_attention_with_roll", "one_head",
    "heads_in_the_batch", "free_length_and_dims_computed_from_the_width", "free_length_with_embeddings_and_tied_output",
    "relative_position_bias", "talking_heads", "gate_per_head", "values_from_outside",
]  # fmt: skip


def runtime() -> object:
    return registry.load("runtimes", "onnxruntime-cpu")()


def normal(model: ir.Model, n: int = 2, size: int = 8, seed: int = 0) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        batch = {}
        for name, shape in input_shapes(model).items():
            kind = next(value.dtype for value in model.graph.inputs if value.name == name)
            whole = kind == ir.DataType.INT64
            batch[name] = random.integers(0, 5, (size, *shape[1:])) if whole else random.standard_normal((size, *shape[1:]))
            batch[name] = batch[name].astype(np.int64 if whole else np.float32)
        found.append(batch)
    return found


def candidates(model: ir.Model, batches: list[dict[str, np.ndarray]], round_to: int = 1) -> list[PairCandidate]:
    scope = Scope([Pairs()], Svd(), round_to)
    found = candidates_in(model, Shadow.of(model, input_shapes(model)), scope, batches, runtime())  # type: ignore[arg-type]
    return [candidate for candidate in found.candidates if isinstance(candidate, PairCandidate)]


def value(model: ir.Model, name: str, batches: list[dict[str, np.ndarray]]) -> np.ndarray:
    """A value inside a model, over all samples."""
    copy = model.clone()
    (found,) = (output for node in copy.graph for output in node.outputs if output.name == name)
    copy.graph.outputs.append(found)
    return outputs(copy, batches)[-1].astype(np.float64)


@pytest.mark.parametrize("name", FOLDABLE)
def test_heads_turned_at_full_rank_give_what_they_gave_and_what_is_cut_is_what_was_planned(name: str) -> None:
    model = ir.from_proto(ATTENTION[name]().model())
    shapes, batches = input_shapes(model), normal(model)
    found = candidates(model, [])
    assert found
    ranks = {candidate.name: (candidate, max(1, candidate.full_rank - 1 - number)) for number, candidate in enumerate(found)}
    work = folded(model, shapes, ranks)
    for before, after in zip(outputs(model, batches), outputs(work.turned, batches), strict=True):
        np.testing.assert_allclose(after, before, atol=2e-4 * np.abs(before).max())
    prove(work.analysis, work.is_kept, work.model, dict(shapes), runtime())  # type: ignore[arg-type]
    saved = sum(candidate.dense().macs - candidate.work(rank).macs for candidate, rank in ranks.values())
    assert counted_cost(model, shapes).macs - counted_cost(work.model, shapes).macs == saved
    lost = sum(candidate.dense().parameters - candidate.work(rank).parameters for candidate, rank in ranks.values())
    assert counted_cost(model, shapes).parameters - counted_cost(work.model, shapes).parameters == lost


def two_layers(*, bias: bool = True) -> Net:
    """Scores and the sums of the values are outputs of one attention."""
    net = Net(seed=5)
    x = net.input("x", ["batch", LENGTH, 12])
    q, k, v = (split_heads(net, linear(net, x, 12, DIM, bias=bias)) for _ in range(3))
    return finish(net, linear(net, merge_heads(net, weighted(net, q, k, v)), DIM, DIM))


def test_without_data_the_error_of_scores_is_the_tail_of_the_singular_values_of_the_weights_product() -> None:
    model = ir.from_proto(two_layers().model())
    scores = next(candidate for candidate in candidates(model, []) if not candidate.pairs[0].is_read)
    tails = np.zeros(5)
    for head in range(HEADS):
        sides = []
        for side in (scores.pairs[0].left, scores.pairs[0].right):
            rows = side.places[head, 0]
            sides.append(np.concatenate([side.site.matrix()[0][rows], side.bias()[rows, None]], axis=1))
        squares = np.linalg.svd(sides[0].T @ sides[1], compute_uv=False)[:4] ** 2
        tails[:4] += squares[::-1].cumsum()[::-1]
    np.testing.assert_allclose(scores.errors, tails / tails[0], atol=1e-12)


def test_on_data_the_error_of_scores_is_that_of_all_queries_with_all_keys_and_no_other_map_has_less() -> None:
    model = ir.from_proto(two_layers().model())
    batches, shapes = normal(model), input_shapes(model)
    scores = next(candidate for candidate in candidates(model, batches) if not candidate.pairs[0].is_read)
    rank = 2
    names = [operand.name or "" for operand in scores.pairs[0].node.inputs if operand is not None]
    work = folded(model, shapes, {scores.name: (scores, rank)})
    rows = [[value(one, name, batches) for name in names] for one in (model, work.model)]
    error = energy = 0.0
    for head in range(HEADS):
        (q, k), (cut_q, cut_k) = (
            (own[0][:, head].reshape(-1, own[0].shape[-1]), own[1][:, head].swapaxes(1, 2).reshape(-1, own[0].shape[-1]))
            for own in rows
        )
        wanted = q @ k.T
        lost = ((wanted - cut_q @ cut_k.T) ** 2).sum()
        best = np.linalg.svd(wanted, compute_uv=False)[rank:] ** 2
        assert lost == pytest.approx(best.sum(), rel=1e-3)  # Eckart, Young: the least of any product of that rank
        error, energy = error + lost, energy + (wanted**2).sum()
    assert scores.error(rank) == pytest.approx(error / energy, rel=1e-3)
    assert measured_error(model, shapes, scores, rank, batches, runtime()) == pytest.approx(error / energy, rel=1e-4)  # type: ignore[arg-type]
    assert work.model.graph is not model.graph


@pytest.mark.parametrize("rank", [1, 3])
def test_on_data_the_error_behind_values_is_measured_exactly_heads_together_and_means_stay(rank: int) -> None:
    model = ir.from_proto(two_layers().model())
    batches, shapes = normal(model), input_shapes(model)
    mixed = next(candidate for candidate in candidates(model, batches) if candidate.pairs[0].is_read)
    chosen = {mixed.name: (mixed, rank)}
    after = with_means(folded(model, shapes, chosen), chosen)
    (name,) = (usage.node.outputs[0].name or "" for usage in mixed.pairs[0].left.site.output.uses())
    wanted, got = value(model, name, batches).reshape(-1, DIM), value(after, name, batches).reshape(-1, DIM)
    np.testing.assert_allclose(got.mean(0), wanted.mean(0), atol=1e-4)
    share = ((wanted - got) ** 2).sum() / ((wanted - wanted.mean(0)) ** 2).sum()
    assert mixed.error(rank) == pytest.approx(share, rel=1e-3)
    assert measured_error(model, shapes, mixed, rank, batches, runtime()) == pytest.approx(share, rel=1e-3)  # type: ignore[arg-type]


def test_dims_that_say_nothing_cost_nothing() -> None:
    """Queries of rank two: half of the dims go without an error."""
    net = Net(seed=1)
    x = net.input("x", ["batch", LENGTH, 12])
    narrow = net.op(
        "MatMul", x, net.const((net.random.standard_normal((12, 2)) @ net.random.standard_normal((2, DIM))).astype(np.float32))
    )
    q, k, v = split_heads(net, str(narrow)), *(split_heads(net, linear(net, x, 12, DIM)) for _ in range(2))
    model = ir.from_proto(finish(net, linear(net, merge_heads(net, weighted(net, q, k, v)), DIM, DIM)).model())
    scores = next(candidate for candidate in candidates(model, []) if not candidate.pairs[0].is_read)
    assert scores.error(2) < 1e-9
    work = folded(model, input_shapes(model), {scores.name: (scores, 2)})
    batches = normal(model)
    np.testing.assert_allclose(outputs(work.model, batches)[0], outputs(model, batches)[0], atol=1e-4)


def test_queries_that_share_their_keys_are_turned_together() -> None:
    net = Net(seed=2)
    x = linear(net, net.input("x", ["batch", LENGTH, 5]), 5, DIM)
    q, k = split_heads(net, linear(net, x, DIM, 32), 8), split_heads(net, linear(net, x, DIM, 16), 4)
    k = net.op("Expand", net.op("Unsqueeze", k, net.ints(2)), net.ints(1, 4, 2, LENGTH, 4))
    k = net.op("Reshape", k, net.ints(0, 8, LENGTH, 4))
    net.output(net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])))
    model = ir.from_proto(net.model())
    (scores,) = candidates(model, [])
    assert scores.pairs[0].left.places.shape == (4, 2, 4)
    work = folded(model, input_shapes(model), {scores.name: (scores, 3)})
    batches = normal(model)
    before = outputs(model, batches)[0]
    np.testing.assert_allclose(outputs(work.turned, batches)[0], before, atol=1e-4 * np.abs(before).max())
    assert outputs(work.model, batches)[0].shape == before.shape


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("rotary_positions_and_grouped_queries", "Add"),
        ("normalised_queries_and_keys", "LayerNormalization"),
        ("cosine_attention", "Div"),
        ("linear_attention", "Relu"),
        ("learned_temperature_and_bias_per_head", "multiplies by more than one number"),
        ("one_key_for_two_layers", "read by others"),
    ],
)
def test_where_more_than_movement_and_a_number_stand_in_between_the_pair_is_refused_with_the_reason(
    name: str, reason: str
) -> None:
    model = ir.from_proto(ATTENTION[name]().model())
    found = pairs_in(model, Shadow.of(model, input_shapes(model)))
    assert not any(not pair.is_read for pair in found.found)
    assert any(reason in told for told in found.refused.values())


@pytest.mark.parametrize("index", [0, 1])
def test_without_data_the_error_measured_on_the_stored_weights_is_the_predicted_one(index: int) -> None:
    model = ir.from_proto(two_layers().model())
    candidate = candidates(model, [])[index]
    measured = measured_error(model, input_shapes(model), candidate, 2, [], runtime())  # type: ignore[arg-type]
    assert measured == pytest.approx(candidate.error(2), rel=1e-3)


def test_packed_queries_keys_and_values_are_cut_alike() -> None:
    model = ir.from_proto(ATTENTION["vision_transformer_with_class_token"]().model())
    (candidate,) = candidates(model, [])
    assert len(candidate.pairs) == 2
    assert len(candidate.layers) == 2
    np.testing.assert_allclose(candidate.errors, np.mean([part.errors for part in candidate.parts], axis=0))


@pytest.mark.parametrize("has_data", [True, False])
def test_the_command_makes_heads_narrower_within_the_budget_and_reports_both_errors(has_data: bool, tmp_path: Path) -> None:
    net = ATTENTION["encoder_of_two_blocks"]()
    onnx.save(net.model(), str(tmp_path / "m.onnx"))
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).standard_normal((64, LENGTH, 5)).astype(np.float32))
    options = {"data": tmp_path / "d.npz"} if has_data else {}
    report = shrinkc.compress(
        tmp_path / "m.onnx", output=tmp_path / "o.onnx", method="lowrank", forms="pairs,matrix", macs="80%", round_to=1,
        measure_latency=False, save_plan=tmp_path / "p.json", **options,
    )  # fmt: skip
    rows = [row for row in report.factors if row.form == "pairs" and row.rank is not None]
    assert rows
    for row in rows:
        assert row.rank < row.full_rank == 4
        assert row.measured_error == pytest.approx(row.predicted_error, rel=1e-4, abs=1e-9)
    after = shrinkc_ir.load(tmp_path / "o.onnx")
    shapes = input_shapes(after)
    assert counted_cost(after, shapes).macs <= 0.8 * counted_cost(shrinkc_ir.load(tmp_path / "m.onnx"), shapes).macs
    again = shrinkc.compress(
        tmp_path / "m.onnx", output=tmp_path / "a.onnx", plan=tmp_path / "p.json", measure_latency=False, **options
    )
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "o.onnx").read_bytes(), again


def test_dims_of_heads_are_chosen_by_one_method_only(tmp_path: Path) -> None:
    onnx.save(ATTENTION["one_head"]().model(), str(tmp_path / "m.onnx"))
    with pytest.raises(RecipeError, match="dims of heads"):
        shrinkc.compress(
            tmp_path / "m.onnx", output=tmp_path / "o.onnx", method="auto", forms="pairs", prune="mlp,head-dim", macs="80%"
        )


@pytest.mark.parametrize("name", ["encoder_of_two_blocks", "vision_transformer_with_class_token"])
def test_heads_are_removed_and_made_narrower_in_one_plan_whose_cost_is_that_of_the_model(name: str, tmp_path: Path) -> None:
    model = ATTENTION[name]().model()
    onnx.save(model, str(tmp_path / "m.onnx"))
    (port,) = input_shapes(ir.from_proto(model)).items()
    np.savez(tmp_path / "d.npz", **{port[0]: np.random.default_rng(0).standard_normal((48, *port[1][1:])).astype(np.float32)})
    options = {"method": "auto", "forms": "pairs", "prune": "heads,mlp", "macs": "60%", "round_to": 1, "compensation": "none"}
    options |= {"data": tmp_path / "d.npz", "measure_latency": False}
    planned = shrinkc.compress(tmp_path / "m.onnx", output=tmp_path / "p.onnx", dry_run=True, **options)  # type: ignore[arg-type]
    built = shrinkc.compress(tmp_path / "m.onnx", output=tmp_path / "o.onnx", save_plan=tmp_path / "p.json", **options)  # type: ignore[arg-type]
    assert (built.after.macs, built.after.parameters) == (planned.after.macs, planned.after.parameters)
    done = [row for row in built.factors if row.form == "pairs" and not row.reason]
    assert done
    assert any(group.channels_after < group.channels_before for group in built.groups if group.kind == "heads")
    for row in done:
        assert row.measured_error == pytest.approx(row.predicted_error, rel=1e-4, abs=1e-9)
    assert built.factor_proof is not None
    assert built.proof is not None


def test_probing_a_pair_needs_no_surgery() -> None:
    """Dims that are zero show in the outputs as much as dims that are gone."""
    model = ir.from_proto(ATTENTION["encoder_of_two_blocks"]().model())
    batches, shapes = normal(model), input_shapes(model)
    for candidate in candidates(model, batches):
        gone, zero = lowered(model, shapes, candidate, 2), zeroed(model, shapes, candidate.paired(), 2)
        assert counted_cost(gone, shapes).macs < counted_cost(zero, shapes).macs
        for one, other in zip(outputs(gone, batches), outputs(zero, batches), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4 * np.abs(one).max())


@pytest.mark.parametrize("domain", ["", "com.microsoft"])
def test_heads_inside_a_fused_node_are_refused_with_the_reason(domain: str) -> None:
    net = Net(seed=3, opset=23)
    x = net.input("x", ["batch", LENGTH, 12])
    parts = [linear(net, x, 12, DIM) for _ in range(3)]
    if domain:
        y = net.op("MultiHeadAttention", *parts, num_heads=HEADS, domain=domain)
    else:
        y = net.op("Attention", *parts, q_num_heads=HEADS, kv_num_heads=HEADS)
    net.output(linear(net, str(y), DIM, DIM))
    proto = net.model()
    if domain:
        proto.opset_import.append(onnx.helper.make_opsetid(domain, 1))
    model = ir.from_proto(proto)
    (reason,) = pairs_in(model, Shadow.of(model, input_shapes(model))).refused.values()
    assert "fused node" in reason


def test_layers_get_a_pair_or_forms_of_their_own_whichever_loses_less_and_never_both(tmp_path: Path) -> None:
    model = ir.from_proto(two_layers().model())
    scope = Scope([Pairs(), registry.built("rewrites", "matrix")], Svd(), 1)
    found = candidates_in(model, Shadow.of(model, input_shapes(model)), scope, [], runtime()).candidates  # type: ignore[arg-type]
    joint = {one.name for one in found if isinstance(one, PairCandidate)}
    taken = {layer for one in found if isinstance(one, PairCandidate) for layer in one.layers}
    for weight, expected in ((1e-6, joint), (1e6, taken)):
        chosen = {one.name for one in apart(found, 0.5, dict.fromkeys(joint, weight))}
        assert chosen & (joint | taken) == expected
        assert {one.name for one in found} - joint - taken <= chosen
