"""Reading and writing models: ``onnx_ir.Model`` in, ``onnx_ir.Model`` out, nothing lost and nothing half-written."""

from __future__ import annotations

import atexit
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from shrinkc.errors import ModelLoadError, UnsupportedGraphError

if TYPE_CHECKING:
    import onnx

INLINE_LIMIT_BYTES = 256 * 1024 * 1024
"""Above this a single-file model is first written out with external data, so its tensors stay on disk."""

PROTOBUF_LIMIT_BYTES = 1_900_000_000
"""A single ONNX file cannot exceed 2 GiB; larger models are saved with external data."""

DEBUG_KEYS = ("pkg.torch.onnx.stack_trace", "pkg.torch.onnx.fx_node")
"""Metadata of the torch exporter that carries absolute source paths of the machine that exported the model."""


def load(path: str | os.PathLike[str], work_dir: Path | None = None) -> ir.Model:
    """Read an ONNX model without reading its weights.

    Parameters
    ----------
    path : path
        The ``.onnx`` file.
    work_dir : Path, optional
        Where a single-file model above ``INLINE_LIMIT_BYTES`` is spilled to external data.  Without it the model is
        kept in memory whatever its size.

    Raises
    ------
    ModelLoadError
        The file is missing, truncated, not ONNX, or its graph refers to values that nothing produces.
    UnsupportedGraphError
        The model has sparse initializers (the IR would drop them), or external data outside its own folder.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelLoadError("the model file does not exist", where=str(path))
    model = _parse(path)
    check_external_data(model, path.parent)
    _check_structure(model, path)
    _check_writable(model, path)
    if work_dir is not None and path.stat().st_size >= INLINE_LIMIT_BYTES:
        model = _spill(model, work_dir)
    return model


def _parse(path: Path) -> ir.Model:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        proto = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError, OSError, RuntimeError) as error:
        raise ModelLoadError(
            "not a readable ONNX model",
            where=str(path),
            because=str(error).splitlines()[0] if str(error) else type(error).__name__,
            hint="check that the file is complete and not encrypted",
        ) from error
    _check_proto(proto, path)
    try:
        model = ir.from_proto(proto)
    except Exception as error:  # onnx_ir raises many types on malformed graphs; all of them mean the same to a user
        cause = error.__cause__ or error
        raise ModelLoadError("the graph is malformed", where=str(path), because=f"{type(cause).__name__}: {cause}") from error
    ir.external_data.set_base_dir(model.graph, path.parent)
    return model


def _check_proto(proto: onnx.ModelProto, path: Path) -> None:
    """Refuse what the IR would silently lose or invent."""
    graph = proto.graph
    if not proto.ir_version or not (graph.node or graph.output):
        raise ModelLoadError(
            "not an ONNX model", where=str(path), because="it has no graph", hint="encrypted and renamed files look like this"
        )
    constants = [a.t for node in graph.node if node.op_type == "Constant" for a in node.attribute if a.name == "value"]
    for tensor in (*graph.initializer, *constants):
        _check_stored(tensor, path)
    if graph.sparse_initializer:
        names = ", ".join(tensor.values.name for tensor in graph.sparse_initializer[:3])
        raise UnsupportedGraphError(
            "the model has sparse initializers", where=names, hint="convert them to dense tensors first"
        )


def check_external_data(model: ir.Model, folder: Path) -> None:
    """Refuse external data that leaves the model's folder, is missing, or is shorter than declared.

    Raises
    ------
    UnsupportedGraphError
        A location is absolute, climbs with ``..`` or passes through a symbolic link out of ``folder``.
    ModelLoadError
        The data file is missing or truncated.
    """
    root = folder.resolve()
    for tensor in _tensors(model):
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        if "\0" in os.fspath(tensor.location):
            raise ModelLoadError("external data has an impossible location", where=tensor.name or "")
        location = Path(os.fspath(tensor.location))
        resolved = (root / location).resolve()
        if location.is_absolute() or ".." in location.parts or not resolved.is_relative_to(root):
            raise UnsupportedGraphError(
                "external data outside the model's folder is refused", where=f"{tensor.name}: {location}"
            )
        if not resolved.is_file():
            raise ModelLoadError("external data is missing", where=f"{tensor.name}: {location}")
        if resolved.stat().st_size < (tensor.offset or 0) + tensor.nbytes:
            raise ModelLoadError("external data is truncated", where=f"{tensor.name}: {location}")


def _check_stored(tensor: onnx.TensorProto, path: Path) -> None:
    """Refuse a tensor whose stored bytes do not fill its shape."""
    import onnx

    where = f"{path}: {tensor.name}"
    if any(dim < 0 for dim in tensor.dims):
        raise ModelLoadError("a tensor has a negative size", where=where)
    elements = math.prod(tensor.dims)
    external = {entry.key: entry.value for entry in tensor.external_data}
    is_external = tensor.data_location == onnx.TensorProto.EXTERNAL
    if tensor.data_type == onnx.TensorProto.STRING or not (tensor.HasField("raw_data") or "length" in external):
        typed = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
        if elements and not is_external and not any(len(getattr(tensor, name)) for name in typed):
            raise ModelLoadError("a tensor holds no data", where=where)
        return
    try:
        bits = ir.DataType(tensor.data_type).bitwidth
        stored = int(external["length"]) if is_external else len(tensor.raw_data)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelLoadError("a tensor is malformed", where=where, because=str(error)) from error
    if stored != -(-elements * bits // 8):
        raise ModelLoadError(
            "a tensor's data does not fill its shape", where=where, because=f"{stored} bytes for {list(tensor.dims)}"
        )


def _check_writable(model: ir.Model, path: Path) -> None:
    """A damaged file can be read and yet not be written again (names that are no text, say): find out now."""
    try:
        skeleton(model)
    except Exception as error:
        cause = error
        while cause.__cause__ is not None:
            cause = cause.__cause__  # type: ignore[assignment]
        raise ModelLoadError(
            "the file is damaged", where=str(path), because=f"{type(cause).__name__}: {cause}"[:300]
        ) from error


def _tensors(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    for graph in [model.graph, *model.graph.subgraphs()]:
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value
    for node in model.graph.all_nodes():
        for attribute in node.attributes.values():
            if isinstance(attribute, ir.Attr) and attribute.type == ir.AttributeType.TENSOR:
                yield attribute.as_tensor()


def _check_structure(model: ir.Model, path: Path) -> None:
    for output in model.graph.outputs:
        if output.producer() is None and not output.is_graph_input() and not output.is_initializer():
            raise ModelLoadError("nothing produces a graph output", where=f"{path}: {output.name}")
    for node in model.graph.all_nodes():
        for value in node.inputs:
            if value is not None and value.graph is None and value.producer() is None:
                raise ModelLoadError(
                    "a node reads a value that nothing produces",
                    where=f"{node.name or node.op_type}: {value.name}",
                    hint="the file may be truncated or hand-edited; run onnx.checker on it",
                )


def _spill(model: ir.Model, work_dir: Path) -> ir.Model:
    work_dir.mkdir(parents=True, exist_ok=True)
    target = work_dir / "spilled.onnx"
    ir.save(model, target, external_data="spilled.onnx.data")
    return ir.load(target)


def size_bytes(model: ir.Model) -> int:
    """Bytes of all tensors of the model, in initializers and Constant nodes (subgraphs included)."""
    return sum(tensor.nbytes for tensor in _tensors(model))


def save(model: ir.Model, path: str | os.PathLike[str], *, keep_debug_info: bool = False) -> int:
    """Write a model beside its target and rename it into place.

    Parameters
    ----------
    model : ir.Model
    path : path
        Target file; ``path`` + ``.data`` holds the weights if the model exceeds the 2 GiB of one file.
    keep_debug_info : bool
        Keep the torch exporter's stack traces (absolute paths of the exporting machine).

    Returns
    -------
    int
        Bytes written, external data included.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not keep_debug_info:
        strip_debug_info(model)
    data_name = path.name + ".data" if size_bytes(model) > PROTOBUF_LIMIT_BYTES else None
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        draft = Path(folder) / path.name
        _write(model, draft, data_name)
        written = sum(file.stat().st_size for file in Path(folder).iterdir())
        # The data file goes first: a model file that exists always has its data.
        if data_name is not None:
            os.replace(draft.with_name(data_name), path.with_name(data_name))
        os.replace(draft, path)
    return written


def _write(model: ir.Model, path: Path, data_name: str | None) -> None:
    if data_name is not None:
        # onnx_ir points the tensors at the draft's data file while saving; a clone keeps the caller's tensors valid.
        ir.save(model.clone(), path, external_data=data_name)
        return
    path.write_bytes(_complete_proto(model).SerializeToString())


def drop_initializer_value_info(proto: onnx.ModelProto) -> None:
    """Remove the ``value_info`` entries that onnx_ir adds for initializers."""
    graph = proto.graph
    names = {tensor.name for tensor in graph.initializer}
    kept = [info for info in graph.value_info if info.name not in names]
    if len(kept) != len(graph.value_info):
        del graph.value_info[:]
        graph.value_info.extend(kept)


def strip_debug_info(model: ir.Model) -> None:
    """Drop the exporter's stack traces; scope names stay."""
    for node in model.graph.all_nodes():
        for key in DEBUG_KEYS:
            node.metadata_props.pop(key, None)


def written_bytes(model: ir.Model) -> int:
    """Bytes that :func:`save` would write."""
    data = serialized(model)
    return size_bytes(model) if data is None else len(data)


def serialized(model: ir.Model) -> bytes | None:
    """Bytes of the model, or None if it is too large for one file."""
    if size_bytes(model) > PROTOBUF_LIMIT_BYTES:
        return None
    data: bytes = _complete_proto(model).SerializeToString()
    return data


def _complete_proto(model: ir.Model) -> onnx.ModelProto:
    """Proto with every tensor inside it, wherever the model keeps them."""
    if external_tensors(model):
        model = model.clone()
        for graph in [model.graph, *model.graph.subgraphs()]:
            for value in graph.initializers.values():
                if isinstance(value.const_value, ir.ExternalTensor):
                    # Copied, for the map of the file may go before the array does.
                    value.const_value = ir.Tensor(value.const_value.numpy().copy(), value.const_value.dtype, name=value.name)
    proto = ir.to_proto(model)
    drop_initializer_value_info(proto)
    return proto


def constant_tensor(value: ir.Value) -> ir.TensorProtocol | None:
    """Tensor behind an initializer or a Constant node's output; None for anything else."""
    if value.const_value is not None and value.is_initializer():
        return value.const_value
    node = value.producer()
    if node is None or node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    return _constant_attribute(node)


def stored_array(value: ir.Value) -> np.ndarray:
    """Array behind an initializer or Constant output.

    Raises
    ------
    ValueError
        The value is computed, not stored.
    """
    tensor = constant_tensor(value)
    if tensor is None:
        raise ValueError(f"{value.name} is not stored in the model")
    return tensor.numpy()


def _constant_attribute(node: ir.Node) -> ir.TensorProtocol | None:
    for name, attribute in node.attributes.items():
        if not isinstance(attribute, ir.Attr):
            return None
        if name == "value":
            return attribute.as_tensor()
        if name in ("value_float", "value_floats"):
            return ir.tensor(attribute.value, dtype=ir.DataType.FLOAT, name=node.outputs[0].name)
        if name in ("value_int", "value_ints"):
            return ir.tensor(attribute.value, dtype=ir.DataType.INT64, name=node.outputs[0].name)
    return None


def replace_tensor(value: ir.Value, array: np.ndarray) -> None:
    """Put another array behind an initializer or Constant output, under the same name and element type."""
    old = constant_tensor(value)
    tensor = ir.Tensor(array, dtype=None if old is None else old.dtype, name=value.name)
    producer = value.producer()
    if producer is None:
        value.const_value = tensor
    else:
        for name in [name for name in producer.attributes if name.startswith("value")]:
            del producer.attributes[name]
        producer.attributes["value"] = ir.AttrTensor("value", tensor)
    if value.shape is not None:
        value.shape = ir.Shape(array.shape)


def loadable(model: ir.Model) -> bytes | Path:
    """What a runtime can load: the bytes of a model, or the path of a temporary copy if it exceeds one file.

    The temporary folder is removed when the process ends.
    """
    data = serialized(model)
    if data is not None:
        return data
    folder = Path(tempfile.mkdtemp(prefix="shrinkc-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    ir.save(model.clone(), folder / "model.onnx", external_data="model.onnx.data")
    return folder / "model.onnx"


SKELETON_LIMIT_BYTES = 1024
"""Tensors above this are left out of a skeleton; shape constants are below."""


def skeleton(model: ir.Model) -> onnx.ModelProto:
    """Model without its large tensors, for checks that need types and shapes only.

    Large initializers become graph inputs of the same type and shape.
    """
    copy = model.clone()
    for value in list(copy.graph.initializers.values()):
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > SKELETON_LIMIT_BYTES:
            value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
            if not value.is_graph_input():
                copy.graph.inputs.append(value)
            value.const_value = None
            del copy.graph.initializers[value.name or ""]
    proto = ir.to_proto(copy)
    drop_initializer_value_info(proto)
    return proto


def external_tensors(model: ir.Model) -> list[ir.ExternalTensor]:
    """Every tensor of a model that lies outside its file."""
    return [tensor for tensor in _tensors(model) if isinstance(tensor, ir.ExternalTensor)]
