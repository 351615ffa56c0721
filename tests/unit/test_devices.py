"""Targets of one's own, and tables recorded where a model will run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from models.builder import Net
from models.engines import COUNTING, CRASHING, HEALTHY, SHIFTING, converting_engine, onnx_engine
from shrinkc.runtimes.isolated import IsolatedSession

import shrinkc
from shrinkc import devices, pacing, registry, target, validating
from shrinkc.api import Artifact, RunConfig
from shrinkc.errors import GateError, RecipeError, RuntimeUnavailable
from shrinkc.latency import probe, recording, stopwatch, table
from shrinkc.latency.engine_timing import EngineTimer
from shrinkc.latency.layers import LayerSpec, micro_model
from shrinkc.registry import load
from shrinkc.report.rows import remarks

Save = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    target.forget()
    yield target.user_folder()
    target.forget()


def compared(speed: float) -> probe.Comparison:
    """A measurement of so many times the speed."""
    before = probe.Timing(speed * 1e-3, 1.0, speed * 1e-3, speed * 1e-3, 10, False)
    after = probe.Timing(1e-3, 1.0, 1e-3, 1e-3, 10, False)
    return probe.Comparison(before, after, speed, speed, speed, speed, 0.0, 1, 1, 0.0)


def product() -> Net:
    net = Net()
    x = net.relu(net.op("Gemm", net.input("x", [1, 24]), net.weight(64, 24), net.vector(64), transB=1))
    net.op("Gemm", x, net.weight(8, 64), net.vector(8), transB=1)
    net.nodes[-1].output[0] = "y"
    net.output("y")
    return net


def test_a_target_that_was_added_is_known_by_name(tmp_path: Path, own_folder: Path) -> None:
    (tmp_path / "lab-board.toml").write_text('inherits = "jetson-orin-nx"\ndescription = "the one in the lab"\n')
    assert devices.add(tmp_path / "lab-board.toml") == own_folder / "lab-board.toml"
    assert target.load("lab-board").number("memory_gb") == 16
    assert target.load("lab-board").origin == str(own_folder / "lab-board.toml")
    with pytest.raises(RecipeError, match="of that name"):
        devices.add(tmp_path / "lab-board.toml")
    (tmp_path / "wrong.toml").write_text("speed = 3\n")
    with pytest.raises(RecipeError, match="no such key"):
        devices.add(tmp_path / "wrong.toml")
    assert not (own_folder / "wrong.toml").exists()


def test_a_recorded_table_is_what_a_budget_of_time_goes_by(
    saved: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device on which time is inputs times outputs halves its time when the hidden layer halves."""

    def seconds(model: bytes, feed: object) -> float:
        import onnx

        weights = [t.dims for t in onnx.load_from_string(model).graph.initializer if t.name.startswith("weight")]
        return 1e-6 + sum(1e-9 * dims[0] * dims[1] for dims in weights)

    monkeypatch.setattr(recording, "timer_of", lambda runtime, config: seconds)
    path, out = saved(product()), tmp_path / "table.json"
    devices.calibrate("cpu", [path], out)
    assert table.read(out).layers
    report = shrinkc.compress(
        path,
        output=tmp_path / "o.onnx",
        latency="50.1%",
        latency_table=out,
        target="raspberry-pi-4",
        verify=False,
        measure_latency=False,
    )
    assert report.latency_basis.startswith("recorded: onnxruntime-cpu")
    assert report.before.latency_s == pytest.approx(1e-9 * (24 * 64 + 64 * 8))
    assert [group.channels_after for group in report.groups] == [32]
    with pytest.raises(RecipeError, match="something else"):
        devices.calibrate("cpu", [path], out, threads=2)
    other = Net()
    other.op("Gemm", other.input("x", [1, 9]), other.weight(99, 9), other.vector(99), transB=1)
    other.op("Gemm", other.relu("gemm0"), other.weight(3, 99), transB=1)
    other.nodes[-1].output[0] = "y"
    other.output("y")
    with pytest.raises(RecipeError, match="lacks layers"):
        shrinkc.compress(saved(other, "other.onnx"), output=tmp_path / "o.onnx", latency="50%", latency_table=out)


@pytest.fixture
def own_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """File of a target of this machine whose engine is a fake with some backend."""
    built, names = registry.built, registry.names

    def made(backend: str) -> str:
        engine = onnx_engine(tmp_path, backend)
        monkeypatch.setattr(registry, "built", lambda group, name: engine if name == "fake" else built(group, name))
        monkeypatch.setattr(registry, "names", lambda group: [*names(group), *(["fake"] if group == "runtimes" else [])])
        (tmp_path / "own.toml").write_text('inherits = "openvino-cpu"\ndescription = "fake"\nruntime = "fake"\n')
        return str(tmp_path / "own.toml")

    return made


def test_a_budget_of_time_without_the_targets_engine_says_how_to_get_it(
    saved: Save, tmp_path: Path, own_target: Callable[[str], str]
) -> None:
    chosen = own_target(HEALTHY)
    type(registry.built("runtimes", "fake")).modules = ("no_such_engine",)
    with pytest.raises(RecipeError, match=r"fake is not here \(not installed: no_such_engine\)") as caught:
        shrinkc.compress(saved(product()), output=tmp_path / "o.onnx", latency="60%", target=chosen, verify=False)
    assert caught.value.hint == registry.built("runtimes", "fake").probe().hint


def test_a_target_whose_engine_is_here_is_timed_on_it_layers_and_whole_model(
    saved: Save, tmp_path: Path, own_target: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a table; the second run finds the times of the layers, and measures none."""
    timed: list[bytes] = []
    monkeypatch.setattr(EngineTimer, "__call__", lambda timer, model, feed: timed.append(model) or 1e-9 * len(model))
    monkeypatch.setattr(stopwatch, "least_of", lambda session, *rest: 2e-3)
    monkeypatch.setattr(pacing, "share", lambda *rest: 0.59)
    monkeypatch.setattr(probe, "compare_engines", lambda *rest: compared(2.0))
    monkeypatch.setattr(probe, "compare", lambda *rest: pytest.fail("onnxruntime is not the target's engine"))
    options = {"latency": "60%", "latency_cache": tmp_path / "cache", "target": own_target(HEALTHY), "verify": False}
    path = saved(product())
    report = shrinkc.compress(path, output=tmp_path / "o.onnx", **options)
    assert report.latency_basis.startswith("measured: layers timed one by one on fake")
    assert report.before.latency_s == pytest.approx(2e-3)
    assert report.after.latency_s is not None
    assert report.after.latency_s <= 0.6 * 2e-3
    assert report.latency == compared(2.0)
    assert report.latency_runtime == "fake"
    assert [(level.runtime, level.level) for level in report.runtimes] == [("onnxruntime-cpu", "loaded"), ("fake", "timed")]
    n_timed = len(timed)
    shrinkc.compress(path, output=tmp_path / "o.onnx", **options)
    assert len(timed) == n_timed > 0


def made_up_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers on engines take a nanosecond a byte, whole models two milliseconds."""
    monkeypatch.setattr(EngineTimer, "__call__", lambda timer, model, feed: 1e-9 * len(model))
    monkeypatch.setattr(stopwatch, "least_of", lambda session, *rest: 2e-3)


def test_a_budget_is_held_against_what_the_targets_engine_measures(
    saved: Save, tmp_path: Path, own_target: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up_times(monkeypatch)
    monkeypatch.setattr(probe, "compare_engines", lambda *rest: compared(0.9))
    options = {"latency": "60%", "latency_cache": tmp_path / "cache", "target": own_target(HEALTHY), "verify": False}
    with pytest.raises(GateError, match="SLOWER"):
        shrinkc.compress(saved(product()), output=tmp_path / "o.onnx", **options)
    assert (tmp_path / "o.rejected.onnx").exists()


def test_a_model_that_does_not_run_on_made_up_inputs_is_written_all_the_same(
    saved: Save, tmp_path: Path, own_target: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*rest: object) -> object:
        raise RuntimeError("index out of bounds")

    monkeypatch.setattr(validating, "_outputs", refused)
    report = shrinkc.compress(saved(product()), output=tmp_path / "o.onnx", macs="60%", target=own_target(HEALTHY))
    assert (tmp_path / "o.onnx").exists()
    assert (report.runtimes[1].level, report.latency_runtime) == ("not run", "onnxruntime-cpu")
    assert "index out of bounds" in report.runtimes[1].detail


def test_a_budget_of_time_is_not_met_by_an_engine_that_computes_something_else(
    saved: Save, tmp_path: Path, own_target: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up_times(monkeypatch)
    monkeypatch.setattr(probe, "compare", lambda *rest: compared(5.0))
    options = {"latency": "60%", "latency_cache": tmp_path / "cache", "target": own_target(SHIFTING), "verify": False}
    with pytest.raises(GateError, match=r"could not be timed on fake: .*off by"):
        shrinkc.compress(saved(product()), output=tmp_path / "o.onnx", **options)


@pytest.mark.parametrize(
    ("backend", "level", "reason"),
    [(SHIFTING, "loaded", "output"), (CRASHING, "converted", "ended by SIGSEGV")],
    ids=["wrong", "crashes"],
)
def test_an_engine_that_is_wrong_or_crashes_is_told_and_times_are_onnxruntimes(
    saved: Save, tmp_path: Path, own_target: Callable[[str], str], backend: str, level: str, reason: str
) -> None:
    report = shrinkc.compress(saved(product()), output=tmp_path / "o.onnx", macs="60%", target=own_target(backend))
    assert report.latency is not None
    assert report.latency_runtime == "onnxruntime-cpu"
    assert report.runtimes[1].level == level
    (remark,) = (remark for remark in remarks(report) if remark.startswith(f"fake: {level}: "))
    assert reason in remark


def test_a_board_is_calibrated_there(saved: Save, tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailable, match="another machine"):
        devices.calibrate("jetson", [saved(product())], tmp_path / "t.json")


def test_engines_in_processes_of_their_own_time_layers_too() -> None:
    engine, spec = load("runtimes", "onnxruntime-cpu")(), LayerSpec("MatMul", (4, 0), has_bias=False)
    feed = {"x": np.ones((4, 8), np.float32)}
    with EngineTimer(engine, RunConfig()) as timer:
        assert all(0 < timer(micro_model(spec, (8, width)), feed) < 1 for width in (8, 16))


def test_layers_are_converted_one_after_the_other_in_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, spec = converting_engine(tmp_path, COUNTING), LayerSpec("MatMul", (1, 4, 0), has_bias=False)
    opened: list[int] = []
    load_into = IsolatedSession.reload

    def watched(session: IsolatedSession, artifact: Artifact) -> None:
        opened.append(artifact.details["converted"])
        load_into(session, artifact)

    monkeypatch.setattr(IsolatedSession, "reload", watched)
    feed = {"x": np.ones((1, 4, 8), np.float32)}
    with EngineTimer(engine, RunConfig()) as timer:
        for width in (8, 16, 24):
            timer(micro_model(spec, (8, width)), feed)
        timer.close()
        timer(micro_model(spec, (8, 8)), feed)
    assert opened == [1, 2, 3, 1]
