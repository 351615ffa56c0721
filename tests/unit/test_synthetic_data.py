"""Made-up inputs have the statistics that the model asks for; the formulas are checked against the layer itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from models.builder import INT64, Net
from onnx import TensorProto, numpy_helper

from shrinkc import ir as shrinkc_ir
from shrinkc.errors import CalibrationError
from shrinkc.evidence import data as evidence_data
from shrinkc.evidence import first_layer, smooth_noise
from shrinkc.evidence.input_fit import Response, colours_of
from shrinkc.evidence.synthetic import synthesise
from shrinkc.shapes import input_shapes

OUTPUTS = 24


def photographs(n: int, channels: int, shape: tuple[int, ...], seed: int = 1) -> np.ndarray:
    """Smooth images with edges, channels that go together, and a colour cast; not of the family that is fitted."""
    generator = np.random.default_rng(seed)
    shared = smooth_noise.fields(n, shape, 0.8, generator) + np.sign(smooth_noise.fields(n, shape, 2.0, generator))
    own = np.stack([smooth_noise.fields(n, shape, 1.3, generator) for _ in range(channels)], 1)
    ends = (1,) * len(shape)
    casts, spreads = generator.uniform(-1, 1, (channels, *ends)), generator.uniform(0.5, 2, (channels, *ends))
    return ((0.7 * shared[:, None] + 0.4 * own) * spreads + casts).astype(np.float32)


def outputs(model: onnx.ModelProto, name: str, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    found: np.ndarray = session.run([name], {"x": x})[0]
    return found


def statistics(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    axes = (0, *range(2, y.ndim))
    return y.mean(axes, dtype=np.float64), y.var(axes, dtype=np.float64)


def trained(net: Net, wide: str, channels: int, x: np.ndarray) -> onnx.ModelProto:
    """The net with a BatchNormalization behind ``wide`` that has seen the samples."""
    parts = [net.vector(channels), net.vector(channels), net.vector(channels, "mean"), net.vector(channels, "variance")]
    net.output(net.op("BatchNormalization", wide, *parts))
    net.output(wide)
    model = net.model()
    found = dict(zip(("mean", "variance"), statistics(outputs(model, wide, x)), strict=True))
    for tensor in model.graph.initializer:
        if tensor.name in found:
            tensor.CopyFrom(numpy_helper.from_array(found[tensor.name].astype(np.float32), tensor.name))
    return model


def opened(model: onnx.ModelProto, folder: Path) -> ir.Model:
    onnx.save(model, str(folder / "model.onnx"))
    return shrinkc_ir.load(folder / "model.onnx")


def distance(y: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    """How far the statistics of outputs are from the wanted outputs': means in deviations, and logarithms of variances."""
    (mean, variance), (mean_0, variance_0) = statistics(y), statistics(wanted)
    return (
        float(np.sqrt(((mean - mean_0) ** 2 / variance_0).mean())),
        float(np.sqrt((np.log(variance / variance_0) ** 2).mean())),
    )


# One linear layer, as exporters write it.


def conv(net: Net, x: str, **options: Any) -> str:
    return net.conv(x, 3, OUTPUTS, bias=False, **options)


def conv_with_everything(net: Net, x: str) -> str:
    scaled = net.op(
        "Div", net.op("Sub", x, net.const(np.float32([0.3, 0.1, 0.2]).reshape(1, 3, 1, 1))), net.const(np.float32(0.3))
    )
    padded = net.op("Pad", net.op("Identity", scaled), net.ints(0, 0, 1, 0, 0, 0, 1, 2))
    wide = net.conv(padded, 3, OUTPUTS, 5, pads=[0, 1, 2, 0], strides=[2, 1])
    return net.op(
        "Mul",
        net.op("Add", wide, net.const(net.random.normal(size=(OUTPUTS, 1, 1)).astype(np.float32))),
        net.const(np.float32(0.1)),
    )


def conv_from_nhwc(net: Net, x: str) -> str:
    shifted = net.op("Sub", net.const(np.float32(1)), net.op("Add", x, net.const(np.float32([0.5, -0.5, 1]))))
    return conv(net, net.op("Transpose", shifted, perm=[0, 3, 1, 2]), pads=None, auto_pad="SAME_LOWER", strides=[2, 2])


def grouped(net: Net, x: str) -> str:
    return net.conv(x, 3, OUTPUTS, 3, group=3, dilations=[2, 1], pads=[2, 1, 2, 1])


def audio(net: Net, x: str) -> str:
    return net.op("Conv", x, net.weight(OUTPUTS, 2, 9), kernel_shape=[9], pads=[4, 4], strides=[3])


LAYERS: dict[str, tuple[Callable[[Net, str], str], tuple[int, ...]]] = {
    "conv": (conv, (3, 20, 20)),
    "conv_on_few_pixels": (conv, (3, 6, 6)),
    "conv_with_everything": (conv_with_everything, (3, 14, 18)),
    "conv_from_nhwc": (conv_from_nhwc, (17, 20, 3)),
    "grouped": (grouped, (3, 16, 16)),
    "audio": (audio, (2, 200)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_statistics_of_the_first_layer_are_met_where_normal_inputs_miss_them(name: str, tmp_path: Path) -> None:
    build, shape = LAYERS[name]
    net = Net()
    wide = build(net, net.input("x", ["n", *shape]))
    spatial, channels = (shape[1:], shape[0]) if name != "conv_from_nhwc" else (shape[:-1], shape[-1])
    real = photographs(64, channels, spatial)
    real = real if name != "conv_from_nhwc" else real.transpose(0, 2, 3, 1)
    model = trained(net, wide, OUTPUTS, real)
    made = synthesise(opened(model, tmp_path), {"x": (1, *shape)}, 64, seed=0).inputs["x"]
    wanted = outputs(model, wide, real)
    mean, variance = distance(outputs(model, wide, made), wanted)
    normal = np.random.default_rng(0).standard_normal(made.shape).astype(np.float32)
    mean_normal, variance_normal = distance(outputs(model, wide, normal), wanted)
    assert mean < 0.05 < 0.2 < mean_normal
    assert variance < 0.3
    assert variance < variance_normal / 2


SMALL = {"conv_from_nhwc": (7, 6, 3), "audio": (2, 30)}


def as_matrix(model: onnx.ModelProto, wide: str, layer: first_layer.FirstLayer, shape: tuple[int, ...]) -> np.ndarray:
    """What the layer makes of one value: shape (channels, places, outputs, places of the output)."""
    size = int(np.prod(shape))
    impulses = np.concatenate([np.zeros((1, size)), np.eye(size)]).reshape(-1, *shape).astype(np.float32)
    y = outputs(model, wide, impulses).astype(np.float64)
    found = (y[1:] - y[0]).reshape(*shape, OUTPUTS, -1)
    found = np.moveaxis(found, [axis - 1 for axis in layer.axes[1:]], range(len(shape)))
    found = found.reshape(len(found), -1, *found.shape[-2:])
    return found / np.broadcast_to(layer.gain, len(found))[:, None, None, None]


@pytest.mark.parametrize("name", LAYERS)
def test_predicted_responses_are_those_of_the_layer(name: str, tmp_path: Path) -> None:
    """Brute force: the layer as a matrix, from unit impulses; noise as its covariance matrix."""
    shape = SMALL.get(name, (3, 7, 6))
    net = Net()
    wide = LAYERS[name][0](net, net.input("x", ["n", *shape]))
    model = trained(net, wide, OUTPUTS, np.random.default_rng(0).standard_normal((4, *shape)).astype(np.float32))
    layer = first_layer.find(opened(model, tmp_path).graph.inputs[0], (1, *shape))
    assert layer is not None
    assert layer.linear is not None
    after = 0.1 if name == "conv_with_everything" else 1  # the factor behind the layer is taken out of the statistics
    matrix = as_matrix(model, wide, layer, shape) / after
    channels, *spatial = (shape[axis - 1] for axis in layer.axes[1:])

    response = Response(layer.linear)
    np.testing.assert_allclose(response.of_constants(), matrix.sum(1).mean(-1).T, atol=1e-5)
    mean = np.arange(1, channels + 1) / 2
    np.testing.assert_allclose(response.of_borders(mean), np.einsum("c,cpoq->oq", mean, matrix).var(1), atol=1e-4)
    places = np.stack(np.unravel_index(np.arange(int(np.prod(spatial))), spatial), 1)
    lags = tuple(np.moveaxis((places[:, None] - places[None]) % np.asarray(spatial), 2, 0))
    for exponent in (0.0, 1.0):
        covariance = smooth_noise.autocorrelation(tuple(spatial), exponent)[lags]
        for colour in colours_of(channels)[:: channels + 1]:
            filters = np.einsum("c,cpoq->poq", colour, matrix)
            expected = (filters * np.tensordot(covariance, filters, 1)).sum(0).mean(1)
            np.testing.assert_allclose(response.of_noise(colour, exponent), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(9,), (8, 7), (4, 5, 6)])
@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_noise_has_the_correlation_it_is_said_to_have(shape: tuple[int, ...], exponent: float) -> None:
    found = smooth_noise.fields(4000, shape, exponent, np.random.default_rng(0))
    assert abs(found.mean()) < 1e-6
    assert found.var() == pytest.approx(1)
    expected = smooth_noise.autocorrelation(shape, exponent)
    assert expected.flat[0] == pytest.approx(1)
    axes = tuple(range(1, 1 + len(shape)))
    for lag in np.ndindex(*(min(3, size) for size in shape)):
        measured = (found * np.roll(found, lag, axes)).mean()
        assert measured == pytest.approx(expected[lag], abs=0.02)


def test_the_amplitude_falls_like_one_over_the_frequency() -> None:
    power = smooth_noise.power((64, 64), 1.0)
    assert power[2, 0] / power[4, 0] == pytest.approx(4)
    assert power[3, 4] / power[6, 8] == pytest.approx(4)


def test_what_the_border_does_to_a_bright_image_is_not_taken_for_noise(tmp_path: Path) -> None:
    net = Net()
    wide = conv(net, net.input("x", ["n", 3, 6, 6]))
    real = (0.2 * np.random.default_rng(0).standard_normal((400, 3, 6, 6)) + 3).astype(np.float32)
    made = synthesise(opened(trained(net, wide, OUTPUTS, real), tmp_path), {"x": (1, 3, 6, 6)}, 400, seed=0).inputs["x"]
    np.testing.assert_allclose(made.std((0, 2, 3)), 0.2, rtol=0.1)
    np.testing.assert_allclose(made.mean((0, 2, 3)), 3, rtol=0.01)


# Statistics of the input itself.


def changed(net: Net, x: str) -> str:
    flipped = net.op("Sub", net.const(np.float32([1, 2, 3])), x)
    return net.op("Transpose", net.op("Mul", flipped, net.const(np.float32([2, 3, -4]))), perm=[0, 3, 1, 2])


@pytest.mark.parametrize(("shape", "before"), [((3, 9, 8), None), ((3,), None), ((3, 40), None), ((9, 8, 3), changed)])
def test_a_normalised_input_gets_exactly_the_stored_statistics(
    shape: tuple[int, ...], before: Callable[[Net, str], str] | None, tmp_path: Path
) -> None:
    net = Net()
    x = net.input("x", ["n", *shape])
    values = x if before is None else before(net, x)
    net.output(net.bn(values, 3))
    net.output(values)
    model = net.model()
    _, _, mean, variance = (numpy_helper.to_array(t) for t in model.graph.initializer[-4:])
    made = synthesise(opened(model, tmp_path), {"x": (1, *shape)}, 20, seed=0).inputs["x"]
    found = statistics(outputs(model, values, made) if before else made)
    np.testing.assert_allclose(found[0], mean, atol=1e-5)
    np.testing.assert_allclose(found[1], variance, rtol=1e-5)


def test_tables_get_means_and_variances_of_a_matrix_product(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    independent = np.linalg.qr(generator.standard_normal((500, 11)) * [0, *[1] * 10] + [1, *[0] * 10])[0][:, 1:] * 500**0.5
    real = (independent * generator.uniform(0.2, 3, 10) + generator.uniform(-2, 2, 10)).astype(np.float32)
    for kind in ("Gemm", "MatMul"):
        net = Net()
        x = net.input("x", ["n", 10])
        if kind == "Gemm":
            wide = net.op("Gemm", x, net.weight(64, 10), net.vector(64), transB=1, alpha=0.5, beta=2.0)
        else:
            wide = net.op("Add", net.op("MatMul", x, net.weight(10, 64)), net.vector(64))
        model = trained(net, wide, 64, real)
        made = synthesise(opened(model, tmp_path), {"x": (1, 10)}, 500, seed=0).inputs["x"]
        np.testing.assert_allclose(made.mean(0), real.mean(0), atol=1e-3)
        np.testing.assert_allclose(made.std(0), real.std(0), rtol=1e-2)


def test_where_the_equations_leave_it_open_all_channels_vary_alike(tmp_path: Path) -> None:
    net = Net()
    wide = net.op("MatMul", net.input("x", ["n", 100]), net.weight(100, 8))
    real = 3 * np.random.default_rng(0).standard_normal((4000, 100)).astype(np.float32)
    made = synthesise(opened(trained(net, wide, 8, real), tmp_path), {"x": (1, 100)}, 2000, seed=0).inputs["x"]
    assert made.std(0) == pytest.approx(3, rel=0.3)


# Models that tell nothing, and inputs of other kinds.


def test_bytes_are_pixels_with_the_right_statistics(tmp_path: Path) -> None:
    net = Net()
    x = net.input("x", ["n", 3, 10, 10], TensorProto.UINT8)
    values = net.op("Cast", x, to=TensorProto.FLOAT)
    real = np.clip(photographs(32, 3, (10, 10)) * 20 + 120, 0, 255).astype(np.uint8)
    made = synthesise(opened(trained(net, values, 3, real), tmp_path), {"x": (1, 3, 10, 10)}, 32, seed=0).inputs["x"]
    assert made.dtype == np.uint8
    (mean, variance), (mean_made, variance_made) = statistics(real), statistics(made)
    np.testing.assert_allclose(mean_made, mean, atol=0.1)
    np.testing.assert_allclose(variance_made, variance, rtol=0.02)


def blind(net: Net, x: str) -> str:
    return net.cbr(net.relu(x), 3, 8)


def shifted_padding(net: Net, x: str) -> str:
    padded = net.op("Pad", x, net.ints(0, 0, 1, 1, 0, 0, 1, 1))
    return net.cbr(net.op("Add", padded, net.const(np.float32(1))), 3, 8)


def mirrored(net: Net, x: str) -> str:
    return net.cbr(net.op("Pad", x, net.ints(0, 0, 1, 1, 0, 0, 1, 1), mode="reflect"), 3, 8)


def uneven(net: Net, x: str) -> str:
    return net.cbr(net.op("Add", x, net.weight(8, 8)), 3, 8)


@pytest.mark.parametrize("build", [blind, shifted_padding, mirrored, uneven])
def test_without_known_statistics_inputs_are_standard_normal(build: Callable[[Net, str], str], tmp_path: Path) -> None:
    net = Net()
    net.output(build(net, net.input("x", ["n", 3, 8, 8])))
    made = synthesise(opened(net.model(), tmp_path), {"x": (1, 3, 8, 8)}, 50, seed=0).inputs["x"]
    assert abs(made.mean()) < 0.05
    assert made.std() == pytest.approx(1, abs=0.03)


def several_inputs() -> Net:
    net = Net()
    wide = net.cbr(net.input("x", ["n", 3, 8, 8]), 3, 8)
    ids, mask = net.input("ids", ["n", 5], INT64), net.input("mask", ["n", 5], TensorProto.BOOL)
    net.output(wide)
    net.output(net.op("Identity", ids), INT64)
    net.output(net.op("Identity", mask), TensorProto.BOOL)
    return net


def test_made_up_data_fit_the_model_and_say_what_they_are(tmp_path: Path) -> None:
    model = opened(several_inputs().model(), tmp_path)
    made = synthesise(model, input_shapes(model), 6, seed=4)
    evidence_data.check(made, model, at_least=6)
    assert made.is_synthetic
    assert made.source == "synthetic"
    assert made.labels is None
    assert made.inputs["mask"].all()
    assert made.inputs["ids"].min() >= 1
    again, other = (synthesise(model, input_shapes(model), 6, seed=seed) for seed in (4, 5))
    assert all(np.array_equal(made.inputs[name], again.inputs[name]) for name in made.inputs)
    assert not np.array_equal(made.inputs["x"], other.inputs["x"])


def test_a_fixed_batch_is_filled_up(tmp_path: Path) -> None:
    net = Net()
    net.output(net.cbr(net.input("x", [4, 3, 8, 8]), 3, 8))
    model = opened(net.model(), tmp_path)
    assert synthesise(model, input_shapes(model), 6, seed=0).n_samples == 8


@pytest.mark.parametrize("shapes", [[[]], [[2, 3], [3, 3]]])
def test_inputs_without_a_common_axis_of_samples_are_refused(shapes: list[list[int]], tmp_path: Path) -> None:
    net = Net()
    for number, shape in enumerate(shapes):
        net.output(net.op("Identity", net.input(f"x{number}", list(shape))))
    model = opened(net.model(), tmp_path)
    with pytest.raises(CalibrationError, match="cannot be made up"):
        synthesise(model, input_shapes(model), 4, seed=0)
