"""Running a graph a stretch at a time on all samples, so that weights further on can still change.

Every node runs once.  What later stretches read is kept, per batch; what nobody reads any more is dropped.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from shrinkc import ir as shrinkc_ir
from shrinkc.analysis.flow import reads
from shrinkc.api import RunConfig, RuntimeAdapter

Array = NDArray[Any]

MEMORY_BYTES = 192 << 20
"""Values beyond this many bytes lie in temporary files."""


class Walk:
    """A graph, run as far as :meth:`advance` was told.

    Parameters
    ----------
    model : ir.Model
        Stored tensors are read when the stretch that needs them runs.
    batches : sequence of mapping of input name to ndarray
    runtime : RuntimeAdapter
    needed : iterable of str
        Values that are asked for with :meth:`value`; each is kept until it was released as often as it is named here.
    """

    def __init__(
        self, model: ir.Model, batches: Sequence[Mapping[str, Array]], runtime: RuntimeAdapter, needed: Iterable[str] = ()
    ) -> None:
        self.model, self._batches, self._runtime = model, batches, runtime
        self._nodes = list(model.graph)
        self._place = {output.name: place for place, node in enumerate(self._nodes) for output in node.outputs}
        self._last_reader = _last_readers(self._nodes)
        self._values = _Values()
        self._done = 0
        self._needed = Counter(needed)
        for number, batch in enumerate(batches):
            for name, array in batch.items():
                self._values.put(name, number, array)

    @property
    def n_batches(self) -> int:
        """Number of batches."""
        return len(self._batches)

    def place(self, name: str) -> int | None:
        """Position of the node that makes a value, None if no node does."""
        return self._place.get(name)

    def advance(self, end: int) -> None:
        """Run the nodes up to, and without, the one at position ``end``."""
        if end <= self._done:
            return
        stretch = self._nodes[self._done : end]
        wanted = self._wanted(stretch, end)
        if wanted:
            self._run(stretch, wanted)
        self._done = end
        for name in [name for name in self._values.names() if self._last_reader.get(name, -1) < end]:
            if self._needed[name] <= 0:
                self._values.drop(name)

    def has(self, name: str) -> bool:
        """Whether a value is at hand."""
        return self._values.has(name)

    def value(self, name: str, batch: int) -> Array:
        """A value that was computed and is still needed, for one batch."""
        return self._values.get(name, batch)

    def replace(self, name: str, batch: int, array: Array) -> None:
        """Put another array in the place of a computed value, as weights before it have changed meanwhile."""
        self._values.replace(name, batch, array)

    def release(self, name: str) -> None:
        """A needed value is needed once less."""
        self._needed[name] -= 1
        if self._needed[name] <= 0 and self._last_reader.get(name, -1) < self._done:
            self._values.drop(name)

    def _wanted(self, stretch: Sequence[ir.Node], end: int) -> list[str]:
        """Values of a stretch that somebody reads later on; stored tensors are at hand anyway."""
        return [
            value.name or ""
            for node in stretch
            for value in node.outputs
            if value.name
            and shrinkc_ir.constant_tensor(value) is None
            and (self._last_reader.get(value.name, -1) >= end or self._needed[value.name] > 0)
        ]

    def _run(self, stretch: Sequence[ir.Node], wanted: Sequence[str]) -> None:
        proto, fed = self._proto(stretch, wanted)
        session = self._runtime.load(proto.SerializeToString(), RunConfig(threads=0))
        for number in range(self.n_batches):
            outputs = session.run({name: self._values.get(name, number) for name in fed})
            for name in wanted:
                self._values.put(name, number, outputs[name])

    def _proto(self, stretch: Sequence[ir.Node], wanted: Sequence[str]) -> tuple[onnx.ModelProto, list[str]]:
        """The stretch as a model of its own, and the names of the values it is fed with."""
        made = {value.name for node in stretch for value in node.outputs}
        outer = {value.name or "": value for node in stretch for value in reads(node) if value.name not in made}
        stored = {name: tensor for name, value in outer.items() if (tensor := shrinkc_ir.constant_tensor(value)) is not None}
        fed = [name for name in outer if name not in stored and self._values.has(name)]
        types = {name: onnx.helper.np_dtype_to_tensor_dtype(self._values.get(name, 0).dtype) for name in fed}
        graph = onnx.helper.make_graph(
            [ir.serde.serialize_node(node) for node in stretch],
            "stretch",
            [onnx.helper.make_tensor_value_info(name, types[name], self._values.common_shape(name)) for name in fed],
            [onnx.helper.make_empty_tensor_value_info(name) for name in wanted],
            [_initializer(name, tensor) for name, tensor in stored.items()],
        )
        opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in self.model.graph.opset_imports.items()]
        # Names of initializers need not be inputs from version 4 on, which is also what allows them to be constants.
        return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=max(self.model.ir_version, 4)), fed


def _last_readers(nodes: Sequence[ir.Node]) -> dict[str, int]:
    last: dict[str, int] = {}
    for place, node in enumerate(nodes):
        for value in reads(node):
            last[value.name or ""] = place
    return last


def _initializer(name: str, tensor: ir.TensorProtocol) -> onnx.TensorProto:
    proto = onnx.TensorProto(dims=list(tensor.shape.numpy()), data_type=int(tensor.dtype), name=name)
    proto.raw_data = tensor.tobytes()
    return proto


class _Values:
    """Arrays by name and batch; in memory as far as it goes, in a temporary folder beyond."""

    def __init__(self) -> None:
        self._arrays: dict[str, dict[int, Array | Path]] = defaultdict(dict)
        self._shapes: dict[str, dict[int, tuple[int, ...]]] = defaultdict(dict)
        self._bytes = 0
        self._folder: Path | None = None

    def names(self) -> list[str]:
        return list(self._arrays)

    def has(self, name: str) -> bool:
        return name in self._arrays

    def common_shape(self, name: str) -> list[int | None] | None:
        """Sizes that are the same for all batches: a runtime lays out memory better where it knows them."""
        shapes = set(self._shapes[name].values())
        if len({len(shape) for shape in shapes}) != 1:
            return None
        return [sizes[0] if len(set(sizes)) == 1 else None for sizes in zip(*shapes, strict=True)]

    def put(self, name: str, batch: int, array: Array) -> None:
        self._shapes[name][batch] = array.shape
        if self._bytes + array.nbytes <= MEMORY_BYTES or array.dtype.hasobject:
            self._arrays[name][batch] = array
            self._bytes += array.nbytes
            return
        path = self._room() / f"{len(self._arrays)}-{batch}-{abs(hash(name))}.npy"
        np.save(path, array, allow_pickle=False)
        self._arrays[name][batch] = path

    def get(self, name: str, batch: int) -> Array:
        held = self._arrays[name][batch]
        return np.load(held, allow_pickle=False) if isinstance(held, Path) else held

    def replace(self, name: str, batch: int, array: Array) -> None:
        self._forget(self._arrays[name].pop(batch))
        self.put(name, batch, array)

    def drop(self, name: str) -> None:
        for held in self._arrays.pop(name, {}).values():
            self._forget(held)

    def _forget(self, held: Array | Path) -> None:
        if isinstance(held, Path):
            held.unlink()
        else:
            self._bytes -= held.nbytes

    def _room(self) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="shrinkc-values-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder
