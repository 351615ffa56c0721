from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from models.builder import Net
from models.linear_layers import LAYERS, correlated, normalised_conv, plain_conv, row_net, table
from shrinkc.passes.lowrank.bn_svd import BatchNormSvd
from shrinkc.passes.lowrank.svd import Svd
from shrinkc.passes.lowrank.whitened_svd import WhitenedSvd

from shrinkc import ir as shrinkc_ir
from shrinkc import registry
from shrinkc.api import RunConfig
from shrinkc.errors import VerificationError
from shrinkc.evidence.responses import Batches
from shrinkc.factor_proof import prove_factors
from shrinkc.factorable import Candidate, Found, Scope, candidates_in
from shrinkc.factors import Factorization
from shrinkc.lowrank import factorised
from shrinkc.plan import Rank
from shrinkc.shapes import Shadow, input_shapes

FORMS = ("matrix", "pointwise", "embedding")


def runtime() -> object:
    return registry.load("runtimes", "onnxruntime-cpu")()


def model_of(net: Net) -> ir.Model:
    return ir.from_proto(net.model())


def batches_for(model: ir.Model, n: int = 6, seed: int = 0) -> Batches:
    shapes = input_shapes(model)
    return [{name: correlated((n, *shape[1:]), seed) for name, shape in shapes.items()}]


def found_in(
    model: ir.Model, method: Factorization, batches: Batches, forms: tuple[str, ...] = FORMS, round_to: int = 1
) -> Found:
    scope = Scope(tuple(registry.built("rewrites", name) for name in forms), method, round_to)
    return candidates_in(model, Shadow.of(model, input_shapes(model)), scope, batches, runtime())


def only(model: ir.Model, method: Factorization, batches: Batches, forms: tuple[str, ...] = FORMS) -> Candidate:
    (candidate,) = found_in(model, method, batches, forms).candidates
    return candidate


def at_rank(model: ir.Model, candidate: Candidate, rank: int, batches: Batches) -> ir.Model:
    step = Rank(candidate.name, candidate.form.name, rank)
    return factorised(model, input_shapes(model), [step], [candidate], batches, runtime(), 0).model


def outputs(model: ir.Model, batches: Batches) -> np.ndarray:
    session = runtime().load(shrinkc_ir.loadable(model), RunConfig())
    return np.concatenate([next(iter(session.run(batch).values())) for batch in batches]).astype(np.float64)


@pytest.mark.parametrize("method", [Svd(), BatchNormSvd(), WhitenedSvd()], ids=lambda method: method.name)
@pytest.mark.parametrize("maker", LAYERS.values(), ids=LAYERS)
def test_at_full_rank_the_rewritten_layer_gives_what_the_layer_gave(maker: Callable[[], Net], method: Factorization) -> None:
    model = model_of(maker())
    batches = batches_for(model)
    candidate = only(model, method, batches)
    built = at_rank(model, candidate, candidate.full_rank, batches)
    elsewhere = batches_for(model, seed=5)
    expected = outputs(model, elsewhere)
    assert np.abs(outputs(built, elsewhere) - expected).max() < 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize("method", [Svd(), WhitenedSvd()], ids=lambda method: method.name)
@pytest.mark.parametrize("maker", [m for m in LAYERS.values() if m is not normalised_conv], ids=lambda maker: maker.__name__)
def test_at_any_lower_rank_the_error_is_the_predicted_one(maker: Callable[[], Net], method: Factorization) -> None:
    """Run both models, without the code that predicts or measures."""
    model = model_of(maker())
    batches = batches_for(model)
    candidate = only(model, method, batches)
    expected = outputs(model, batches)
    axis = candidate.site.channel_axis % expected.ndim
    about = expected.mean(tuple(a for a in range(expected.ndim) if a != axis), keepdims=True)
    energy = np.square(expected - (about if candidate.layer.can_shift else 0)).sum()
    for rank in (1, candidate.full_rank // 2, candidate.full_rank - 1):
        lost = np.square(outputs(at_rank(model, candidate, rank, batches), batches) - expected).sum() / energy
        assert lost == pytest.approx(candidate.errors[rank], rel=1e-4)


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_the_input_matrices_of_a_recurrent_layer_are_split_out_exactly(kind: str, gates: int) -> None:
    net = Net()
    net.input("x", [7, "n", 10])
    parts = [net.weight(2, gates * 6, size) for size in (10, 6)]
    y, last = net.op(
        kind,
        "x",
        *parts,
        net.const(np.zeros((2, 2 * gates * 6), np.float32)),
        outputs=2,
        hidden_size=6,
        direction="bidirectional",
    )
    net.output(y)
    net.output(last)
    model = model_of(net)
    batches = [{"x": correlated((7, 4, 10))}]
    found = found_in(model, WhitenedSvd(), batches, ("recurrent",))
    (candidate,) = found.candidates
    assert "recurrent matrices" in found.whole[0].layer
    whole = at_rank(model, candidate, 10 if gates > 1 else candidate.full_rank, batches)
    session, other = (runtime().load(shrinkc_ir.loadable(one), RunConfig()) for one in (model, whole))
    for name, expected in session.run(batches[0]).items():
        assert np.abs(other.run(batches[0])[name] - expected).max() < 1e-5
    step = [Rank(candidate.name, "recurrent", 3)]
    built = factorised(model, input_shapes(model), step, [candidate], batches, runtime(), 0)
    assert built.measured[candidate.name] == pytest.approx(candidate.errors[3], rel=1e-4)
    proof = prove_factors(model, built.model, [candidate.name], input_shapes(model), runtime())
    assert max(trial.error for trial in proof.trials) <= 1


def recurrent_net(kind: str, gates: int, *, has_bias: bool) -> ir.Model:
    net = Net()
    net.input("x", [7, "n", 10])
    parts = [net.weight(2, gates * 6, size) for size in (10, 6)]
    biases = [net.const(net.random.standard_normal((2, 2 * gates * 6)).astype(np.float32) / 3, "biases")] if has_bias else []
    net.output(net.op(kind, "x", *parts, *biases, outputs=2, hidden_size=6, direction="bidirectional")[0])
    return model_of(net)


@pytest.mark.parametrize(("kind", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_biases_of_a_recurrent_layer_take_up_the_mean_that_its_input_matrices_lose(kind: str, gates: int) -> None:
    """Stored biases and outputs by hand: the first half of each direction's moves by ``(W - W_r) mean(x)``, no other."""
    model = recurrent_net(kind, gates, has_bias=True)
    batches = [{"x": correlated((7, 40, 10)) + np.linspace(-2, 2, 10, dtype=np.float32)}]
    candidate = only(model, WhitenedSvd(), batches, ("recurrent",))
    built = at_rank(model, candidate, 2, batches)
    weight, before = (shrinkc_ir.stored_array(model.graph.initializers[name]) for name in ("c0", "biases"))
    factors = [shrinkc_ir.stored_array(value) for value in built.graph.initializers.values() if value.name != "biases"]
    inner = next(array for array in factors if array.shape == (10, 2))
    outer = next(array for array in factors if array.shape == (2, gates * 6, 2))
    lost = (weight - outer @ inner.T) @ batches[0]["x"].mean((0, 1))
    moved = shrinkc_ir.stored_array(built.graph.initializers["biases"]) - before
    np.testing.assert_allclose(moved[:, : gates * 6], lost, atol=1e-4)
    assert not moved[:, gates * 6 :].any()
    proof = prove_factors(model, built, [candidate.name], input_shapes(model), runtime())
    assert max(trial.error for trial in proof.trials) <= 1


def test_without_biases_a_recurrent_layer_loses_more() -> None:
    shifted = [{"x": correlated((7, 40, 10)) + np.linspace(-2, 2, 10, dtype=np.float32)}]

    def lost(has_bias: bool) -> float:
        model = recurrent_net("LSTM", 4, has_bias=has_bias)
        candidate = only(model, Svd(), shifted, ("recurrent",))
        assert candidate.layer.can_shift is has_bias
        return float(np.square(outputs(at_rank(model, candidate, 3, shifted), shifted) - outputs(model, shifted)).mean())

    assert lost(True) < 0.7 * lost(False)


SPLIT = [LAYERS[name] for name in ("plain_conv", "strided_conv", "dilated_conv", "same_conv")]


@pytest.mark.parametrize("form", ["spatial", "tucker"])
@pytest.mark.parametrize("has_data", [False, True], ids=["weights", "data"])
@pytest.mark.parametrize("maker", SPLIT, ids=lambda maker: maker.__name__)
def test_convolutions_split_in_other_ways_are_exact_at_full_rank_and_as_predicted_below(
    maker: Callable[[], Net], has_data: bool, form: str
) -> None:
    model = model_of(maker())
    batches = batches_for(model)
    candidate = only(model, WhitenedSvd() if has_data else Svd(), batches if has_data else [], (form,))
    expected = outputs(model, batches)
    whole = outputs(at_rank(model, candidate, candidate.full_rank, batches), batches)
    assert np.abs(whole - expected).max() < 1e-4 * np.abs(expected).max()
    step = [Rank(candidate.name, form, candidate.full_rank // 3)]
    built = factorised(model, input_shapes(model), step, [candidate], batches if has_data else [], runtime(), 0)
    assert built.measured[candidate.name] == pytest.approx(candidate.error(candidate.full_rank // 3), rel=1e-4)


def test_whitened_errors_are_the_squared_singular_values_of_the_weight_in_the_inputs_metric() -> None:
    """SVD of ``M chol(S)``, with ``S`` from rows gathered by hand; no rank does better than the tail of its squares."""
    net = row_net()
    net.output(str(net.op("Gemm", "x", net.weight(9, 12), net.vector(9), transB=1)))
    model = model_of(net)
    batches = batches_for(model, 400)
    candidate = only(model, WhitenedSvd(), batches)
    rows = batches[0]["x"].astype(np.float64)
    root = np.linalg.cholesky(np.cov(rows.T, bias=True))
    values = np.square(np.linalg.svd(candidate.layer.weight[0] @ root, compute_uv=False))
    tails = np.append(np.cumsum(values[::-1])[::-1], 0.0) / values.sum()
    assert candidate.errors == pytest.approx(tails, rel=1e-6, abs=1e-12)
    plain = only(model, Svd(), batches)
    assert (candidate.errors <= plain.errors + 1e-12).all()
    assert candidate.errors[4] < 0.8 * plain.errors[4]


@pytest.mark.parametrize("maker", [m for m in LAYERS.values() if m is not normalised_conv], ids=lambda maker: maker.__name__)
def test_at_no_rank_do_whitened_factors_lose_more_than_plain_ones(maker: Callable[[], Net]) -> None:
    """Errors that the runtime has, of the samples the factors were found on; where inputs are correlated, clearly less."""
    model = model_of(maker())
    batches = batches_for(model)
    whitened, plain = (only(model, method, batches) for method in (WhitenedSvd(), Svd()))
    assert (whitened.errors <= plain.errors * (1 + 1e-9) + 1e-12).all()
    rank, expected = whitened.full_rank // 2, outputs(model, batches)
    lost = [np.square(outputs(at_rank(model, one, rank, batches), batches) - expected).sum() for one in (whitened, plain)]
    assert lost[0] <= lost[1] * (1 + 1e-6)
    assert maker is table or lost[0] < 0.95 * lost[1]


def test_more_outputs_than_inputs_give_the_same_errors_either_way() -> None:
    """Moments of the inputs where they are fewer; the outputs' own say the same."""
    net = row_net()
    net.output(str(net.op("Gemm", "x", net.weight(30, 12), net.vector(30), transB=1)))
    model = model_of(net)
    batches = batches_for(model, 400)
    candidate = only(model, WhitenedSvd(), batches)
    assert candidate.layer.inputs is not None
    spectrum = np.linalg.eigvalsh(np.cov(outputs(model, batches).T, bias=True))[::-1][:12]
    tails = np.append(np.cumsum(spectrum[::-1])[::-1], 0.0) / spectrum.sum()
    assert candidate.errors == pytest.approx(tails, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize(("inputs", "outputs_"), [(1100, 12), (12, 1100)])
def test_errors_of_wide_matrices_that_are_nearly_of_low_rank_are_the_predicted_ones(inputs: int, outputs_: int) -> None:
    """A millionth of the energy is lost: beside it, sums of squares in single precision would have no digit to spare."""
    random = np.random.default_rng(0)
    weight = random.normal(size=(outputs_, 3)) @ random.normal(size=(3, inputs)) + 1e-3 * random.normal(size=(outputs_, inputs))
    net = Net()
    net.input("x", ["n", inputs])
    net.output(str(net.op("Gemm", "x", net.const(weight.astype(np.float32)), net.vector(outputs_), transB=1)))
    model = model_of(net)
    batches = [{"x": random.standard_normal((4000, inputs)).astype(np.float32) + 3}]
    candidate = only(model, WhitenedSvd(), batches)
    expected = outputs(model, batches)
    lost = np.square(outputs(at_rank(model, candidate, 3, batches), batches) - expected).sum()
    assert lost / np.square(expected - expected.mean(0)).sum() == pytest.approx(candidate.errors[3], rel=1e-3)


def test_rectified_factors_lose_least_behind_the_normalisation() -> None:
    model = model_of(normalised_conv())
    batches = batches_for(model)
    expected = outputs(model, batches)

    def lost(method: Factorization, rank: int) -> float:
        candidate = only(model, method, [])
        step = [Rank(candidate.name, "pointwise", rank)]
        built = factorised(model, input_shapes(model), step, [candidate], [], runtime(), 0)
        weight = candidate.as_matrix(sum_of(built))
        return float(np.square((candidate.layer.weight - weight) * candidate.layer.gain[:, :, None]).sum())

    assert expected.shape[1] == 12
    assert all(lost(BatchNormSvd(), rank) < lost(Svd(), rank) for rank in (2, 5, 8))


def sum_of(built: object) -> np.ndarray:
    from shrinkc.stages import composed

    (chain,) = built.chains.values()  # type: ignore[attr-defined]
    return composed(chain.stages)[0]


def test_no_rank_reaches_the_break_even_point_and_all_are_multiples() -> None:
    net = plain_conv()
    model = model_of(net)
    for step, largest in ((1, 9), (4, 8), (8, 8)):  # 12 * 54 / (12 + 54) = 9.8
        (candidate,) = found_in(model, Svd(), [], round_to=step).candidates
        assert candidate.largest_rank == largest
        assert candidate.work(largest).macs < candidate.dense().macs
    (whole,) = found_in(model, Svd(), [], round_to=16).whole
    assert "below the channel multiple" in whole.reason


def test_layers_that_cannot_be_factorised_say_why() -> None:
    net = Net()
    net.input("x", ["n", 8, 6, 6])
    shared = net.weight(8, 8, 1, 1)
    twice = net.op("Conv", net.op("Conv", "x", shared), shared)
    net.output(net.conv(str(twice), 8, 8, group=8))
    found = found_in(model_of(net), Svd(), [])
    assert not found.candidates
    reasons = [whole.reason for whole in found.whole]
    assert sum("shared" in reason for reason in reasons) == 2
    assert sum("every group reads one channel" in reason for reason in reasons) == 1


def test_names_are_derived_and_the_rest_of_the_graph_is_left_alone() -> None:
    net = Net()
    net.input("x", ["n", 6, 9, 8])
    net.output(net.head(net.cbr(net.conv("x", 6, 12), 12, 8), 8))
    model = model_of(net)
    candidate = found_in(model, Svd(), []).candidates[0]
    built = at_rank(model, candidate, 4, [])
    names = [node.name for node in built.graph]
    assert names[:3] == ["Conv_0.factor0", "Conv_0.factor1", "Conv_1"]
    assert {"c0.factor0", "c0.factor1"} <= set(built.graph.initializers)
    assert "c0" not in built.graph.initializers
    assert built.graph.node(1).outputs[0].name == candidate.name
    assert built.graph.node(1).inputs[2].name == "c1"  # the bias is the one there was
    assert len(model.graph.initializers["c0"].uses()) == 1  # the original stays as it was


def test_layers_that_read_each_other_directly_are_replaced_together() -> None:
    net = Net()
    net.input("x", ["n", 6, 9, 8])
    net.output(net.conv(net.conv(net.conv("x", 6, 12), 12, 10), 10, 8))
    model = model_of(net)
    found = found_in(model, Svd(), [])
    steps = [Rank(one.name, "pointwise", 5) for one in found.candidates]
    built = factorised(model, input_shapes(model), steps, found.candidates, [], runtime(), 0).model
    assert len(steps) == 3
    assert [node.op_type for node in built.graph] == ["Conv"] * 6
    proof = prove_factors(model, built, [step.layer for step in steps], input_shapes(model), runtime())
    assert max(trial.error for trial in proof.trials) <= 1


def test_the_proof_fails_where_a_stride_got_lost() -> None:
    net = Net()
    net.input("x", ["n", 6, 9, 8])
    net.output(net.head(net.conv("x", 6, 12, strides=[2, 2]), 12))
    model = model_of(net)
    shapes, candidate = input_shapes(model), found_in(model, Svd(), []).candidates[0]
    built = at_rank(model, candidate, 6, [])
    proof = prove_factors(model, built, [candidate.name], shapes, runtime())
    assert proof.layers == 1
    assert {trial.weights for trial in proof.trials} == {"real", "redrawn"}
    assert max(trial.effect for trial in proof.trials) > 1
    built.graph.node(0).attributes["strides"] = ir.AttrInt64s("strides", [1, 1])
    with pytest.raises(VerificationError, match="does not equal"):
        prove_factors(model, built, [candidate.name], shapes, runtime())
