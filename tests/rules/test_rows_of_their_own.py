"""Heads and groups keep channels of their own choice, equally many, where nothing speaks against it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import judge
import numpy as np
import onnx
import pytest
from models.attention_topologies import ATTENTION, DIM, HEADS, finish, linear, merge_heads, split_heads, start, weighted
from models.builder import Net
from models.topologies import TOPOLOGIES
from models.topologies import start as start_image
from onnx import numpy_helper

import shrinkc


def compressed(path: Path, tmp_path: Path, **options: Any) -> tuple[shrinkc.Report, Path, Path]:
    output, plan = tmp_path / "out.onnx", tmp_path / "plan.json"
    report = shrinkc.compress(
        path, output=output, save_plan=plan, prune_ratio=0.5, round_to=1, optimize=False, measure_latency=False, **options
    )
    return report, output, plan


def weak_dims(chosen: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Make the columns of a projection that ``chosen`` marks (heads, dims) next to nothing."""

    def weaken(weight: np.ndarray) -> np.ndarray:
        weight[:, chosen.reshape(-1)] *= 1e-3
        return weight

    return weaken


def attention_with_weak_dims(weak: np.ndarray) -> Net:
    net, x = start()
    parts = [split_heads(net, linear(net, x, DIM, DIM, bias=False)) for _ in range(3)]
    weaken = weak_dims(weak)
    projections = [t for t in net.initializers if list(t.dims) == [DIM, DIM]]
    for tensor in projections:
        array = weaken(np.array(numpy_helper.to_array(tensor)))
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return finish(net, linear(net, merge_heads(net, weighted(net, *parts)), DIM, DIM))


def test_every_head_keeps_the_dims_that_matter_to_it(saved: Callable[[Net], Path], tmp_path: Path) -> None:
    weak = np.zeros((HEADS, 4), bool)
    for head, dims in enumerate([(0, 1), (2, 3), (0, 3), (1, 2)]):
        weak[head, list(dims)] = True
    original = saved(attention_with_weak_dims(weak))
    report, output, plan = compressed(original, tmp_path, prune="head-dim")
    assert report.proof is not None
    before = {t.name: numpy_helper.to_array(t) for t in onnx.load(str(original)).graph.initializer}
    after = {t.name: numpy_helper.to_array(t) for t in onnx.load(str(output)).graph.initializer}
    kept = (~weak).reshape(-1)
    cut = [name for name, array in before.items() if array.shape == (DIM, DIM) and after[name].shape == (DIM, DIM // 2)]
    assert len(cut) == 3, "queries, keys and values"
    for name in cut:
        np.testing.assert_array_equal(after[name], before[name][:, kept])
    assert judge.independent_verdict(original, output, plan) == "pass"


def test_heads_and_dims_go_together_and_every_head_that_stays_keeps_as_many(
    saved: Callable[[Net], Path], tmp_path: Path
) -> None:
    report, output, _ = compressed(saved(ATTENTION["einsum_attention"]()), tmp_path, prune="heads,head-dim")
    widths = {group.kind: (group.channels_before, group.channels_after) for group in report.groups}
    assert widths["heads"] == (16, 8)
    assert widths["head-dim"] == (16, 4)
    reshapes = [n for n in onnx.load(str(output)).graph.node if n.op_type == "Reshape"]
    assert len(reshapes) == 4


def grouped_with_weak_inputs() -> Net:
    """Two groups; each has its own strong inputs."""
    net, x = start_image()
    first = net.weight(8, 3, 3, 3)
    strong = np.array(numpy_helper.to_array(net.initializers[-1]))
    strong[[0, 1, 6, 7]] *= 1e-3
    net.initializers[-1].CopyFrom(numpy_helper.from_array(strong, first))
    y = net.relu(net.op("Conv", x, first, pads=[1] * 4, kernel_shape=[3, 3]))
    net.output(net.head(net.relu(net.conv(y, 8, 12, group=2)), 12))
    return net


def test_groups_of_a_convolution_choose_for_themselves_if_asked(saved: Callable[[Net], Path], tmp_path: Path) -> None:
    original = saved(grouped_with_weak_inputs())
    plain, _, plan = compressed(original, tmp_path)
    assert json.loads(plan.read_text())["reconstructed"] == []
    assert judge.independent_verdict(original, tmp_path / "out.onnx", plan) == "pass"

    report, output, plan = compressed(original, tmp_path, independent_groups=True)
    assert report.proof is not None
    assert max(trial.error for trial in report.proof.trials) < 0.1
    assert report.after.macs == plain.after.macs
    data = json.loads(plan.read_text())
    (name,) = data["reconstructed"]
    assert data["reconstruction"] is True
    before = {t.name: numpy_helper.to_array(t) for t in onnx.load(str(original)).graph.initializer}[name]
    after = {t.name: numpy_helper.to_array(t) for t in onnx.load(str(output)).graph.initializer}[name]
    rows = next(s for g in data["groups"] for s in g["slices"] if s["initializer"] == name and s["axis"] == 0)["removed"]
    kept = [[row for row in range(g * 6, g * 6 + 6) if row not in rows] for g in range(2)]
    expected = np.concatenate([before[kept[0]][:, [2, 3]], before[kept[1]][:, [0, 1]]])
    np.testing.assert_array_equal(after, expected)


@pytest.mark.parametrize("name", ["grouped", "grouped_uneven", "grouped_shuffle"])
def test_independent_groups_are_proved_and_replayed(name: str, saved: Callable[[Net], Path], tmp_path: Path) -> None:
    original = saved(TOPOLOGIES[name]())
    report, output, plan = compressed(original, tmp_path, independent_groups=True)
    assert report.proof is not None
    again = shrinkc.compress(original, output=tmp_path / "b.onnx", plan=plan, optimize=False, measure_latency=False)
    assert again.proof is not None
    assert output.read_bytes() == (tmp_path / "b.onnx").read_bytes()
