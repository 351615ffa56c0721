"""A model in bfloat16 keeps its face, rounds where it says, leaves islands where it must, and is proved by whoever runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from models.attention_topologies import ATTENTION
from models.topologies import TOPOLOGIES
from onnx import TensorProto, numpy_helper

from shrinkc import bfloat16, quantizing, registry, trials
from shrinkc import ir as shrinkc_ir
from shrinkc.cli import cli
from shrinkc.errors import BuildError, GateError, VerificationError
from shrinkc.latency import probe

Save = Callable[..., Path]
Arrays = dict[str, np.ndarray]


def parsed(text: str, path: Path, **weights: np.ndarray) -> Path:
    """Write a model of onnx's text form with these weights."""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    onnx.save(model, str(path))
    return path


def both(path: Path) -> tuple[bfloat16.Converted, onnx.ModelProto, onnx.ModelProto]:
    """What became of a model, and the file and its emulation, checked."""
    made, is_complete = bfloat16.converted(path), is_valid(path)
    files = path.with_name("half.onnx"), path.with_name("emulated.onnx")
    for model, file in zip((made.model, bfloat16.emulated(made)), files, strict=True):
        shrinkc_ir.save(model, file)
        if is_complete:
            onnx.checker.check_model(str(file), full_check=True)
    return made, *(onnx.load(str(file)) for file in files)


def is_valid(path: Path) -> bool:
    """Whether the original passes the full check: contributed operators have no shapes that onnx could infer."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except onnx.checker.ValidationError:
        return False
    return True


def outputs(model: onnx.ModelProto, feed: Arrays) -> Arrays:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def rounded(array: np.ndarray) -> np.ndarray:
    return array.astype(ml_dtypes.bfloat16).astype(np.float32)


LAYERS = """
<ir_version: 8, opset_import: ["": 17]>
net (float[N,24] x) => (float[N,8] y, float[N,16] h)
<float[24,16] a, float[16] b, float[16,8] c>
{
    p = MatMul (x, a)
    q = Add (p, b)
    h = Relu (q)
    y = MatMul (h, c)
}
"""


@pytest.fixture
def layers(tmp_path: Path) -> tuple[Path, Arrays]:
    generator = np.random.default_rng(0)
    shapes = {"a": (24, 16), "b": (16,), "c": (16, 8)}
    weights = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return parsed(LAYERS, tmp_path / "layers.onnx", **weights), weights


def test_the_emulation_rounds_inputs_weights_and_every_result_once(layers: tuple[Path, Arrays]) -> None:
    """Against numpy, which rounds where the definition says.  A last bit may differ where sums are ordered otherwise."""
    path, weights = layers
    _, _, emulated = both(path)
    x = np.random.default_rng(1).standard_normal((50, 24)).astype(np.float32)
    hidden = rounded(rounded(rounded(x) @ rounded(weights["a"])) + rounded(weights["b"])).clip(0)
    found = outputs(emulated, {"x": x})
    exact = {"h": hidden, "y": rounded(hidden @ rounded(weights["c"]))}
    for name, wanted in exact.items():
        assert np.array_equal(rounded(found[name]), found[name]), "the result is a bfloat16 number"
        assert np.mean(found[name] == wanted) > 0.99
        assert np.abs(found[name] - wanted).max() <= 2**-7 * np.abs(wanted).max()
    assert np.abs(found["y"] - np.maximum(x @ weights["a"] + weights["b"], 0) @ weights["c"]).max() > 1e-3, (
        "float32 would be closer"
    )


def test_inputs_and_outputs_keep_names_and_types_and_weights_are_halved(layers: tuple[Path, Arrays]) -> None:
    made, half, _ = both(layers[0])
    assert [(port.name, port.type.tensor_type.elem_type) for port in (*half.graph.input, *half.graph.output)] == [
        (name, TensorProto.FLOAT) for name in ("x", "y", "h")
    ]
    assert {tensor.data_type for tensor in half.graph.initializer} == {TensorProto.BFLOAT16}
    assert (made.halved, made.islands) == (4, ())
    casts = [node for node in half.graph.node if node.op_type == "Cast"]
    assert len(casts) == 3, "one for the input, one for each output"


def test_operators_that_onnx_defines_for_no_bfloat16_stay_float32(tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    net (float[N,24] x) => (float[N,8] y)
    <float[24,8] a, float[8,8] c>
    {
        p = MatMul (x, a)
        q = Celu (p)
        y = MatMul (q, c)
    }
    """
    generator = np.random.default_rng(0)
    weights = {name: generator.standard_normal((rows, 8)).astype(np.float32) for name, rows in (("a", 24), ("c", 8))}
    made, half, emulated = both(parsed(text, tmp_path / "celu.onnx", **weights))
    assert made.islands == ("Celu",)
    x = generator.standard_normal((20, 24)).astype(np.float32)
    before = rounded(rounded(x) @ rounded(weights["a"]))
    celu = np.maximum(before, 0) + np.minimum(0, np.exp(np.minimum(before, 0)) - 1)
    wanted = rounded(rounded(celu) @ rounded(weights["c"]))
    assert np.abs(outputs(emulated, {"x": x})["y"] - wanted).max() <= 2**-7 * np.abs(wanted).max()
    types = {value.name: value.type.tensor_type.elem_type for value in onnx.shape_inference.infer_shapes(half).graph.value_info}
    (island,) = (node for node in half.graph.node if node.op_type == "Celu")
    assert {types[island.input[0]], types[island.output[0]]} == {TensorProto.FLOAT}


def test_what_only_moves_between_islands_is_not_rounded_and_branches_see_float32(tmp_path: Path) -> None:
    """Positions above 256 are no whole numbers in bfloat16; the branch reads p from outside."""
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    net (float[2,24] x, float start, bool b) => (float[1,400] positions, float[2,8] y)
    <float[24,8] a, float limit = {1400}, float one = {1}, int64[2] row = {1, 400}>
    {
        p = MatMul (x, a)
        r = Range (start, limit, one)
        positions = Reshape (r, row)
        y = If (b) <
            then_branch = yes () => (float[2,8] t) { t = Celu (p) },
            else_branch = no () => (float[2,8] e) { e = Neg (p) }
        >
    }
    """
    weight = np.random.default_rng(0).standard_normal((24, 8)).astype(np.float32)
    _, _, emulated = both(parsed(text, tmp_path / "moves.onnx", a=weight))
    x = np.random.default_rng(1).standard_normal((2, 24)).astype(np.float32)
    found = outputs(emulated, {"x": x, "start": np.array(1000, np.float32), "b": np.array(False)})
    assert found["positions"][0].tolist() == list(range(1000, 1400))
    assert np.array_equal(found["y"], -rounded(rounded(x) @ rounded(weight)))


def test_a_model_without_anything_to_convert_is_refused(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["": 17]> net (float[N] x) => (float[N] y) { y = Celu (x) }'
    with pytest.raises(BuildError, match="nothing in this model"):
        bfloat16.converted(parsed(text, tmp_path / "none.onnx"))


@pytest.mark.parametrize("name", [*sorted(TOPOLOGIES)[::4], *sorted(ATTENTION)[::4]])
def test_models_of_every_kind_convert_and_stay_near(saved: Save, name: str) -> None:
    """One of four topologies each; the file passes onnx's full check, and its emulation gives nearly the original's outputs."""
    path = saved({**TOPOLOGIES, **ATTENTION}[name]())
    try:
        made, _, emulated = both(path)
    except BuildError:
        pytest.skip("nothing in it computes with floats outside of branches")
    assert made.halved
    original = onnx.load(str(path))
    generator = np.random.default_rng(0)
    feed: dict[str, Any] = {}
    for value in ir.from_proto(original).graph.inputs:
        shape = [size if isinstance(size, int) else 2 for size in value.shape or ()]
        kind = value.dtype.numpy() if value.dtype is not None else np.float32
        feed[str(value.name)] = (
            generator.standard_normal(shape).astype(kind) if np.issubdtype(kind, np.floating) else np.zeros(shape, kind)
        )
    try:
        wanted = outputs(original, feed)
    except ort.capi.onnxruntime_pybind11_state.InvalidArgument:
        pytest.skip("onnxruntime cannot load the original: it has a function that gives an input back")
    found = outputs(emulated, feed)
    for output, array in wanted.items():
        if np.issubdtype(array.dtype, np.floating):
            assert np.abs(array - found[output]).max() <= 0.1 * np.abs(array).max() + 1e-6


@pytest.fixture
def samples(demo: Path, tmp_path: Path) -> Path:
    with np.load(demo / "fashion_eval.npz") as archive:
        np.savez(tmp_path / "few.npz", **{name: archive[name][:80] for name in archive.files})
    return tmp_path / "few.npz"


def test_the_command_says_what_runs_the_file_and_how_good_it_is(
    demo: Path, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = [(name, registry.built("runtimes", name)) for name in ("onnxruntime-cpu", "torch-cpu")]
    monkeypatch.setattr(trials, "_engines", lambda: iter(few))
    for name in ("WARMUP_S", "BLOCK_S"):
        monkeypatch.setattr(probe, name, 0.01)
    words = ["--data", str(samples), "--to", "bfloat16", "-o", str(tmp_path / "half.onnx"), "--max-drop", "3", "--json"]
    result = CliRunner().invoke(cli, ["quantize", str(demo / "fashion_resnet.onnx"), *words])
    assert result.exception is None, result.stderr
    report = json.loads(result.stdout)
    told = {trial["runtime"]: trial for trial in report["trials"]}
    assert told["torch-cpu"]["relative_error"] < 2e-2, "torch computes in bfloat16, by kernels of its own"
    if told["onnxruntime-cpu"]["relative_error"] is None:
        assert report["latency"] is None
        assert any("no kernels for this file" in note for note in report["notes"])
    assert report["bytes_after"] < 0.55 * report["bytes_before"]
    assert 0 < report["quality"]["agreement"][0]["relative_error"] < 0.02


def test_without_an_engine_the_evaluator_of_onnx_proves_the_file(
    layers: tuple[Path, Arrays], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = layers[0]
    np.savez(path.with_name("x.npz"), x=np.random.default_rng(0).standard_normal((40, 24)).astype(np.float32))
    monkeypatch.setattr(trials, "_engines", lambda: iter(()))
    found = quantizing.quantize(path, output=path.with_name("half.onnx"), data=path.with_name("x.npz"), to="bfloat16")
    (trial,) = found.trials
    assert trial.runtime == "onnx reference evaluator"
    assert trial.relative_error is not None
    monkeypatch.setitem(quantizing.TOLERANCES, "bfloat16", -1.0)
    with pytest.raises(VerificationError, match="not proved"):
        quantizing.quantize(path, output=path.with_name("half.onnx"), data=path.with_name("x.npz"), to="bfloat16")


def test_a_drop_that_is_too_large_sets_the_model_aside(
    layers: tuple[Path, Arrays], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = layers[0]
    np.savez(path.with_name("x.npz"), x=np.random.default_rng(0).standard_normal((40, 24)).astype(np.float32))
    monkeypatch.setattr(trials, "_engines", lambda: iter(()))
    monkeypatch.setattr(quantizing, "drop_of", lambda quality: 2.0)
    with pytest.raises(GateError, match="bfloat16 loses 2"):
        quantizing.quantize(path, output=tmp_path / "half.onnx", data=path.with_name("x.npz"), to="bfloat16", max_drop=1.0)
    assert (tmp_path / "half.rejected.onnx").is_file()
