"""Targets of one's own, and tables recorded where a model will run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from models.builder import Net

import shrinkc
from shrinkc import devices, target
from shrinkc.api import RunConfig
from shrinkc.errors import RecipeError, RuntimeUnavailable
from shrinkc.latency import recording, table
from shrinkc.latency.engine_timing import EngineTimer
from shrinkc.latency.layers import LayerSpec, micro_model
from shrinkc.registry import load

Save = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    target.forget()
    yield target.user_folder()
    target.forget()


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
        latency="50%",
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


def test_a_target_whose_engine_is_here_has_its_layers_timed_on_it(
    saved: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a table; the second run finds the times of the first."""
    timed: list[bytes] = []
    monkeypatch.setattr(EngineTimer, "__call__", lambda timer, model, feed: timed.append(model) or 1e-9 * len(model))
    monkeypatch.setattr(EngineTimer, "close", lambda timer: None)
    options = {"latency": "60%", "latency_cache": tmp_path / "cache", "verify": False, "measure_latency": False}
    path = saved(product())
    if not load("runtimes", "openvino")().probe().is_available:
        pytest.skip("openvino is not installed")
    report = shrinkc.compress(path, output=tmp_path / "o.onnx", target="openvino-cpu", **options)
    assert report.latency_basis.startswith("recorded: layers timed one by one on openvino")
    assert report.after.latency_s <= 0.6 * report.before.latency_s
    n_timed = len(timed)
    shrinkc.compress(path, output=tmp_path / "o.onnx", target="openvino-cpu", **options)
    assert len(timed) == n_timed > 0


def test_a_board_is_calibrated_there(saved: Save, tmp_path: Path) -> None:
    with pytest.raises(RuntimeUnavailable, match="another machine"):
        devices.calibrate("jetson", [saved(product())], tmp_path / "t.json")


def test_engines_in_processes_of_their_own_time_layers_too() -> None:
    engine, spec = load("runtimes", "onnxruntime-cpu")(), LayerSpec("MatMul", (4, 0), has_bias=False)
    import numpy as np

    feed = {"x": np.ones((4, 8), np.float32)}
    with EngineTimer(engine, RunConfig()) as timer:
        assert all(0 < timer(micro_model(spec, (8, width)), feed) < 1 for width in (8, 16))
