"""Every engine is compared with onnxruntime; one that is missing, crashes, hangs or lies is a row, and the rest goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from models import engines as fakes
from shrinkc.runtimes.isolation import Here

import shrinkc
from shrinkc import bfloat16, doctor, registry, tolerances
from shrinkc import ir as shrinkc_ir
from shrinkc.cli.validate import validate as command
from shrinkc.comparing import Difference
from shrinkc.engines import CONVERSION_TIMEOUT_S
from shrinkc.errors import RecipeError
from shrinkc.latency import probe
from shrinkc.report.validation import EngineResult

MODEL = """
<ir_version: 8, opset_import: ["": 17]>
net (float[N,3,8,8] x) => (float[N,6] y)
<float[6,3,3,3] w, float[6,6] m>
{
    a = Conv <pads = [1, 1, 1, 1]> (x, w)
    b = Relu (a)
    c = Sigmoid (b)
    d = GlobalAveragePool (c)
    e = Flatten (d)
    f = Sigmoid (e)
    y = MatMul (f, m)
}
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    from onnx import numpy_helper

    parsed = onnx.parser.parse_model(MODEL)
    generator = np.random.default_rng(0)
    for name, shape in (("w", (6, 3, 3, 3)), ("m", (6, 6))):
        array = generator.standard_normal(shape).astype(np.float32)
        parsed.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.save(parsed, str(tmp_path / "model.onnx"))
    return tmp_path / "model.onnx"


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch, model: Path) -> Callable[..., tuple[EngineResult, ...]]:
    """Validate the model against itself on these engines, as if they were all there are."""

    def run(*engines: object, compressed: Path = model, **options: Any) -> tuple[EngineResult, ...]:
        table = {engine.name: engine for engine in engines}  # type: ignore[attr-defined]
        monkeypatch.setattr(registry, "names", lambda group: sorted(table))
        monkeypatch.setattr(registry, "built", lambda group, name: table[name])
        return shrinkc.validate(model, compressed, **{"n_inputs": 2, **options}).results

    return run


def test_an_engine_that_crashes_or_hangs_is_a_row_and_the_rest_goes_on(
    on: Callable[..., tuple[EngineResult, ...]], tmp_path: Path
) -> None:
    hanging_engine = fakes.onnx_engine(tmp_path, fakes.HANGING, "b-hang")
    type(hanging_engine).load_timeout_s = 1
    crashing, hanging, healthy = on(
        fakes.onnx_engine(tmp_path, fakes.CRASHING, "a-crash"),
        hanging_engine,
        fakes.onnx_engine(tmp_path, fakes.HEALTHY, "c-healthy"),
    )
    assert (crashing.status, crashing.level) == ("failed", "converted")
    assert "SIGSEGV" in crashing.reason
    assert "the original does, too" in crashing.original
    assert "no answer within 1 s" in hanging.reason
    assert (healthy.status, healthy.level, healthy.own[0].max_abs) == ("ok", "validated", 0)


def test_a_converter_that_reports_success_with_a_broken_file_is_called_so(
    on: Callable[..., tuple[EngineResult, ...]], tmp_path: Path
) -> None:
    broken, forgetful = on(
        fakes.converting_engine(tmp_path, fakes.BROKEN_FILE, "a-broken"),
        fakes.converting_engine(tmp_path, fakes.FORGETFUL, "b-forgetful"),
    )
    assert broken.level == "converted"
    assert "the converter reported success, but its file does not load" in broken.reason
    assert "unexpected end of file" in broken.reason
    assert (forgetful.status, forgetful.level) == ("failed", "not run")
    assert "missing: model.bin" in forgetful.reason


def test_a_converter_gets_as_much_time_as_it_is_given_and_the_rest_goes_on(
    on: Callable[..., tuple[EngineResult, ...]], tmp_path: Path
) -> None:
    slow = fakes.converting_engine(tmp_path, fakes.SLOW_CONVERTER, "a-slow")
    ended, healthy = on(slow, fakes.onnx_engine(tmp_path, fakes.HEALTHY, "b-healthy"), timeout_s=1.5)
    assert (ended.status, ended.level) == ("failed", "not run")
    assert "no answer within 1.5 s" in ended.reason
    assert healthy.status == "ok"


def test_wrong_numbers_are_found_and_the_first_node_named(on: Callable[..., tuple[EngineResult, ...]], tmp_path: Path) -> None:
    """The engine computes every Sigmoid as Tanh; the first one gives c."""
    (result,) = on(fakes.onnx_engine(tmp_path, fakes.TAMPERING))
    assert (result.status, result.level) == ("failed", "loaded")
    assert result.divergence is not None
    assert (result.divergence.op_type, result.divergence.value, result.divergence.after) == ("Sigmoid", "c", "b")


def test_a_missing_engine_is_not_run_and_says_how_to_get_it(
    on: Callable[..., tuple[EngineResult, ...]], tmp_path: Path
) -> None:
    engine = fakes.onnx_engine(tmp_path, fakes.HEALTHY)
    type(engine).modules = ("no_such_engine",)
    (result,) = on(engine)
    assert (result.status, result.level) == ("not run", "not run")
    assert result.reason == "not installed: no_such_engine; pip install numpy"


def test_an_engine_whose_probe_fails_is_a_row_and_the_rest_goes_on(
    on: Callable[..., tuple[EngineResult, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing() -> None:
        raise OSError("libengine.so: cannot open shared object file")

    engine = fakes.onnx_engine(tmp_path, fakes.HEALTHY, "a-failing")
    monkeypatch.setattr(engine, "probe", failing)
    broken, healthy = on(engine, fakes.onnx_engine(tmp_path, fakes.HEALTHY, "b-healthy"))
    assert (broken.status, healthy.status) == ("not run", "ok")
    assert broken.reason == "its probe failed: OSError: libengine.so: cannot open shared object file"
    (finding, _) = doctor.examine().findings
    assert finding.probe.reason == broken.reason


def test_what_converters_make_is_kept_where_asked_for(model: Path, tmp_path: Path) -> None:
    """A phone's file that runs, and the operators that a small build of onnxruntime must have for it."""
    names = ("onnxruntime-mobile", "onnxruntime-cpu")
    mobile, plain = shrinkc.validate(model, model, runtimes=names, n_inputs=1, keep=tmp_path / "kept").results
    assert (mobile.status, plain.status) == ("ok", "ok")
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["onnxruntime-mobile"]  # the other loads ONNX itself
    folder = tmp_path / "kept" / "onnxruntime-mobile"
    assert {path.name for path in folder.iterdir()} >= set(mobile.files)
    image = np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)
    found, wanted = (
        ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": image})[0]
        for path in (folder / "model.ort", model)
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    (config,) = folder.glob("*.config")
    operators = {name for line in config.read_text().splitlines() if ";" in line for name in line.split(";")[2].split(",")}
    assert {"GlobalAveragePool", "Flatten", "MatMul", "Sigmoid"} <= operators
    assert mobile.support is not None
    assert "NNAPI" in mobile.support.note


def test_a_list_without_a_runtime_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no runtime is named"):
        shrinkc.validate(model, model, runtimes=())
    (tmp_path / "file").touch()
    with pytest.raises(RecipeError, match="cannot be kept there"):
        shrinkc.validate(model, model, runtimes=("onnxruntime-cpu",), n_inputs=1, keep=tmp_path / "file")


def test_only_engines_with_right_numbers_and_a_real_processor_are_timed(
    on: Callable[..., tuple[EngineResult, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WARMUP_S", "BLOCK_S"):
        monkeypatch.setattr(probe, name, 0.005)
    emulated = fakes.onnx_engine(tmp_path, fakes.HEALTHY, "b-emulated")
    emulated.place = Here(name="somewhere emulated", can_be_timed=False)
    healthy, slow, wrong = on(
        fakes.onnx_engine(tmp_path, fakes.HEALTHY, "a-healthy"),
        emulated,
        fakes.onnx_engine(tmp_path, fakes.TAMPERING, "c-tampering"),
        is_timed=True,
    )
    assert (healthy.status, healthy.level) == ("ok", "timed")
    assert healthy.latency is not None
    assert healthy.latency.before.runs >= probe.ROUNDS + 1
    assert 0.1 < healthy.latency.cpu_speedup < 10, "it is the same model twice"
    assert (slow.status, slow.level, slow.latency) == ("ok", "validated", None)
    assert "it is emulated" in slow.latency_note
    assert (wrong.status, wrong.level, wrong.latency, wrong.latency_note) == ("failed", "loaded", None, "")


@pytest.fixture
def quantised(model: Path, tmp_path: Path) -> Path:
    """The model in int8, and samples on which it can be judged."""
    import numpy as np

    from shrinkc.quantizing import quantize

    samples = tmp_path / "samples.npz"
    np.savez(samples, x=np.random.default_rng(3).standard_normal((16, 3, 8, 8)).astype(np.float32))
    quantize(model, output=tmp_path / "int8.onnx", data=samples)
    return tmp_path / "int8.onnx"


def test_a_quantised_model_is_judged_by_tolerance_and_where_it_is_off_by_the_class_that_wins(
    on: Callable[..., tuple[EngineResult, ...]], quantised: Path, tmp_path: Path
) -> None:
    """One engine shifts every class by the same: off, but the winner stays; the other one swaps classes."""
    samples = {"compressed": quantised, "data": tmp_path / "samples.npz"}
    exact, shifted, swapped = on(
        fakes.onnx_engine(tmp_path, fakes.HEALTHY, "a-healthy"),
        fakes.onnx_engine(tmp_path, fakes.SHIFTING, "b-shifting"),
        fakes.onnx_engine(tmp_path, fakes.SWAPPING, "c-swapping"),
        **samples,
    )
    assert (exact.status, exact.level, exact.reason, exact.tolerance) == ("ok", "validated", "", 5e-2)
    assert (shifted.status, shifted.level) == ("ok", "validated")
    assert "the same class wins in 100.0% of the places" in shifted.reason
    assert (swapped.status, swapped.level) == ("failed", "loaded")
    assert "99% wanted" in swapped.reason
    (made_up,) = on(fakes.onnx_engine(tmp_path, fakes.SHIFTING, "b-shifting"), compressed=quantised)
    assert made_up.status == "failed", "which class wins on made-up inputs says nothing"


def test_a_file_in_bfloat16_is_judged_by_what_it_means_in_float32(
    on: Callable[..., tuple[EngineResult, ...]], model: Path, tmp_path: Path
) -> None:
    """onnxruntime has no kernels for it; torch has, and is held against every value rounded."""
    pytest.importorskip("torch")
    shrinkc_ir.save(bfloat16.converted(model).model, tmp_path / "half.onnx")
    torch, ort = on(
        registry.load("runtimes", "torch-cpu")(),
        registry.load("runtimes", "onnxruntime-cpu")(),
        compressed=tmp_path / "half.onnx",
    )[::-1]
    assert (torch.status, torch.level, torch.tolerance) == ("ok", "validated", 2e-2), torch.reason
    assert torch.own[0].relative < torch.total[0].relative < 2e-2, "nearer to what the file means than to the original"
    assert (ort.status, ort.level) == ("failed", "converted")


def test_outputs_that_are_next_to_nothing_pass_and_say_so() -> None:
    tiny = Difference("y", 5e-8, 5e-2, 0.9, 20.0, None)
    assert tolerances.objection([tiny], 1e-4, counts_classes=False) == ""
    assert "at most 1e-06" in tolerances.excuse([tiny], 1e-4)
    assert tolerances.objection([replace(tiny, max_abs=1e-3)], 1e-4, counts_classes=False)


ENGINES = ("mnn", "ncnn", "onnxruntime-cpu", "openvino")


@pytest.mark.parametrize("name", ENGINES)
def test_real_engines_agree_with_onnxruntime_on_the_demo(name: str, demo: Path) -> None:
    probe = registry.load("runtimes", name)().probe()
    if not probe.is_available:
        pytest.skip(f"{probe.reason}; {probe.hint}")
    found = shrinkc.validate(
        demo / "fashion_resnet.onnx", demo / "fashion_resnet.onnx", runtimes=[name], data=demo / "fashion_eval.npz", n_inputs=3
    )
    (result,) = found.results
    assert (result.status, result.level, result.precision) == ("ok", "validated", "float32"), result.reason
    assert 0 <= result.own[0].relative < 1e-4
    assert result.own == result.total
    assert not found.is_synthetic


def test_openvino_computes_in_what_it_is_told_and_says_so(demo: Path) -> None:
    probe = registry.load("runtimes", "openvino")().probe()
    if not probe.is_available:
        pytest.skip(f"{probe.reason}; {probe.hint}")
    model = demo / "fashion_resnet.onnx"
    (result,) = shrinkc.validate(model, model, runtimes=["openvino"], precision="bfloat16", n_inputs=1).results
    if result.precision == "float32":
        pytest.skip("this processor has no bfloat16")
    assert result.precision == "bfloat16"
    assert result.own[0].relative > 1e-4, "an error of float32's size would mean that it was not used"
    assert result.tolerance == 2e-2


def test_the_command_waits_as_long_as_the_library_where_nothing_else_is_said() -> None:
    (option,) = [option for option in command.params if option.name == "timeout_s"]
    assert option.default == CONVERSION_TIMEOUT_S
