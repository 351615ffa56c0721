"""FLOP: the gates' distribution, the Lagrangian, the rewriting before and after, and runs from end to end."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from models.builder import Net
from shrinkc.passes.training.flop import Constrained, Flop, Gated
from training.lessons import blobs, context, convnet, lesson, loaded, mlp, pictures, settings

import shrinkc
from shrinkc import ir as shrinkc_ir
from shrinkc import registry
from shrinkc.api import RunConfig
from shrinkc.errors import BudgetError, RecipeError
from shrinkc.factors import Work
from shrinkc.log import Silent
from shrinkc.merging import pairs_in
from shrinkc.open_factors import OpenLayer, closed, opened
from shrinkc.opening import counted_cost
from shrinkc.rank_gates import Gates, Size
from shrinkc.report.training import lines
from shrinkc.shapes import Shadow, input_shapes
from shrinkc.training.context import Context
from shrinkc.training.hard_concrete import HardConcrete
from shrinkc.training.parametrization import Masked
from shrinkc.training.running import Trained, trained


def runtime() -> object:
    return registry.load("runtimes", "onnxruntime-cpu")()


def outputs(model: object, inputs: dict[str, np.ndarray]) -> np.ndarray:
    session = registry.load("runtimes", "onnxruntime-cpu")().load(shrinkc_ir.loadable(model), RunConfig())  # type: ignore[arg-type]
    return next(iter(session.run(inputs).values()))


def mixed_net() -> Net:
    """A convolution with groups, a strided one, a MatMul with its bias behind it, and a Gemm of each layout."""
    net = Net(seed=3)
    net.input("x", ["n", 8, 6, 6])
    y = net.relu(net.conv("x", 8, 24, group=2))
    y = net.relu(net.conv(y, 24, 16, strides=[2, 2], bias=False))
    y = str(net.op("Flatten", net.op("GlobalAveragePool", y)))
    y = net.relu(str(net.op("Add", net.op("MatMul", y, net.weight(16, 20)), net.vector(20))))
    y = net.relu(str(net.op("Gemm", y, net.weight(20, 18), net.vector(18))))
    net.output(str(net.op("Gemm", y, net.weight(9, 18), net.vector(9), transB=1)))
    return net


def row(rank: int, name: str = "layer", whole: int = 100, component: int = 4) -> OpenLayer:
    return OpenLayer(name, "first", "second", 0, 1, 1, rank, Work(whole, whole), Work(component, component))


@pytest.mark.parametrize("temperature", [1.0, 2 / 3])
def test_the_chance_of_an_open_gate_and_its_gradient_are_those_of_many_draws(temperature: float) -> None:
    family = HardConcrete(temperature)
    log_alpha = torch.tensor([-3.0, -0.5, 0.0, 2.0])
    uniform = torch.rand(400_000, 4, generator=torch.Generator().manual_seed(0))
    drawn = family.drawn(log_alpha, uniform)
    shares = (drawn > 0).double().mean(0)
    torch.testing.assert_close(shares, family.open_probability(log_alpha).double(), atol=3e-3, rtol=0)
    assert (drawn == 1).any()
    assert 0 <= float(drawn.min()) <= float(drawn.max()) <= 1


def test_a_settled_gate_is_deterministic_and_as_many_are_open_as_are_expected_to_be() -> None:
    family = HardConcrete()
    log_alpha = torch.tensor([4.0, -6.0, 0.3, -7.0, 0.5])
    expected = torch.sigmoid(log_alpha - math.log(0.1 / 1.1)).sum()
    settled = family.settled(log_alpha)
    assert int((settled > 0).sum()) == round(float(expected)) == 3
    assert settled[[1, 3]].tolist() == [0.0, 0.0]
    torch.testing.assert_close(settled[0], torch.sigmoid(torch.tensor(3.2)))
    assert torch.equal(settled, family.settled(log_alpha))
    assert int(family.kept(torch.full((4,), -20.0)).sum()) == 1  # a layer without components would be none


def test_the_expected_size_counts_a_layer_whole_above_break_even_but_its_gradient_does_not_vanish() -> None:
    size = Size([row(40), row(40, "other")], "macs", 300)
    assert size.rest == 100
    components = {"layer": torch.tensor(30.0, requires_grad=True), "other": torch.tensor(10.0, requires_grad=True)}
    share = size.expected(components)
    share.backward()
    assert share.item() == pytest.approx((100 + 100 + 40) / 300)
    for count in components.values():
        assert count.grad is not None
        assert count.grad.item() == pytest.approx(4 / 300)


def gated(folder: Path, **options: object) -> tuple[Gated, Context]:
    what = lesson(loaded(convnet(1, width=16), folder), pictures(), loaded(convnet(1, width=16), folder))
    work = Flop(**options).rewritten(what)  # type: ignore[arg-type]
    return work, context(work.lesson)


def test_a_budget_of_macs_is_a_target(tmp_path: Path) -> None:
    whole = gated(tmp_path)[0].size.total
    assert gated(tmp_path, macs="40%")[0].options.target == pytest.approx(0.4)
    assert gated(tmp_path, macs=str(int(0.7 * whole)))[0].options.target == pytest.approx(0.7, abs=1e-3)
    with pytest.raises(RecipeError, match="two answers"):
        Flop(macs="40%", quantity="parameters")
    with pytest.raises(RecipeError, match="removes nothing"):
        Flop(macs="100%")


def test_multipliers_ascend_by_the_excess_and_gates_descend_against_it(tmp_path: Path) -> None:
    work, made = gated(tmp_path, target=0.4, ramp=0.01)
    gates = Gates(work.size.layers, HardConcrete(), 0.0, 0, "cpu")
    plugin = Constrained(gates, work.size, work.options, made)
    made.done = 0.5
    plugin.after_step(made)
    for sign, target in ((1, 0.4), (-1, 0.999)):
        object.__setattr__(work.options, "target", target)
        with torch.no_grad():
            excess = float(plugin.excess())
        if sign < 0:
            with torch.no_grad():
                for value in gates.log_alpha.values():
                    value.sub_(4.0)
                excess = float(plugin.excess())
        assert excess * sign > 0
        before = {name: value.item() for name, value in plugin.multipliers.items()}
        made.parametrization = gates
        batch = plugin.on_batch(made, made.feeder.at(0, 0))
        loss = plugin.loss(made, {}, batch)
        expected = before["linear"] * excess + before["squared"] * excess**2
        assert loss.item() == pytest.approx(expected, abs=1e-7)
        loss.backward()
        assert plugin.multipliers["linear"].grad is not None
        assert plugin.multipliers["linear"].grad.item() == pytest.approx(excess, rel=1e-5)
        assert plugin.multipliers["squared"].grad is not None
        assert plugin.multipliers["squared"].grad.item() == pytest.approx(excess**2, rel=1e-5)
        plugin.on_grad(made, {})
        assert (plugin.multipliers["linear"].item() - before["linear"]) * sign > 0
        assert plugin.multipliers["squared"].item() > before["squared"]


def test_the_target_falls_linearly_and_then_stays(tmp_path: Path) -> None:
    work, made = gated(tmp_path, target=0.4, ramp=0.5)
    plugin = Constrained(Gates(work.size.layers, HardConcrete(), 0.0, 0, "cpu"), work.size, work.options, made)
    found = []
    for made.done in (0.0, 0.25, 0.5, 1.0):
        plugin.after_step(made)
        found.append(plugin.target())
    assert found == pytest.approx([1.0, 0.7, 0.4, 0.4])


def test_without_a_task_the_expected_size_goes_to_the_target() -> None:
    """Convex in the probabilities: nothing pulls on the gates but the constraint."""
    made = type("Made", (), {})()
    made.settings, made.cycle = settings(), 0
    made.world = type("One", (), {"sum_": lambda self, tensors: None})()
    size = Size([row(40), row(20, "other", component=8)], "macs", 250)
    gates = Gates(size.layers, HardConcrete(), 0.0, 0, "cpu")
    plugin = Constrained(gates, size, Flop(target=0.45), made)
    for made.step in range(400):
        made.done = made.step / 400
        plugin.after_step(made)
        plugin.on_batch(made, None)  # type: ignore[arg-type]
        plugin.loss(made, {}, None).backward()  # type: ignore[arg-type, no-untyped-call]
        plugin.on_grad(made, {})
    with torch.no_grad():
        assert float(size.expected(gates.components())) == pytest.approx(0.45, abs=0.01)


def test_the_strongest_components_begin_with_the_highest_gates_and_the_layer_as_it_was() -> None:
    gates = Gates([row(50)], HardConcrete(), 0.0, 0, "cpu")
    log_alpha = gates.log_alpha["layer"].detach()
    assert bool((log_alpha.diff() <= 0).all())
    assert float(log_alpha.std()) == pytest.approx(0.01, rel=0.3)
    weight = torch.ones(3, 50)
    settled = gates.effective("second", weight, weight > 0)
    kept = round(float(HardConcrete().open_probability(log_alpha).sum()))
    torch.testing.assert_close(settled[:, :kept], weight[:, :kept], atol=0.03, rtol=0)
    assert not settled[:, kept:].any()
    assert torch.equal(gates.effective("first", weight, weight > 0), weight)


def test_what_is_left_between_the_expected_size_and_the_target_is_made_up_by_moving_all_gates_alike() -> None:
    size = Size([row(40), row(20, "other", component=8)], "macs", 250)
    for mean in (-4.0, 4.0):
        gates = Gates(size.layers, HardConcrete(), mean, 0, "cpu")
        gates.close_in(size, 0.5)
        assert size.expected(gates.components(gates.offset)).item() == pytest.approx(0.5, abs=1e-4)
        assert gates.offset * mean < 0
        kept = {name: (gates.of(name) > 0).sum().float() for name in gates.log_alpha}
        assert float(size.expected(kept)) == pytest.approx(0.5, abs=(4 + 8) / 2 / 250)
        torch.testing.assert_close(
            gates.of("layer")[0], torch.tensor(1.0), atol=0.02, rtol=0
        )  # gates that stay are as they were


def test_drawn_gates_are_the_same_in_all_parts_of_a_step_and_new_in_the_next() -> None:
    gates = Gates([row(50)], HardConcrete(), 0.0, 7, "cpu")
    gates.draw(0, 3)
    first = gates.of("layer").detach()
    assert torch.equal(first, gates.of("layer"))
    gates.draw(0, 4)
    assert not torch.equal(first, gates.of("layer"))
    gates.settle()
    assert torch.equal(gates.of("layer"), gates.of("layer"))
    again = Gates([row(50)], HardConcrete(), 0.0, 7, "cpu")
    again.draw(0, 3)
    assert torch.equal(first, again.of("layer"))


def test_layers_opened_at_full_rank_give_what_they_gave_and_closed_whole_have_their_names_back() -> None:
    model = ir.from_proto(mixed_net().model())
    before, shapes = model.clone(), input_shapes(model)
    layers = opened(model, shapes, runtime())  # type: ignore[arg-type]
    assert len(layers) == 5
    assert len(pairs_in(model, Shadow.of(model, shapes))) >= 5
    x = {"x": np.random.default_rng(0).standard_normal((2, 8, 6, 6)).astype(np.float32)}
    expected = outputs(before, x)
    np.testing.assert_allclose(outputs(model, x), expected, atol=1e-5 * np.abs(expected).max())
    found = closed(model, shapes, layers, {layer.name: np.ones(layer.rank, bool) for layer in layers})
    assert set(found.values()) == {None}
    assert [node.name for node in model.graph] == [node.name for node in before.graph]
    assert model.graph.initializers.keys() >= {layer.first.removesuffix(".factor0") for layer in layers}
    np.testing.assert_allclose(outputs(model, x), expected, atol=1e-5 * np.abs(expected).max())
    assert counted_cost(model, shapes).macs == counted_cost(before, shapes).macs


def test_taking_away_zero_components_changes_nothing_and_costs_what_was_said() -> None:
    model = ir.from_proto(mixed_net().model())
    shapes = input_shapes(model)
    total = counted_cost(model, shapes).macs
    layers = opened(model, shapes, runtime())  # type: ignore[arg-type]
    random = np.random.default_rng(1)
    kept = {}
    for number, layer in enumerate(layers):
        share = (0.3, 0.25, 0.95, 0.2, 0.3)[number]
        kept[layer.name] = random.permutation(layer.rank) < max(1, round(share * layer.rank))
        second = model.graph.initializers[layer.second]
        stored = shrinkc_ir.stored_array(second).copy()
        np.moveaxis(stored, layer.second_axis, 0)[~kept[layer.name]] = 0
        shrinkc_ir.replace_tensor(second, stored)
    x = {"x": random.standard_normal((2, 8, 6, 6)).astype(np.float32)}
    expected = outputs(model, x)
    ranks = closed(model, shapes, layers, kept)
    assert [rank is None for rank in ranks.values()] == [False, False, True, False, False]
    np.testing.assert_allclose(outputs(model, x), expected, atol=1e-5 * np.abs(expected).max())
    size = Size(layers, "macs", total)
    said = size.expected({name: torch.tensor(float(mask.sum())) for name, mask in kept.items()})
    assert counted_cost(model, shapes).macs == round(float(said) * total)


def test_folding_the_settled_gates_changes_nothing_and_masks_what_they_leave(tmp_path: Path) -> None:
    work, made = gated(tmp_path, target=0.5)
    gates = Gates(work.size.layers, HardConcrete(), 1.0, 0, "cpu")
    with torch.no_grad():
        for number, log_alpha in enumerate(gates.log_alpha.values()):
            log_alpha.add_(2 * torch.randn(log_alpha.shape, generator=torch.Generator().manual_seed(number)))
    gates.close_in(work.size, 0.5)
    Constrained(gates, work.size, work.options, made).on_cycle_start(made)
    inputs = {"image": torch.from_numpy(pictures(8).inputs["image"])}
    made.parametrization = gates
    with torch.no_grad():
        before = next(iter(made.run(inputs).values()))
        gates.fold(made)
        made.parametrization = Masked()
        folded = next(iter(made.run(inputs).values()))
        made.masks.apply(made.tensors)
        masked = next(iter(made.run(inputs).values()))
    torch.testing.assert_close(folded, before, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(masked, before, atol=1e-6, rtol=1e-5)
    assert 0 < made.masks.density() < 1


def run(folder: Path, **given: object) -> Trained:
    what = lesson(loaded(convnet(1, width=16), folder), pictures(96), loaded(convnet(1, width=16), folder))
    return trained(what, settings(method="flop", budget="120steps", batch_norm="batch", **given), Silent())


def record(result: Trained, phase: str) -> dict[str, object]:
    return next(entry for entry in result.context.records if entry["phase"] == phase)


def test_a_run_reaches_its_target_and_the_model_written_computes_what_was_trained(tmp_path: Path) -> None:
    result = run(tmp_path, options={"target": 0.5}, learning_rate=0.01)
    assert result.error is None
    found = record(result, "ranks")
    assert found["is_met"]
    assert found["macs_after"] == counted_cost(result.model, {"image": (1, 1, 8, 8)}).macs
    assert float(found["share"]) == pytest.approx(0.5, abs=0.04)  # type: ignore[arg-type]
    data = pictures(16).inputs["image"]
    with torch.no_grad():
        expected = next(iter(result.context.run({"image": torch.from_numpy(data)}).values()))
    np.testing.assert_allclose(outputs(result.model, {"image": data}), expected, atol=1e-5)


def test_a_target_that_one_component_a_layer_does_not_reach_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="out of reach"):
        run(tmp_path, options={"target": 0.01})
    with pytest.raises(RecipeError, match="no layer"):
        run(tmp_path, options={"exclude": ("*",)})
    with pytest.raises(RecipeError, match="do not know their gates"):
        run(tmp_path, ema=0.9)
    with pytest.raises(RecipeError, match="less than 1"):
        Flop(target=1.5)


def test_a_failed_run_gives_the_model_back_as_it_was(tmp_path: Path) -> None:
    result = run(tmp_path, options={"target": 0.5}, learning_rate=1e30, momentum=0.0)
    assert result.error is not None
    before = loaded(convnet(1, width=16), tmp_path)
    data = pictures(16).inputs
    np.testing.assert_allclose(outputs(result.model, data), outputs(before, data), atol=1e-5)
    assert not record(result, "ranks")["is_met"]


def test_the_command_trains_on_labels_and_says_whether_the_target_is_met(tmp_path: Path) -> None:
    onnx.save(mlp(width=64), str(tmp_path / "m.onnx"))
    data = blobs(96)
    np.savez(tmp_path / "d.npz", labels=data.labels, **data.inputs)
    text = 'method = "flop"\nteacher = "none"\nbudget = "60steps"\nbatch = 16\nlearning_rate = 0.05\n[options]\ntarget = 0.8\n'
    (tmp_path / "r.toml").write_text(text + 'quantity = "parameters"\n')
    report = shrinkc.train(
        tmp_path / "m.onnx", recipe=tmp_path / "r.toml", data=tmp_path / "d.npz", output=tmp_path / "o.onnx", threads=1
    )
    told = "\n".join(lines(report))
    assert "Parameters: 322 before" in told
    assert "target 80.0%" in told
    assert "Masks" not in told
    written = json.loads((tmp_path / "o.training.json").read_text())
    assert written["phases"][-1]["parameters_before"] == 322
    assert registry.load("training", "flop").name == "flop"
