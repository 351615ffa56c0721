"""Constants and sizes as exporters write them: pruned, proved, and judged from outside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import judge
import onnx
import pytest
from models.export_topologies import EXPORTED, declared
from models.reach import LEFT_OF_EXPORTED

import shrinkc

EVERYTHING = "conv,mlp,heads,head-dim,stream"


@pytest.mark.parametrize("prune", [None, EVERYTHING], ids=["default", "everything"])
@pytest.mark.parametrize("name", sorted(EXPORTED))
def test_half_of_the_channels_go_and_both_judges_agree(
    name: str, prune: str | None, saved: Callable[[onnx.ModelProto], Path], tmp_path: Path
) -> None:
    original, output, plan = saved(declared(EXPORTED[name]())), tmp_path / "out.onnx", tmp_path / "plan.json"
    report = shrinkc.compress(
        original, output=output, save_plan=plan, prune_ratio=0.5, round_to=1, optimize=False, measure_latency=False, prune=prune
    )
    assert report.proof is not None
    assert not report.proof.is_weak
    assert report.after.macs <= LEFT_OF_EXPORTED[name][prune is not None] * report.before.macs
    stored = sum(len(tensor.float_data) + len(tensor.raw_data) // 4 for tensor in _floats(output))
    assert report.after.parameters == stored, "the predicted number of parameters is the real one"
    assert judge.independent_verdict(original, output, plan) == "pass"


def _floats(path: Path) -> list[onnx.TensorProto]:
    return [tensor for tensor in onnx.load(str(path)).graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
