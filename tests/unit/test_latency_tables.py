"""Latency tables, rooflines and forecasts, against closed forms and a runtime whose times are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from models.builder import Net

from shrinkc import target
from shrinkc.analysis.cost import CostModel
from shrinkc.analysis.groups import Analysis
from shrinkc.api import RunConfig
from shrinkc.errors import RecipeError
from shrinkc.latency import recording, roofline, table
from shrinkc.latency.layers import Layer, LayerSpec, micro_model
from shrinkc.latency.model import forecast, layers_of
from shrinkc.latency.table import Rates, Table
from shrinkc.log import Silent
from shrinkc.registry import load

SPEC = LayerSpec("Conv", (1, 0, 8, 8), (3, 3), attributes=(("pads", (1, 1, 1, 1)),))
BLOCK = 16


def ideal_seconds(model: bytes, feed: Mapping[str, np.ndarray]) -> float:
    """A runtime that computes blocks of 16 channels, one second a MAC, and takes 1000 s to start."""
    graph = onnx.load_from_string(model).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    total = 1000.0
    for node in graph.node:
        if node.op_type == "Conv":
            outputs, inputs, *kernel = stored[node.input[1]].dims
            total += -(-outputs // BLOCK) * BLOCK * -(-inputs // BLOCK) * BLOCK * np.prod(kernel) * feed["x"][0, 0].size
        elif node.op_type == "Add" and len(graph.node) == 1:
            total += 3 * 4 * feed["a"].size
    return float(total)


def branchy() -> Net:
    net = Net()
    x = net.input("x", [1, 3, 8, 8])
    a = net.cbr(x, 3, 32)
    b = net.cbr(a, 32, 64)
    c = net.relu(net.bn(net.conv(b, 64, 64, group=64, bias=False), 64))
    net.nodes[-1].output[0] = c
    net.head(c, 64)
    net.nodes[-1].output[0] = "y"
    net.output("y")
    return net


@pytest.fixture
def analysis(analysed: Callable[..., Analysis]) -> Analysis:
    return analysed(branchy())


def test_blocks_are_found_where_time_steps_up() -> None:
    assert recording.block_size(ideal_seconds) == BLOCK


@pytest.mark.parametrize("widths", [(64, 64), (40, 24), (8, 64), (17, 33), (64, 1), (0, 8)])
def test_a_table_tells_widths_it_was_not_measured_at(widths: tuple[int, int]) -> None:
    made = Table("ideal", "1", "float32", 1, {}, BLOCK, Rates(0, 0))
    made.layers[SPEC] = {point: 9.0 * 64 * point[0] * point[1] for point in table.grid(SPEC, (64, 64), BLOCK)}
    inputs, outputs = (0 if not all(widths) else max(16, -(-width // BLOCK) * BLOCK) for width in widths)
    assert made.seconds(SPEC, widths) == pytest.approx(9 * 64 * inputs * outputs)
    assert not made.missing(SPEC, (64, 64))
    assert made.missing(SPEC, (128, 64))


@pytest.mark.parametrize(("widths", "paid"), [((8, 16), (8, 16)), ((6, 3), (6, 16)), ((13, 9), (13, 16)), ((3, 20), (4, 32))])
def test_layers_narrower_than_a_block_are_told_by_quarters_of_it(widths: tuple[int, int], paid: tuple[int, int]) -> None:
    """On a runtime that pads outputs to a block, and inputs to four channels: the table learns both by measuring."""
    made = Table("ideal", "1", "float32", 1, {}, BLOCK, Rates(0, 0))
    points = table.grid(SPEC, (16, 32), BLOCK)
    made.layers[SPEC] = {point: 1e-6 * point[0] * table.multiple(point[1], BLOCK) for point in points}
    assert {point[0] for point in points} == {4, 8, 12, 16}
    assert {point[1] for point in points} == {8, 16, 32}
    assert made.seconds(SPEC, widths) == pytest.approx(1e-6 * paid[0] * paid[1])


def test_a_narrow_layer_that_is_slower_than_a_wide_one_is_told_so() -> None:
    """Kernels differ there, so what a narrow layer takes is not held against wider ones, nor the other way round."""
    made = Table("ideal", "1", "float32", 1, {}, BLOCK, Rates(0, 0))
    made.layers[SPEC] = {p: 9e-6 if p[0] < BLOCK else 1e-7 * p[0] for p in table.grid(SPEC, (32, 32), BLOCK)}
    assert made.seconds(SPEC, (8, 32)) == pytest.approx(9e-6)
    assert made.seconds(SPEC, (16, 32)) == pytest.approx(1.6e-6)


def test_layers_of_a_few_microseconds_are_measured_in_many_copies() -> None:
    """What surrounds them takes as long again and is off by a microsecond, one way or the other."""
    noise, seen = iter([0.0, 1e-6, 1e-6] * 50), []

    def seconds(model: bytes, feed: object) -> float:
        copies = sum(node.op_type == "Conv" for node in onnx.load_from_string(model).graph.node)
        seen.append(copies)
        return 5e-5 + 4e-6 * copies + next(noise)

    table_of_one = Table("noisy", "1", "float32", 1, {}, BLOCK, Rates(0, 0))
    layer = Layer(SimpleNamespace(name="conv"), SPEC, (16, 16))  # type: ignore[arg-type]
    recording.record(table_of_one, layer, seconds)
    assert table_of_one.layers[SPEC][16, 16] == pytest.approx(4e-6, rel=0.04)
    assert set(seen) == {1, recording.COPIES, recording.MANY_COPIES}


def test_depthwise_convolutions_between_blocks_are_another_kernel() -> None:
    made, spec = Table("ideal", "1", "float32", 1, {}, BLOCK, Rates(0, 0)), LayerSpec("Conv", (1, 0, 8, 8), (3, 3), 0)
    made.layers[spec] = {point: point[0] * (1.0 if point[0] % BLOCK == 0 else 3.0) for point in table.grid(spec, (96,), BLOCK)}
    assert made.seconds(spec, (40,)) == pytest.approx(120)
    assert made.seconds(spec, (48,)) == pytest.approx(48)
    assert made.seconds(spec, (64,)) == pytest.approx(64)


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = Table("ideal", "1", "float32", 1, {"processor": "p"}, BLOCK, Rates(1e-9, 2e-9), {SPEC: {(16, 16): 0.5}}, 3.0)
    table.save(made, tmp_path / "t.json")
    assert table.read(tmp_path / "t.json") == made
    (tmp_path / "bad.json").write_text('{"schema": "other"}')
    with pytest.raises(RecipeError, match="cannot be read"):
        table.read(tmp_path / "bad.json")


def test_a_forecast_is_the_sum_of_the_layers_at_the_kept_widths(analysis: Analysis) -> None:
    """With one second a MAC and nothing else the forecast is the count of MACs, whatever is kept."""

    class Unit:
        rates = Rates(1.0, 0.0)

        def seconds(self, spec: LayerSpec, widths: tuple[int, ...]) -> float:
            return float(roofline.macs_of(spec, widths))

    assert len(layers_of(analysis)) == 4
    found, cost, random = forecast(analysis, Unit()), CostModel(analysis), np.random.default_rng(0)
    for _ in range(10):
        keep = {g.name: np.flatnonzero(random.random(g.width) < 0.6) for g in analysis.groups}
        is_kept = analysis.keep_mask(keep)
        assert found.of(is_kept) == cost.of(is_kept).macs
        assert found.scaled(2.0).of(is_kept) == 2 * cost.of(is_kept).macs
    timed = cost.with_latency(found.parts).of(is_kept)
    assert timed.latency_s == timed.macs


def test_recording_measures_what_is_lacking_without_what_surrounds_it(analysis: Analysis, tmp_path: Path) -> None:
    calls: list[int] = []

    def counted(model: bytes, feed: Mapping[str, np.ndarray]) -> float:
        calls.append(1)
        return ideal_seconds(model, feed)

    def record() -> None:
        recording.record_to(tmp_path / "t.json", made, layers_of(analysis), counted, Silent(), "ideal")

    made = recording.new_table("ideal", "1", RunConfig(), counted)
    record()
    spec = layers_of(analysis)[1].spec
    assert made.layers[spec][32, 64] == pytest.approx(9 * 64 * 32 * 64)
    before = len(calls)
    record()
    assert len(calls) == before


def test_every_model_that_is_timed_has_a_batch_axis_as_engines_of_phones_want_one() -> None:
    fed: list[np.ndarray] = []

    def seconds(model: bytes, feed: Mapping[str, np.ndarray]) -> float:
        fed.extend(feed.values())
        return ideal_seconds(model, feed)

    recording.new_table("ideal", "1", RunConfig(), seconds)
    assert {len(array) for array in fed} == {1}


def test_an_interrupted_recording_keeps_the_layers_it_came_to(analysis: Analysis, tmp_path: Path) -> None:
    layers = layers_of(analysis)
    wanted = {layer.spec for layer in layers}
    assert len(wanted) > 1

    def until_the_last_layer(model: bytes, feed: Mapping[str, np.ndarray]) -> float:
        if len(made.layers) == len(wanted):
            raise KeyboardInterrupt
        return ideal_seconds(model, feed)

    made = recording.new_table("ideal", "1", RunConfig(), ideal_seconds)
    with pytest.raises(KeyboardInterrupt):
        recording.record_to(tmp_path / "t.json", made, layers, until_the_last_layer, Silent(), "ideal")
    kept = table.read(tmp_path / "t.json")
    assert set(kept.layers) < wanted
    assert not any(kept.missing(layer.spec, layer.widths) for layer in layers if layer.spec in kept.layers)


def test_micro_models_run_and_add_up() -> None:
    runtime = load("runtimes", "onnxruntime-cpu")()
    feed = {"x": np.ones((1, 8, 8, 8), np.float32)}
    specs = {
        SPEC: (8, 4),
        LayerSpec("Conv", (1, 0, 8, 8), (3, 3), 0, 2): (8,),
        LayerSpec("Conv", (1, 0, 8, 8), (3, 3), 4): (8, 4),
        LayerSpec("ConvTranspose", (1, 0, 8, 8), (2, 2), attributes=(("strides", (2, 2)),)): (8, 4),
        LayerSpec("MatMul", (1, 8, 8, 0), has_bias=False): (8, 5),
    }
    for spec, widths in specs.items():
        out = runtime.load(micro_model(spec, widths, 3), RunConfig()).run(feed)["y"]
        if spec.op_type != "MatMul":
            assert out.shape[1:] == (spec.outputs(widths), *roofline.output_size(spec))
    gemm = LayerSpec("Gemm", (2, 0), attributes=(("transB", 1),))
    assert runtime.load(micro_model(gemm, (3, 5)), RunConfig()).run({"x": np.ones((2, 3), np.float32)})["y"].shape == (2, 5)


def test_a_roofline_pays_for_arithmetic_or_traffic_and_for_whole_multiples() -> None:
    line = roofline.Roofline(1e9, 1e9, 4, 8)
    macs = 16 * 16 * 9 * 64
    assert line.seconds(SPEC, (16, 16)) == pytest.approx(macs / 1e9)
    assert line.seconds(SPEC, (9, 10)) == line.seconds(SPEC, (16, 16))
    starved = roofline.Roofline(1e15, 1e9, 4, 8)
    assert starved.seconds(SPEC, (16, 16)) == pytest.approx(4 * (2 * 16 * 64 + 16 * 16 * 9) / 1e9)


def test_a_target_without_figures_is_not_estimated() -> None:
    assert "derived" in roofline.of_target(target.load("orin-nano")).basis
    with pytest.raises(RecipeError, match="nothing is known"):
        roofline.of_target(target.load("cpu"))
