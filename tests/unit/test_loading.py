"""Damaged, hostile and merely large files: a clear error or a correct model, never a crash and never half a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from models.builder import Net
from models.topologies import TOPOLOGIES
from onnx import helper, numpy_helper

import shrinkc
from shrinkc import ir as shrinkc_ir
from shrinkc.errors import ModelLoadError, ShrinkcError, UnsupportedGraphError

Save = Callable[..., Path]


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="does not exist"):
        shrinkc_ir.load(tmp_path / "nowhere.onnx")


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x00" * 64, os.urandom(512), b"PK\x03\x04" + b"x" * 100])
def test_what_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelLoadError):
        shrinkc_ir.load(path)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_truncated_file_never_gives_a_model(share: float, saved: Save, tmp_path: Path) -> None:
    path = saved(TOPOLOGIES["projection_shortcut"]())
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ShrinkcError) as caught:
        shrinkc.compress(path, output=tmp_path / "out.onnx", measure_latency=False)
    assert caught.value.exit_code in (3, 5)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx"]


def test_flipped_bytes_never_crash(saved: Save, tmp_path: Path) -> None:
    path = saved(TOPOLOGIES["chain"]())
    data = path.read_bytes()
    random = np.random.default_rng(0)
    codes = []
    for _ in range(60):
        damaged = bytearray(data)
        for position in random.integers(0, len(data), 4):
            damaged[position] ^= int(random.integers(1, 256))
        path.write_bytes(bytes(damaged))
        codes.append(outcome(path, tmp_path / "out.onnx"))
    assert set(codes) <= {0, 2, 3, 4, 5}
    assert {0, 3} <= set(codes), "some damage is harmless, some is not"


def outcome(path: Path, output: Path) -> int:
    """Exit code a run would have; anything but an error of ours escapes."""
    try:
        shrinkc.compress(path, output=output, prune_ratio=0.5, measure_latency=False)
    except ShrinkcError as error:
        return error.exit_code
    return 0


def test_sparse_initializers_are_refused_not_lost(saved: Save) -> None:
    model = TOPOLOGIES["chain"]().model()
    values = numpy_helper.from_array(np.ones(1, np.float32), "sparse_weight")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "indices")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    with pytest.raises(UnsupportedGraphError, match="sparse"):
        shrinkc_ir.load(saved(model))


def test_a_value_that_nothing_produces_is_named(saved: Save) -> None:
    model = TOPOLOGIES["chain"]().model()
    model.graph.node[1].input[0] = "ghost"
    with pytest.raises(ModelLoadError, match="ghost"):
        shrinkc_ir.load(saved(model))


def external(tmp_path: Path, location: str) -> Path:
    """A model whose first weight claims to lie at ``location``."""
    model = TOPOLOGIES["chain"]().model()
    tensor = model.graph.initializer[0]
    raw = tensor.raw_data
    (tmp_path / "weights.bin").write_bytes(raw)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(len(raw)))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    path = tmp_path / "inside" / "model.onnx"
    path.parent.mkdir()
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("location", ["../weights.bin", "ABSOLUTE", "link.bin", "linked_folder/weights.bin"])
def test_external_data_must_stay_in_the_models_folder(location: str, tmp_path: Path) -> None:
    path = external(tmp_path, str(tmp_path / "weights.bin") if location == "ABSOLUTE" else location)
    (path.parent / "link.bin").symlink_to(tmp_path / "weights.bin")
    (path.parent / "linked_folder").symlink_to(tmp_path)
    with pytest.raises(UnsupportedGraphError, match="outside"):
        shrinkc_ir.load(path)


def test_missing_and_truncated_external_data_are_told_apart(tmp_path: Path) -> None:
    path = external(tmp_path, "weights.bin")
    with pytest.raises(ModelLoadError, match="missing"):
        shrinkc_ir.load(path)
    (path.parent / "weights.bin").write_bytes((tmp_path / "weights.bin").read_bytes()[:-8])
    with pytest.raises(ModelLoadError, match="truncated"):
        shrinkc_ir.load(path)


def test_external_data_is_pruned_like_any_other(tmp_path: Path) -> None:
    path = external(tmp_path, "weights.bin")
    (path.parent / "weights.bin").write_bytes((tmp_path / "weights.bin").read_bytes())
    report = shrinkc.compress(path, output=tmp_path / "out.onnx", prune_ratio=0.5, round_to=1, measure_latency=False)
    assert report.proof is not None
    assert report.before.size_bytes == path.stat().st_size + (tmp_path / "weights.bin").stat().st_size


def test_a_tensor_that_stays_external_in_memory_is_inside_the_result(tmp_path: Path) -> None:
    """The last bias is not cut, so it still lies in the original's file when the result is written elsewhere."""
    path = external(tmp_path, "weights.bin")
    model = onnx.load(str(path), load_external_data=False)
    onnx.save(TOPOLOGIES["chain"]().model(), str(path), save_as_external_data=True, location="all.bin", size_threshold=0)
    assert len(model.graph.initializer)
    output = tmp_path / "elsewhere" / "out.onnx"
    shrinkc.compress(path, output=output, prune_ratio=0.5, round_to=1)
    assert not any(tensor.external_data for tensor in onnx.load(str(output), load_external_data=False).graph.initializer)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: setattr(t, "raw_data", t.raw_data[:-4]), "does not fill"),
        (lambda t: setattr(t, "raw_data", t.raw_data + b"1234"), "does not fill"),
        (lambda t: t.ClearField("raw_data"), "holds no data"),
        (lambda t: t.dims.__setitem__(0, -1), "negative"),
        (lambda t: setattr(t, "data_type", 99), "malformed"),
    ],
)
def test_a_tensor_must_fill_its_shape(damage: Callable[..., None], message: str, saved: Save) -> None:
    model = TOPOLOGIES["chain"]().model()
    damage(model.graph.initializer[0])
    with pytest.raises(ModelLoadError, match=message):
        shrinkc_ir.load(saved(model))


def test_a_large_single_file_is_spilled_and_the_spill_goes_again(
    saved: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shrinkc_ir, "INLINE_LIMIT_BYTES", 100)
    path, output = saved(TOPOLOGIES["projection_shortcut"]()), tmp_path / "out.onnx"
    report = shrinkc.compress(path, output=output, prune_ratio=0.5, round_to=1, measure_latency=False)
    assert report.proof is not None
    assert not list(tmp_path.glob("*.work"))
    onnx.load(str(output), load_external_data=False).graph.initializer[0].ByteSize()
    assert not any(t.external_data for t in onnx.load(str(output), load_external_data=False).graph.initializer)


def test_a_result_above_the_limit_of_one_file_is_saved_with_external_data(
    saved: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shrinkc_ir, "PROTOBUF_LIMIT_BYTES", 100)
    path, output = saved(TOPOLOGIES["projection_shortcut"]()), tmp_path / "result" / "out.onnx"
    report = shrinkc.compress(path, output=output, prune_ratio=0.5, round_to=1)
    assert report.proof is not None
    assert (output.parent / "out.onnx.data").exists()
    assert report.after.size_bytes == output.stat().st_size + (output.parent / "out.onnx.data").stat().st_size
    onnx.checker.check_model(str(output))


def test_nothing_untouched_changes_on_a_round_trip(saved: Save, tmp_path: Path) -> None:
    path = saved(TOPOLOGIES["control_flow"]())
    shrinkc_ir.save(shrinkc_ir.load(path), tmp_path / "again.onnx")
    before, after = onnx.load(str(path)), onnx.load(str(tmp_path / "again.onnx"))
    for a, b in zip(before.graph.node, after.graph.node, strict=True):
        assert (a.name, a.op_type, a.domain, a.input, a.output, a.attribute) == (
            b.name,
            b.op_type,
            b.domain,
            b.input,
            b.output,
            b.attribute,
        )
    assert {t.name: t.raw_data for t in before.graph.initializer} == {t.name: t.raw_data for t in after.graph.initializer}
    assert {e.key: e.value for e in before.metadata_props} == {e.key: e.value for e in after.metadata_props}
    assert len(after.graph.value_info) == len(before.graph.value_info)


def test_stack_traces_of_the_exporter_are_dropped_and_scopes_kept(saved: Save, tmp_path: Path) -> None:
    model = TOPOLOGIES["chain"]().model()
    helper.set_model_props(model, {"keep": "me"})
    for key in ("pkg.torch.onnx.stack_trace", "pkg.torch.onnx.name_scopes"):
        entry = model.graph.node[0].metadata_props.add()
        entry.key, entry.value = key, "/home/somebody/secret.py"
    shrinkc_ir.save(shrinkc_ir.load(saved(model)), tmp_path / "out.onnx")
    after = onnx.load(str(tmp_path / "out.onnx"))
    assert [entry.key for entry in after.graph.node[0].metadata_props] == ["pkg.torch.onnx.name_scopes"]
    assert [entry.key for entry in after.metadata_props] == ["keep"]


def test_saving_leaves_the_old_file_when_it_fails(saved: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, target = shrinkc_ir.load(saved(TOPOLOGIES["chain"]())), tmp_path / "target.onnx"
    target.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shrinkc_ir.os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        shrinkc_ir.save(model, target)
    assert target.read_bytes() == b"old"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "target.onnx"]


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 18, 21, 23])
def test_every_opset_in_the_wild_is_read_and_pruned(opset: int, saved: Save, tmp_path: Path) -> None:
    net = Net(opset=opset, ir_version=11 if opset > 21 else 9)
    x = net.input("x", ["n", 3, 8, 8])
    stem = net.cbr(x, 3, 8)
    net.output(net.head(net.relu(net.op("Add", net.cbr(stem, 8, 8), stem)), 8))
    report = shrinkc.compress(saved(net), output=tmp_path / "out.onnx", prune_ratio=0.5, round_to=1, measure_latency=False)
    assert report.proof is not None
    assert report.after.parameters < 0.4 * report.before.parameters
