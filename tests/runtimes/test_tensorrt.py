"""TensorRT: the RTX edition really parses and builds here; the rest is shown against a stand-in, and was not run on a card."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from shrinkc.runtimes.backends import tensorrt_backend
from shrinkc.runtimes.isolation import Here
from shrinkc.runtimes.tensorrt import TensorRt
from shrinkc.runtimes.tensorrt_rtx import TensorRtRtx

from shrinkc import registry
from shrinkc.api import ConvertConfig, Probe, RunConfig
from shrinkc.errors import BuildError, RuntimeUnavailable

FAKES = Path(__file__).parents[1] / "models" / "fake_tensorrt"


class StandIn(TensorRt):
    """The adapter itself, with a stand-in for the package."""

    def probe(self) -> Probe:
        return Probe(True, version="stand-in")


def stand_in(version: str = "10.9.0", mood: str = "") -> StandIn:
    variables = {"PYTHONPATH": str(FAKES), "FAKE_TENSORRT_VERSION": version, "FAKE_TENSORRT": mood}
    return StandIn(Here(variables=variables))


@pytest.mark.parametrize("version", ["10.9.0", "11.4.0"])
def test_engines_are_strongly_typed_and_layers_named_after_nodes(version: str, demo: Path, tmp_path: Path) -> None:
    engine, model = stand_in(version), demo / "fashion_resnet.onnx"
    cache = tmp_path / "earlier.cache"
    cache.write_bytes(b"timings")
    options = {"timing_cache": str(cache), "workspace_bytes": 1 << 20}
    artifact = engine.convert(model, tmp_path / "built", ConvertConfig(options=options))
    assert [file.name for file in artifact.files] == ["model.engine", "timing.cache"]
    assert (artifact.folder / "timing.cache").read_bytes() == b"timings+"
    feed = {port.name: np.random.default_rng(0).random(port.shape, dtype=np.float32) for port in artifact.signature.inputs}
    with engine.open(artifact, RunConfig()) as session:
        found = session.run(feed)
        (layer,) = session.profile(feed, runs=3) or ()
        effective = session.effective()
    expected = registry.load("runtimes", "onnxruntime-cpu")().load(model, RunConfig()).run(feed)
    np.testing.assert_allclose(found["logits"], expected["logits"], rtol=1e-6)
    assert (effective.provider, effective.precision, effective.device) == ("CUDA", "float16", "Fake card")
    assert (layer.sources, layer.time_s, layer.kernel) == (("/stem/Conv", "/stem/Relu"), 0.002, "sm80_xmma_fprop")


def test_a_builder_without_a_card_and_one_without_a_tactic_say_why(demo: Path, tmp_path: Path) -> None:
    model = demo / "fashion_resnet.onnx"
    with pytest.raises(RuntimeUnavailable, match="CUDA initialization failure"):
        stand_in(mood="without-card").convert(model, tmp_path, ConvertConfig())
    with pytest.raises(BuildError, match="Could not find any implementation"):
        stand_in(mood="refusing").convert(model, tmp_path, ConvertConfig())


def test_types_are_read_from_both_schemas_and_from_names_alone() -> None:
    def types(**tensor: str) -> list[str]:
        return tensorrt_backend.layers_of({"Layers": [{"Name": "a", "Outputs": [tensor]}]})[0]["types"]

    assert types(**{"Format/Datatype": "Row major linear FP32"}) == ["float32"]
    assert types(**{"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}) == ["float16"]
    assert types(Format="Row major linear", DataType="BFloat16") == ["bfloat16"]
    assert types(Format="Row major linear", DataType="Int8") == ["int8"]
    assert tensorrt_backend.layers_of({"Layers": ["conv + relu"]})[0]["name"] == "conv + relu"


BUILD_ON_BOARD = """
import sys
import numpy as np
import tensorrt_rtx as trt
from shrinkc.boards import tensorrt_on_board as board

class Builder(trt.Builder):  # the real one, told of a card that it need not look for
    def create_builder_config(self):
        config = super().create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM86, 0)
        return config

trt.Builder = Builder
model, folder = sys.argv[1:]
inputs = {"image": np.zeros((1, 1, 28, 28), np.float32)}
blob, _ = board.build(trt, model, inputs, folder + "/model.engine", folder + "/timing.cache", 0)
assert len(blob) > 100_000
"""


def test_the_script_for_boards_builds_a_model_with_a_free_batch(rtx: TensorRtRtx, demo: Path, tmp_path: Path) -> None:
    """By the real builder, in a process of its own: networks with free sizes need a profile of them."""
    model = demo / "fashion_resnet.onnx"
    assert "batch" in str(onnx.load(str(model)).graph.input[0].type.tensor_type.shape.dim[0])
    command = [sys.executable, "-c", BUILD_ON_BOARD, str(model), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def rtx() -> TensorRtRtx:
    engine = TensorRtRtx()
    probe = engine.probe()
    if not probe.is_available:
        pytest.skip(f"{probe.reason}; {probe.hint}")
    return engine


def test_rtx_builds_without_a_card_and_float16_is_smaller(rtx: TensorRtRtx, demo: Path, tmp_path: Path) -> None:
    model = demo / "fashion_resnet.onnx"
    sizes = [
        rtx.convert(model, tmp_path / precision, ConvertConfig(precision)).size_bytes for precision in ("float32", "float16")
    ]
    assert 0 < sizes[1] < sizes[0]


def test_rtx_names_the_nodes_it_refuses(rtx: TensorRtRtx, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="fine"),
        helper.make_node("Unknown", ["a"], ["b"], name="foreign", domain="com.acme"),
        helper.make_node("Unique", ["b"], ["c"], name="data-dependent"),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [1, 4]), ("y", [None])))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.acme", 1)]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [x], [y]), opset_imports=opsets), str(tmp_path / "m.onnx"))
    report = rtx.supports(tmp_path / "m.onnx")
    assert {verdict.node: verdict.op_type for verdict in report.refused()} == {"foreign": "Unknown", "data-dependent": "Unique"}
    assert {verdict.node for verdict in report.verdicts} == {"fine", "foreign", "data-dependent", "y"}


def test_rtx_takes_symmetric_int8_and_refuses_zero_points(rtx: TensorRtRtx, tmp_path: Path) -> None:
    """A file that is quick on processors (uint8, with zero points) is none for TensorRT."""
    symmetric = rtx.supports(quantized(tmp_path / "s.onnx", np.int8(0)))
    asymmetric = rtx.supports(quantized(tmp_path / "u.onnx", np.uint8(128)))
    assert symmetric.refused() == ()
    assert any("zero point" in verdict.reason.lower() for verdict in asymmetric.refused())


def quantized(path: Path, zero: np.generic) -> Path:
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((4, 3, 3, 3)).astype(np.float32)
    stored = {"scale": np.float32(0.05), "zero": zero, "w": weight}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("Conv", ["d", "w"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 3, 8, 8]), ("y", [1, 4, 6, 6])))
    initializers = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], initializers), opset_imports=[helper.make_opsetid("", 17)]
    )
    model.ir_version = 8
    onnx.save(model, str(path))
    return path
