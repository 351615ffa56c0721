"""Operator families beyond plain convolutional networks: pruned, proved, and judged from outside."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import judge
import numpy as np
import pytest
from models.builder import Net
from models.operator_topologies import OPERATOR_TOPOLOGIES
from models.reach import LEFT_OF_OPERATORS

import shrinkc
from shrinkc.analysis.groups import Analysis
from shrinkc.analysis.kinds import parse_kinds

BEYOND_THE_CHECKER = {
    "divided_by_channels": "it divides the channels it has zeroed, zero by zero",
    "dynamically_quantized": "it silences integers with 0, where their zero point stands for zero",
    "group_normalization_with_a_scale_per_group": "it finds a pruned group norm by its sliced scale, and this one is whole",
    "hard_and_mean_variance": "MeanVarianceNormalization makes NaN of the channels it has zeroed",
    "hardmax_over_channels": "it cannot emulate Hardmax",
    "quantized_by_one_lopsided_scale": "it silences integers with 0, where their zero point stands for zero",
    "range_measured_over_what_is_left": "it does not know that DynamicQuantizeLinear mixes",
    "skip_normalizations": "it does not know that SkipLayerNormalization mixes",
    "statistics_of_a_layer_norm": "it loses the second and third output of a norm that it emulates",
}
"""Topologies that the independent checker cannot decide by its construction, with the reason."""


def halved(name: str, saved: Callable[[Net], Path], tmp_path: Path) -> tuple[Path, Path, Path, object]:
    original, output, plan = saved(OPERATOR_TOPOLOGIES[name]()), tmp_path / "out.onnx", tmp_path / "plan.json"
    report = shrinkc.compress(
        original,
        output=output,
        save_plan=plan,
        prune_ratio=0.5,
        round_to=1,
        optimize=False,
        measure_latency=False,
        prune="conv,mlp,heads,stream",
    )
    return original, output, plan, report


@pytest.mark.parametrize("name", sorted(OPERATOR_TOPOLOGIES))
def test_half_of_the_channels_go_and_both_judges_agree(name: str, saved: Callable[[Net], Path], tmp_path: Path) -> None:
    original, output, plan, report = halved(name, saved, tmp_path)
    assert report.proof is not None
    assert not report.proof.is_weak
    assert report.after.macs <= LEFT_OF_OPERATORS[name] * report.before.macs
    assert judge.face(output) == judge.face(original)
    if name not in BEYOND_THE_CHECKER:
        assert judge.independent_verdict(original, output, plan) == "pass"


PACKAGED = importlib.util.find_spec("ddddocr")


@pytest.mark.skipif(PACKAGED is None, reason="the package ddddocr, whose model this is, is not installed")
def test_a_dynamically_quantised_text_reader_is_pruned_and_proved(tmp_path: Path) -> None:
    assert PACKAGED is not None
    assert PACKAGED.origin is not None
    report = shrinkc.compress(
        Path(PACKAGED.origin).with_name("common_old.onnx"), output=tmp_path / "out.onnx", prune_ratio=0.3,
        measure_latency=False,
    )  # fmt: skip
    assert report.proof is not None
    assert not report.proof.is_weak
    assert report.after.macs < 0.6 * report.before.macs
    assert any("computes with integers" in refusal.blocker.reason for refusal in report.refusals)


def test_the_work_of_a_recurrent_layer_is_that_of_its_gates(saved: Callable[[Net], Path], tmp_path: Path) -> None:
    report = halved("lstm", saved, tmp_path)[3]

    def work(inputs: int, units: int) -> int:
        steps, batch = 5, 3
        gates = 4 * units * (inputs + units)
        return steps * batch * (6 * inputs + gates + units * 4) + batch * units * 3

    assert (report.before.macs, report.after.macs) == (work(10, 8), work(5, 4))


def test_hidden_units_are_counted_and_rounded_as_units(saved: Callable[[Net], Path], tmp_path: Path) -> None:
    report = shrinkc.compress(
        saved(OPERATOR_TOPOLOGIES["stacked_bidirectional_lstm"]()), output=tmp_path / "out.onnx", prune_ratio=0.4, round_to=4,
        measure_latency=False,
    )  # fmt: skip
    assert [(row.channels_before, row.channels_after) for row in report.groups] == [(8, 4), (8, 4)]


@pytest.mark.parametrize("name", [name for name in sorted(OPERATOR_TOPOLOGIES) if name.startswith("group_norm")])
def test_every_normalised_group_keeps_equally_many(name: str, saved: Callable[[Net], Path], tmp_path: Path) -> None:
    plan = json.loads(halved(name, saved, tmp_path)[2].read_text())
    first = plan["groups"][0]["slices"][0]["removed"]
    assert len(first) == 8, "half of sixteen channels are gone"
    assert np.bincount(np.asarray(first) // 4, minlength=4).tolist() == [2, 2, 2, 2]


def test_what_a_skip_normalisation_adds_is_one_stream(analysed: Callable[..., Analysis]) -> None:
    analysis = analysed(OPERATOR_TOPOLOGIES["skip_normalizations"](), kinds=parse_kinds("mlp,stream,conv"))
    assert sorted(group.width for group in analysis.groups) == [12, 12, 16]
