"""The proof is worth its name: wrong surgery of every kind is caught."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from models.topologies import TOPOLOGIES

import shrinkc
from shrinkc import carrying_out, masking, registry, verify
from shrinkc import ir as shrinkc_ir
from shrinkc.analysis.groups import Analysis
from shrinkc.errors import VerificationError
from shrinkc.shapes import input_shapes
from shrinkc.surgery import remove_channels

RUNTIME = registry.load("runtimes", "onnxruntime-cpu")()


def halved(analysis: Analysis) -> np.ndarray:
    return analysis.keep_mask({group.name: range(0, group.width, 2) for group in analysis.groups})


def prove(analysis: Analysis, pruned: ir.Model, is_kept: np.ndarray) -> verify.Proof:
    return verify.prove(analysis, is_kept, pruned, input_shapes(analysis.model), RUNTIME)


def swap_two_rows(model: ir.Model) -> None:
    value = next(v for v in model.graph.initializers.values() if v.const_value is not None and v.const_value.numpy().ndim == 4)
    array = value.const_value.numpy().copy()  # type: ignore[union-attr]
    array[[0, 1]] = array[[1, 0]]
    shrinkc_ir.replace_tensor(value, array)


def nudge_one_weight(model: ir.Model) -> None:
    value = next(v for v in model.graph.initializers.values() if v.const_value is not None and v.const_value.numpy().ndim == 4)
    array = value.const_value.numpy().copy()  # type: ignore[union-attr]
    array.flat[0] = np.nextafter(array.flat[0], 9)
    shrinkc_ir.replace_tensor(value, array)


def drop_an_activation(model: ir.Model) -> None:
    node = next(n for n in model.graph if n.op_type == "Relu")
    node.outputs[0].replace_all_uses_with(node.inputs[0])


def permute_through_a_gather(model: ir.Model) -> None:
    node = next(n for n in model.graph if n.op_type == "Gather")
    shrinkc_ir.replace_tensor(node.inputs[1], node.inputs[1].const_value.numpy()[::-1].copy())  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize(
    ("name", "sabotage"),
    [
        ("chain", swap_two_rows),
        ("chain", nudge_one_weight),
        ("projection_shortcut", drop_an_activation),
        ("gather_channels", permute_through_a_gather),
    ],
)
def test_sabotage_is_caught(name: str, sabotage: Callable[[ir.Model], None], analysed: Callable[..., Analysis]) -> None:
    analysis = analysed(TOPOLOGIES[name]())
    is_kept = halved(analysis)
    pruned = remove_channels(analysis, is_kept, input_shapes(analysis.model))
    prove(analysis, pruned, is_kept)
    sabotage(pruned)
    with pytest.raises(VerificationError):
        prove(analysis, pruned, is_kept)


def test_a_missing_coupling_is_caught(analysed: Callable[..., Analysis]) -> None:
    """Forget that the two convolutions behind an Add share channels: shapes still fit, values do not."""
    analysis = analysed(TOPOLOGIES["concat_then_add"]())
    is_kept = halved(analysis)
    wrong = replace_cut(analysis)
    with pytest.raises(VerificationError):
        prove(wrong, remove_channels(wrong, is_kept, input_shapes(analysis.model)), is_kept)


def replace_cut(analysis: Analysis) -> Analysis:
    """Reverse the channels of one producer's cut."""
    cuts = list(analysis.cuts)
    index = next(i for i, cut in enumerate(cuts) if cut.role.value == "produces" and len(cut.classes) == 16)
    cuts[index] = replace(cuts[index], classes=cuts[index].classes[::-1])
    return replace(analysis, cuts=cuts)


def test_dead_weights_cannot_hide_a_wrong_coupling(analysed: Callable[..., Analysis]) -> None:
    """With constant weights every channel is the same, so only the re-drawn weights can tell."""
    model = TOPOLOGIES["gather_channels"]().model()
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.raw_data = np.full(tensor.dims, 0.1, np.float32).tobytes()
    analysis = analysed(model)
    is_kept = halved(analysis)
    pruned = remove_channels(analysis, is_kept, input_shapes(analysis.model))
    permute_through_a_gather(pruned)
    with pytest.raises(VerificationError, match="redrawn"):
        prove(analysis, pruned, is_kept)


def test_the_masked_original_differs_from_the_original_only_in_what_was_removed(analysed: Callable[..., Analysis]) -> None:
    analysis = analysed(TOPOLOGIES["identity_shortcut"]())
    everything = np.ones(analysis.n_classes + 1, bool)
    masked = masking.masked_original(analysis, everything, input_shapes(analysis.model))
    before, after = onnx.ModelProto(), onnx.ModelProto()
    before.ParseFromString(shrinkc_ir.serialized(analysis.model) or b"")
    after.ParseFromString(shrinkc_ir.serialized(masked) or b"")
    assert before == after


def test_a_failed_proof_exits_with_5_and_keeps_both_models(
    saved: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(TOPOLOGIES["chain"]())

    def wrong(*arguments: object) -> ir.Model:
        model = remove_channels(*arguments)  # type: ignore[arg-type]
        swap_two_rows(model)
        return model

    monkeypatch.setattr(carrying_out, "remove_channels", wrong)
    with pytest.raises(VerificationError) as caught:
        shrinkc.compress(path, output=tmp_path / "out.onnx", prune_ratio=0.5, round_to=1)
    assert caught.value.exit_code == 5
    assert "out.rejected.onnx" in caught.value.hint
    assert (tmp_path / "out.rejected.onnx").exists()
    assert path.exists()
    assert not (tmp_path / "out.onnx").exists()


def test_stale_shapes_are_caught_by_strict_inference(analysed: Callable[..., Analysis]) -> None:
    model = onnx.shape_inference.infer_shapes(TOPOLOGIES["chain"]().model())
    analysis = analysed(model)
    is_kept = halved(analysis)
    pruned = remove_channels(analysis, is_kept, input_shapes(analysis.model))
    assert prove(analysis, pruned, is_kept).strict_shapes == "passed"
    value = next(iter(pruned.graph)).outputs[0]
    assert value.shape is not None
    value.shape = ir.Shape([value.shape[0], 8, *list(value.shape)[2:]])
    with pytest.raises(VerificationError, match="strict"):
        prove(analysis, pruned, is_kept)
