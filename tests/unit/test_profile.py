"""Profiles: kernels go back to the nodes they carry out, figures follow from shapes, and a busy machine is said to be one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner
from models.builder import Net

from shrinkc import profiling, target
from shrinkc.api import Effective, LayerTime, Measurement, RunConfig
from shrinkc.cli import cli
from shrinkc.errors import RuntimeUnavailable
from shrinkc.latency.fusions import plain_name
from shrinkc.report import profile as profiles
from shrinkc.report.profile import CONTENDED, INCONCLUSIVE, OK, ModelProfile

Save = Callable[..., Path]


def residual() -> Net:
    net = Net()
    x = net.cbr(net.input("x", [1, 3, 16, 16]), 3, 16)
    a = net.cbr(x, 16, 16)
    b = net.bn(net.conv(a, 16, 16, bias=False), 16)
    c = net.relu(net.op("Add", b, x))
    net.head(c, 16)
    net.nodes[-1].output[0] = "y"
    net.output("y")
    return net


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> profiles.Profile:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    onnx.save(residual().model(), str(path))
    patch = pytest.MonkeyPatch()
    patch.setattr(profiling, "BLOCK_S", 0.02)
    try:
        return profiling.profile(path, compare=path)
    finally:
        patch.undo()


def test_fused_kernels_go_back_to_every_node_they_carry_out(found: profiles.Profile) -> None:
    rows = {row.name: row for row in found.models[0].rows if row.nodes}
    assert rows["Conv_0"].nodes == ("Conv_0", "BatchNormalization_1", "Relu_2")
    assert rows["Conv_6"].nodes == ("Conv_6", "BatchNormalization_7", "Add_8", "Relu_9")
    owned = [node for row in rows.values() for node in row.nodes]
    assert sorted(owned) == sorted(node.name for node in residual().model().graph.node)


def test_macs_bytes_and_shares_follow_from_the_shapes(found: profiles.Profile) -> None:
    rows = {row.name: row for row in found.models[0].rows}
    assert rows["Conv_3"].macs == 16 * 16 * 9 * 256
    norms = 4 * 16
    assert rows["Conv_3"].traffic_bytes == 4 * (2 * 16 * 256 + 16 * 16 * 9 + norms)
    assert rows["Conv_3"].intensity == rows["Conv_3"].macs / rows["Conv_3"].traffic_bytes
    assert sum(row.share for row in rows.values()) == pytest.approx(1)
    assert "measured here" in found.roofline


def test_two_models_are_paired_by_layer_and_traced_one_after_the_other(found: profiles.Profile) -> None:
    assert {pair.name for pair in profiles.pairs(found)} >= {"Conv_0", "Conv_3", "Conv_6"}
    assert all(pair.before_s and pair.after_s for pair in profiles.pairs(found) if pair.name.startswith("Conv"))
    events = [event for event in profiles.trace(found)["traceEvents"] if event["ph"] == "X" and event["pid"] == 1]
    assert [event["ts"] for event in events] == sorted(event["ts"] for event in events)
    assert sum(event["dur"] for event in events) == pytest.approx(1e6 * found.models[0].kernels_s)


def test_the_page_needs_nothing_but_itself_and_escapes_names(found: profiles.Profile) -> None:
    from dataclasses import replace

    from shrinkc.report.profile_html import render

    evil = replace(found.models[0], model="<script>alert(1)</script>")
    page = render(replace(found, models=(evil, found.models[1])))
    assert "<script" not in page
    assert "http" not in page
    assert "Conv_6" in page


@pytest.mark.parametrize(
    ("drift", "spread", "is_contended", "outcome"),
    [(0, 0, False, OK), (0.2, 0.2, False, INCONCLUSIVE), (0, 0.5, False, INCONCLUSIVE), (0.2, 0.5, True, CONTENDED)],
)
def test_an_unsteady_machine_is_no_measurement(drift: float, spread: float, is_contended: bool, outcome: str) -> None:
    one = ModelProfile("m", "", (), 1.0, 1.0, drift, spread, 0)
    assert profiling.judged([one], [Measurement((1.0,), (1.0,), 1, 0.0, 0, is_contended)])[0] == outcome


def test_every_kernel_counts_at_its_least_disturbed_round() -> None:
    rounds = [
        [LayerTime("a", "Conv", 3.0), LayerTime("b", "Relu", 1.0)],
        [LayerTime("a", "Conv", 2.0), LayerTime("b", "Relu", 4.0)],
    ]
    assert [kernel.time_s for kernel in profiling.least(rounds)] == [2.0, 1.0]


def test_decorations_of_a_name_come_off_until_it_is_known() -> None:
    assert plain_name("fused /a/Relu_output_0_token_3_nchwc", {"/a/Relu_output_0": None}) == "/a/Relu_output_0"  # type: ignore[dict-item]
    assert plain_name("x_nchwc", {"x_nchwc": None}) == "x_nchwc"  # type: ignore[dict-item]


def test_a_board_is_not_profiled_here(saved: Save) -> None:
    with pytest.raises(RuntimeUnavailable, match="another machine"):
        profiling.profile(saved(residual()), target_name="jetson")


@pytest.mark.parametrize(
    ("target_name", "place", "provider", "is_named", "basis"),
    [
        ("cpu", "this machine", "CPUExecutionProvider", False, "measured here"),
        ("jetson", "this machine", "CPUExecutionProvider", True, "measured here"),
        ("jetson", "board.local", "CUDA", True, "float32_tflops 1.28"),
        ("jetson", "board.local", "CPUExecutionProvider", True, "float32_tflops 1.28"),
        ("cpu", "this machine", "CUDAExecutionProvider", True, "not known"),
        ("cpu", "board.local", "CPUExecutionProvider", True, "not known"),
    ],
)
def test_what_runs_elsewhere_is_not_held_against_this_machine(
    target_name: str, place: str, provider: str, is_named: bool, basis: str
) -> None:
    effective = Effective("any", "1", provider, "float32", 1, False, place=place)
    line = profiling.roofline_for(target.load(target_name), effective, is_named, RunConfig())
    assert basis in line.basis
    assert (line.least(10**9, 10**9) > 0) == (basis != "not known")


def test_the_command_prints_writes_and_exits_with_10_if_disturbed(
    found: profiles.Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from shrinkc.errors import InconclusiveError

    monkeypatch.setattr(profiling, "profile", lambda *arguments, **options: replace(found, outcome=CONTENDED, reason="busy"))
    options = ["--html", str(tmp_path / "p.html"), "--trace", str(tmp_path / "t.json")]
    result = CliRunner().invoke(cli, ["profile", "model.onnx", *options])
    assert isinstance(result.exception, InconclusiveError)
    assert result.exception.exit_code == 10
    assert "CONTENDED: busy" in result.output
    assert json.loads((tmp_path / "t.json").read_text())["otherData"]["outcome"] == CONTENDED
    monkeypatch.setattr(profiling, "profile", lambda *arguments, **options: replace(found, outcome=OK))
    printed = CliRunner().invoke(cli, ["profile", "model.onnx", "--json"])
    assert json.loads(printed.output)["schema"] == "shrinkc.profile/1"
