"""Seconds of factorised layers: against counts of multiply-accumulates, and a runtime whose times are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models.attention_topologies import ATTENTION
from models.factorable_nets import encoder, recogniser
from models.linear_layers import LAYERS, image_net
from shrinkc.passes.allocators.lagrangian import Lagrangian
from shrinkc.passes.lowrank.svd import Svd

import shrinkc
from shrinkc import deciding, devices, layer_timing, pacing, pipeline, recipe_files, registry, target, timing
from shrinkc import ir as shrinkc_ir
from shrinkc.analysis.cost import CostModel
from shrinkc.analysis.groups import Analysis, analyse
from shrinkc.api import RunConfig
from shrinkc.budget import Budget
from shrinkc.errors import BudgetError
from shrinkc.factorable import Candidate, Scope, candidates_in
from shrinkc.factored_latency import FactoredTimes, layers_of_chain
from shrinkc.latency import recording, table
from shrinkc.latency.layer_times import LayerTimes
from shrinkc.latency.layers import LayerSpec
from shrinkc.latency.model import forecast, layers_of
from shrinkc.latency.roofline import macs_of, of_target
from shrinkc.latency.table import Rates
from shrinkc.log import Silent
from shrinkc.opening import open_model
from shrinkc.rank_allocation import RankAllocating
from shrinkc.shapes import Shadow, input_shapes

FORMS = ("pointwise", "matrix", "recurrent", "embedding", "spatial", "tucker", "pairs")


class Unit:
    """One second a multiply-accumulate and so many a layer; what moves is free."""

    def __init__(self, overhead: float = 0.0) -> None:
        self.overhead = overhead
        self.rates = Rates(1.0, 0.0)

    def seconds(self, spec: LayerSpec, widths: tuple[int, ...]) -> float:
        return float(macs_of(spec, widths)) + self.overhead


def candidates(model: ir.Model, *forms: str) -> tuple[Candidate, ...]:
    scope = Scope([registry.built("rewrites", name) for name in forms or FORMS], Svd(), 1)
    runtime = registry.load("runtimes", "onnxruntime-cpu")()
    return candidates_in(model, Shadow.of(model, input_shapes(model)), scope, [], runtime).candidates


def small_recogniser() -> onnx.ModelProto:
    return recogniser(channels=8, hidden=24, classes=200, height=8, length=16).model()


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {name: lambda maker=maker: maker().model() for name, maker in LAYERS.items()}
MODELS["recogniser"] = small_recogniser
MODELS["attention"] = lambda: ATTENTION["encoder_of_two_blocks"]().model()


@pytest.mark.parametrize("name", MODELS)
def test_at_a_second_a_multiply_accumulate_every_layer_takes_as_long_as_it_has_of_them(name: str) -> None:
    model = ir.from_proto(MODELS[name]())
    times = FactoredTimes(Shadow.of(model, input_shapes(model)), Unit(), 2.0)
    found = candidates(model)
    assert found
    for candidate in found:
        assert times.whole(candidate) == 2 * candidate.dense().macs
        for rank in {1, candidate.full_rank // 2 or 1, candidate.largest_rank}:
            assert times.factored(candidate, rank) == 2 * candidate.work(rank).macs, (candidate.form.name, rank)


def test_stages_of_chains_are_layers_of_the_model_as_far_as_a_table_is_concerned() -> None:
    """The first of two products, and the convolution with the kernel, need no further measurement."""
    model = ir.from_proto(small_recogniser())
    shadow = Shadow.of(model, input_shapes(model))
    for candidate in candidates(model, "pointwise", "matrix"):
        whole = {layer.spec for layer in layers_of(_analysis(model))}
        stages = layers_of_chain(candidate, shadow)
        assert stages[0].spec in whole
        assert [stage.widths[0] for stage in stages[1:]] == [stage.widths[1] for stage in stages[:-1]]


def _analysis(model: ir.Model) -> Analysis:
    return analyse(model, input_shapes(model), registry.operator_rules())


def test_what_a_plan_is_predicted_to_take_is_what_the_built_model_is_predicted_to(tmp_path: Path) -> None:
    onnx.save(small_recogniser(), str(tmp_path / "m.onnx"))
    report = shrinkc.compress(
        tmp_path / "m.onnx", output=tmp_path / "o.onnx", method="lowrank", latency="80%", target="orin-nano",
        round_to=1, verify=False, measure_latency=False,
    )  # fmt: skip
    assert report.latency_basis.startswith("estimated")
    before, after = (
        forecast(analysis, of_target(target.load("orin-nano"))).of(analysis.keep_mask({}))
        for analysis in (_analysis(ir.load(tmp_path / file)) for file in ("m.onnx", "o.onnx"))
    )
    assert report.before.latency_s == pytest.approx(before)
    assert report.after.latency_s == pytest.approx(after)
    assert after <= 0.8 * before
    done = [row for row in report.factors if not row.reason]
    assert before - after == pytest.approx(sum(row.predicted_before_s - row.predicted_after_s for row in done))


@pytest.mark.parametrize(("target_name", "is_estimated"), [("orin-nano", True), ("android-arm64", False), ("cpu", False)])
def test_what_is_factorised_for_a_board_is_held_against_its_roofline_or_the_report_says_that_nothing_was(
    tmp_path: Path, target_name: str, is_estimated: bool
) -> None:
    onnx.save(small_recogniser(), str(tmp_path / "m.onnx"))
    report = shrinkc.compress(
        tmp_path / "m.onnx", output=tmp_path / "o.onnx", method="lowrank", macs="80%", target=target_name,
        round_to=1, verify=False, measure_latency=False,
    )  # fmt: skip
    assert (deciding.UNTIMED in report.notes) != is_estimated
    done = [row for row in report.factors if not row.reason]
    assert done
    for row in done:
        assert (row.predicted_after_s is not None) == is_estimated
        assert row.predicted_after_s is None or row.predicted_after_s < row.predicted_before_s


@pytest.mark.parametrize("quantity", ["latency_s", "macs"])
def test_a_layer_whose_factors_take_longer_stays_whole_whatever_the_budget_is_of(
    analysed: Callable[..., Analysis], quantity: str
) -> None:
    analysis = analysed(encoder(layers=1, width=32, heads=2, tokens=6, vocabulary=80))
    found = candidates(analysis.model, "matrix")
    # Another node costs as much as what an attention's products could save, but not what those of the MLP do.
    overhead = max(one.dense().macs - one.work(1).macs for one in found if one.site.inputs == one.site.outputs)
    times = Unit(overhead)
    parts = forecast(analysis, times)
    cost = CostModel(analysis).with_latency(parts.parts)
    factored = FactoredTimes(analysis.shadow, times)
    problem = RankAllocating(analysis, cost, Lagrangian(), found, quantities=(quantity,), times=factored)
    share = getattr(problem.at(1.0).cost, quantity) / getattr(cost.dense(), quantity)
    chosen = problem.within([Budget(quantity, (1 + share) / 2, is_relative=True)])
    assert chosen.ranks
    by_name = {one.name: one for one in found}
    assert all(by_name[step.layer].site.inputs != by_name[step.layer].site.outputs for step in chosen.ranks)
    saved = sum(
        factored.whole(by_name[step.layer]) - factored.factored(by_name[step.layer], step.rank) for step in chosen.ranks
    )
    assert chosen.cost.latency_s == pytest.approx(cost.dense().latency_s - saved)  # type: ignore[operator]


def ideal_timer(overhead: float, calls: list[int]) -> recording.Timer:
    """A runtime that takes a microsecond per thousand multiply-accumulates and so many seconds a layer."""

    def seconds(model: bytes, feed: Mapping[str, np.ndarray]) -> float:
        calls.append(1)
        graph = onnx.load_from_string(model).graph
        stored = {tensor.name: tensor for tensor in graph.initializer}
        total = 1e-5
        for node in graph.node:
            if node.op_type in ("Conv", "Gemm", "MatMul"):
                rows = feed["x"].size / feed["x"].shape[1 if node.op_type == "Conv" else -1]
                total += 1e-9 * rows * np.prod(stored[node.input[1]].dims) + overhead
        return float(total)

    return seconds


@pytest.fixture
def ideal(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Runs of layers on a runtime whose times are known; whole models are measured to take 70 % of theirs."""
    calls: list[int] = []
    monkeypatch.setattr(recording, "timer_of", lambda runtime, config: ideal_timer(2e-8, calls))
    monkeypatch.setattr(recording, "least_seconds", lambda *rest: 1e-3)
    monkeypatch.setattr(pacing, "share", lambda *rest: 0.7)
    monkeypatch.setattr(pipeline, "missed", lambda *rest: "")
    monkeypatch.setattr(layer_timing, "time_layers", lambda *rest: LayerTimes(2e-3, 1e-3))
    return calls


@pytest.mark.parametrize(("method", "runs"), [("lowrank", 2), ("auto", 1)])
def test_a_budget_of_time_is_met_by_ranks_as_well_and_a_second_run_measures_nothing(
    ideal: list[int], tmp_path: Path, method: str, runs: int
) -> None:
    path = encoder(layers=1, width=32, heads=2, tokens=6, vocabulary=80).save(tmp_path / "m.onnx")
    options = {"method": method, "speedup": 1.4, "round_to": 1, "latency_cache": tmp_path / "cache", "verify": False}
    plans, calls = set(), []
    for number in range(runs):
        plan = tmp_path / f"{number}.json"
        report = shrinkc.compress(path, output=tmp_path / "o.onnx", save_plan=plan, **options)  # type: ignore[arg-type]
        assert report.latency_basis.startswith("measured")
        assert report.before.latency_s == pytest.approx(1e-3)
        assert report.after.latency_s is not None
        assert report.after.latency_s <= 1e-3 / 1.4
        assert report.latency is not None
        plans.add(plan.read_text())
        calls.append(len(ideal))
    assert len(plans) == len(set(calls)) == 1


def test_a_table_that_does_not_know_the_factors_of_a_layer_leaves_it_whole_and_says_so(tmp_path: Path) -> None:
    net, x = image_net(), "x"
    for inputs, outputs in ((6, 24), (24, 24)):
        x = net.relu(net.conv(x, inputs, outputs))
    net.output(str(net.op("MatMul", net.op("ReduceMean", x, axes=[2, 3], keepdims=0), net.weight(24, 24))))
    path = net.save(tmp_path / "m.onnx")
    made = recording.new_table("ideal", "1", RunConfig(), ideal_timer(0.0, []))
    for layer in layers_of(_analysis(ir.from_proto(net.model()))):
        recording.record(made, layer, ideal_timer(0.0, []))
    table.save(made, tmp_path / "t.json")
    options = {"latency_table": tmp_path / "t.json", "round_to": 1, "measure_latency": False, "verify": False}
    with pytest.raises(BudgetError, match="stay whole") as caught:
        shrinkc.compress(path, output=tmp_path / "o.onnx", method="lowrank", latency="50%", **options)  # type: ignore[arg-type]
    assert "does not know its factors" in caught.value.because
    report = shrinkc.compress(path, output=tmp_path / "o.onnx", method="auto", latency="70%", **options)  # type: ignore[arg-type]
    assert {row.form for row in report.factors if not row.reason} <= {"matrix"}
    assert any("does not know its factors" in row.reason for row in report.factors)


def test_a_table_recorded_with_forms_prices_layers_in_them(ideal: list[int], tmp_path: Path) -> None:
    net, x = image_net(), "x"
    for inputs, outputs in ((6, 24), (24, 24)):
        x = net.relu(net.conv(x, inputs, outputs))
    net.output(str(net.op("ReduceMean", x, axes=[2, 3], keepdims=0)))
    path = net.save(tmp_path / "m.onnx")
    devices.calibrate("cpu", [path], tmp_path / "t.json", forms=["pointwise", "pairs"])
    report = shrinkc.compress(
        path, output=tmp_path / "o.onnx", method="lowrank", latency="60%", latency_table=tmp_path / "t.json", round_to=1,
        measure_latency=False, verify=False,
    )  # fmt: skip
    assert [row.form for row in report.factors if not row.reason]
    assert report.latency_basis.startswith("recorded")
    assert report.after.latency_s is not None
    assert report.after.latency_s <= 0.6 * report.before.latency_s  # type: ignore[operator]


def test_times_of_layers_that_only_factors_have_are_kept_for_the_next_run(ideal: list[int], tmp_path: Path) -> None:
    onnx.save(small_recogniser(), str(tmp_path / "m.onnx"))
    graph, runtime = shrinkc_ir.load(tmp_path / "m.onnx"), registry.load("runtimes", "onnxruntime-cpu")()
    opened = open_model(tmp_path / "m.onnx", recipe_files.resolve(), None, graph, Silent())
    chosen = candidates(opened.model, "pointwise")
    further = [layer for one in chosen for layer in layers_of_chain(one, opened.analysis.shadow)]
    counts = []
    for _ in range(2):
        sources = timing.Sources(None, tmp_path / "cache")
        found = timing.timed(opened, target.load("cpu"), runtime, RunConfig(threads=1), sources, Silent())
        counts.append(len(ideal))
        assert not found.extend(further)
        counts.append(len(ideal))
    assert counts[0] < counts[1] == counts[2] == counts[3]
