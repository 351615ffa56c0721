"""Attention heads, the dims inside them, residual streams: every combination is pruned, proved, and judged from outside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import judge
import pytest
from models.attention_topologies import ATTENTION
from models.builder import Net
from models.reach import LEFT_OF_ATTENTION

import shrinkc
from shrinkc.errors import BudgetError

SWITCHES = ["conv,mlp,heads", "head-dim", "heads,head-dim", "stream", "conv,mlp,heads,head-dim,stream"]


def compressed(name: str, prune: str | None, saved: Callable[[Net], Path], tmp_path: Path) -> tuple[shrinkc.Report, Path, Path]:
    original, output, plan = saved(ATTENTION[name]()), tmp_path / "out.onnx", tmp_path / "plan.json"
    report = shrinkc.compress(
        original, output=output, save_plan=plan, prune_ratio=0.5, round_to=1, optimize=False, measure_latency=False,
        prune=prune,
    )  # fmt: skip
    return report, original, plan


@pytest.mark.parametrize("prune", SWITCHES)
@pytest.mark.parametrize("name", sorted(ATTENTION))
def test_every_kind_of_channels_goes_alone_and_with_the_others(
    name: str, prune: str, saved: Callable[[Net], Path], tmp_path: Path
) -> None:
    try:
        report, original, plan = compressed(name, prune, saved, tmp_path)
    except BudgetError:
        assert prune not in (SWITCHES[0], SWITCHES[-1]), "there is always something to remove"
        return
    assert report.proof is not None
    assert not report.proof.is_weak
    assert {group.kind for group in report.groups} <= set(prune.split(","))
    most_left = LEFT_OF_ATTENTION[name] if prune == SWITCHES[0] else 0.99
    assert report.after.macs <= most_left * report.before.macs
    assert judge.face(tmp_path / "out.onnx") == judge.face(original)
    assert judge.independent_verdict(original, tmp_path / "out.onnx", plan) == "pass"
