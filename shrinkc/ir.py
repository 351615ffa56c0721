"""Reading and writing models: ``onnx_ir.Model`` in, ``onnx_ir.Model`` out, nothing lost and nothing half-written."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from shrinkc.admission import check_external_data, check_proto, check_structure
from shrinkc.errors import ModelLoadError, UnsupportedGraphError
from shrinkc.graphs import all_graphs, attribute_tensors, graph_pairs, tensors

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
    check_structure(model, path)
    _check_writable(model, path)
    if work_dir is not None and path.stat().st_size >= INLINE_LIMIT_BYTES:
        model = _spill(model, work_dir)
    return model


def _parse(path: Path) -> ir.Model:
    proto = _read(path)
    check_proto(proto, path)
    try:
        model = _converted(proto)
    except Exception as error:  # onnx_ir raises many types on malformed graphs; all but one mean the same to a user
        cause = _root(error)
        if isinstance(cause, NotImplementedError):
            raise UnsupportedGraphError(
                "the model uses something that could not be written again", where=str(path), because=str(cause)
            ) from error
        raise ModelLoadError("the graph is malformed", where=str(path), because=f"{type(cause).__name__}: {cause}") from error
    for tensor in external_tensors(model):
        tensor.base_dir = path.parent
    return model


def _read(path: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError, OSError, RuntimeError) as error:
        raise ModelLoadError(
            "not a readable ONNX model",
            where=str(path),
            because=str(error).splitlines()[0] if str(error) else type(error).__name__,
            hint="check that the file is complete and not encrypted",
        ) from error


def _converted(proto: onnx.ModelProto) -> ir.Model:
    """The model as IR, and what onnx_ir gets wrong: declared initializers, function inputs, metadata of tensors."""
    model = ir.from_proto(proto)
    for graph, graph_proto in graph_pairs(model.graph, proto.graph):
        for name in {info.name for info in graph_proto.value_info} & graph.initializers.keys():
            graph.initializers[name].meta[DECLARED] = True
    for function, function_proto in zip(model.functions.values(), proto.functions, strict=True):
        declared = {info.name: info for info in function_proto.value_info}
        for value in function.inputs:
            if value.name in declared:
                ir.serde.deserialize_value_info_proto(declared[value.name], value)
    for tensor in tensors(model):
        if isinstance(tensor, ir.serde.TensorProtoTensor) and tensor.raw.metadata_props:
            del tensor.raw.metadata_props[:]  # onnx_ir keeps its own copy and would write both
    return model


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


DECLARED = "shrinkc.declared"
"""Mark of the initializers that the file lists in ``value_info`` too; the IR itself does not tell them apart."""


def _check_writable(model: ir.Model, path: Path) -> None:
    """A damaged file can be read and yet not be written again (names that are no text, say): find out now."""
    try:
        skeleton(model)
    except Exception as error:
        cause = _root(error)
        raise ModelLoadError(
            "the file is damaged", where=str(path), because=f"{type(cause).__name__}: {cause}"[:300]
        ) from error


def _spill(model: ir.Model, work_dir: Path) -> ir.Model:
    work_dir.mkdir(parents=True, exist_ok=True)
    target = work_dir / "spilled.onnx"
    ir.save(model, target, external_data="spilled.onnx.data")
    return ir.load(target)


def size_bytes(model: ir.Model) -> int:
    """Bytes of all tensors of the model, in initializers and Constant nodes (subgraphs included)."""
    return sum(tensor.nbytes for tensor in tensors(model))


def save(
    model: ir.Model,
    path: str | os.PathLike[str],
    *,
    keep_debug_info: bool = False,
    single_file_bytes: int = PROTOBUF_LIMIT_BYTES,
) -> int:
    """Write a model beside its target and rename it into place.

    Parameters
    ----------
    model : ir.Model
    path : path
        Target file; ``path`` + ``.data`` holds the weights if the model exceeds the 2 GiB of one file.
    keep_debug_info : bool
        Keep the torch exporter's stack traces (absolute paths of the exporting machine).
    single_file_bytes : int
        Above this the weights get a file of their own, which needs no copy of the model in memory.

    Returns
    -------
    int
        Bytes written, external data included.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not keep_debug_info:
        strip_debug_info(model)
    limit = min(single_file_bytes, PROTOBUF_LIMIT_BYTES)
    data_name = path.name + ".data" if size_bytes(model) > limit else None
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


def drop_invented_value_info(model: ir.Model, proto: onnx.ModelProto) -> None:
    """Remove the ``value_info`` entries that onnx_ir adds for initializers the file did not declare."""
    for graph, graph_proto in graph_pairs(model.graph, proto.graph):
        invented = {name for name, value in graph.initializers.items() if DECLARED not in value.meta}
        kept = [info for info in graph_proto.value_info if info.name not in invented]
        if len(kept) != len(graph_proto.value_info):
            del graph_proto.value_info[:]
            graph_proto.value_info.extend(kept)


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
        _take_in(model)
    proto = ir.to_proto(model)
    drop_invented_value_info(model, proto)
    return proto


def _take_in(model: ir.Model) -> None:
    for graph in all_graphs(model):
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value = _copied(value.const_value)
        for node in graph:
            for attribute in list(node.attributes.values()):
                if any(isinstance(tensor, ir.ExternalTensor) for tensor in attribute_tensors(attribute)):
                    node.attributes[attribute.name] = _taken_in(attribute)


def _taken_in(attribute: ir.Attr) -> ir.Attr:
    held = [_copied(tensor) for tensor in attribute_tensors(attribute)]
    value = held[0] if attribute.type == ir.AttributeType.TENSOR else held
    return ir.Attr(attribute.name, attribute.type, value, doc_string=attribute.doc_string)


def _copied(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """In memory, and its own: the map of the file may go before the array does."""
    return ir.Tensor(tensor.numpy().copy(), tensor.dtype, name=tensor.name)


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
    return contents(tensor)


def contents(tensor: ir.TensorProtocol) -> np.ndarray:
    """Array of a tensor; one stored beside the model is read for the caller alone, so that it goes when he is done.

    A map of the file would keep every page that was looked at, as long as the model lives.
    """
    if not isinstance(tensor, ir.ExternalTensor) or tensor.dtype.bitwidth < 8 or not tensor.size:
        return tensor.numpy()
    stored = np.dtype(tensor.dtype.numpy()).newbyteorder("<")
    array = np.fromfile(tensor.path, stored, tensor.size, offset=tensor.offset or 0)
    return array.astype(tensor.dtype.numpy(), copy=False).reshape(tensor.shape.numpy())


def cut_later(tensor: ir.TensorProtocol, cut: Callable[[np.ndarray], np.ndarray], shape: Sequence[int]) -> ir.TensorProtocol:
    """Tensor of the given shape that is cut out of another one when it is written or looked at."""

    def made() -> ir.TensorProtocol:
        return ir.Tensor(cut(contents(tensor)), tensor.dtype, name=tensor.name)

    return ir.LazyTensor(made, tensor.dtype, ir.Shape(shape), name=tensor.name)


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
    put_tensor(value, ir.Tensor(array, dtype=None if old is None else old.dtype, name=value.name))


def put_tensor(value: ir.Value, tensor: ir.TensorProtocol) -> None:
    """Put another tensor of the same name behind an initializer or Constant output."""
    producer = value.producer()
    if producer is None:
        value.const_value = tensor
    else:
        for name in [name for name in producer.attributes if name.startswith("value")]:
            del producer.attributes[name]
        producer.attributes["value"] = ir.AttrTensor("value", tensor)
    if value.shape is not None:
        value.shape = ir.Shape(tensor.shape.numpy())


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
    drop_invented_value_info(copy, proto)
    return proto


def external_tensors(model: ir.Model) -> list[ir.ExternalTensor]:
    """Every tensor of a model that lies outside its file."""
    return [tensor for tensor in tensors(model) if isinstance(tensor, ir.ExternalTensor)]
