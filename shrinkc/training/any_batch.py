"""A model for one sample at a time, run for many at once while it trains.

Exporters write the batch of their example into the graph: as a size of reshapes and resizes, and in constants joined to
every sample's values (class tokens).  Where no more than that is in the way the same layers take many samples together, which
is faster, and normalisations see a batch.  Whether it is so is seen by running both; the model itself stays as it was given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch

from shrinkc.evidence.data import Data, fixed_batch
from shrinkc.inlining import inline_functions
from shrinkc.ir import constant_tensor
from shrinkc.training.executor import Executor
from shrinkc.training.ops.samplewise import DOMAIN, RESHAPE
from shrinkc.training.samples import Samples, Tensors

SEEN = 4
"""Samples that are run one after the other and all at once."""

LARGEST_OFF = 1e-3
"""How far a number may be off, as a share of its value's largest: another order of sums stays below, other samples do not."""

AT_ONCE, MOST_BYTES = 256, 4 << 30
"""Samples that are looked at together, and what all values inside may take for them: one at a time always fitted."""

Shapes = Mapping[str, tuple[int, ...]]
"""Of values by name, as one sample makes them."""


def for_any_batch(model: ir.Model, data: Data, also: Sequence[str] = ()) -> Executor | None:
    """Executor of a model for one sample at a time that takes any number of them.

    Parameters
    ----------
    model : ir.Model
        Not changed until :meth:`shrinkc.training.executor.Executor.write_back`.
    data : Data
        A few samples are run both ways.
    also : sequence of str
        Values inside that shall be the same, as the outputs are.

    Returns
    -------
    Executor or None
        None where the model takes another number of samples, gives for many not what it gives for each, or where as many
        as are looked at together would take too much memory.
    """
    if fixed_batch(model) != 1:
        return None
    few = Samples.of(data.thinned(SEEN, 1))
    if all(torch.equal(tensor[0], tensor[-1]) for tensor in few.inputs.values()):
        return None  # of samples that are alike nobody sees whether they were mixed up
    single = Executor(model).eval()
    try:
        copy = model.clone()
        inline_functions(copy)
        computed = _computed(copy.graph)
        values = _values(copy.graph, single, next(few.parts(1)).inputs)
        if AT_ONCE * sum(values[value.name].nbytes for value in computed if value.name in values) > MOST_BYTES:
            return None
        _free(copy.graph, computed, {name: tuple(value.shape) for name, value in values.items()})
        found = Executor(model, runnable=copy).eval()
        return found if _is_same(single, found, few, also) else None
    except Exception:  # whatever keeps it from running; what keeps one sample from it, training meets again
        return None


def _is_same(single: Executor, many: Executor, few: Samples, also: Sequence[str]) -> bool:
    with torch.inference_mode():
        told = [single(part.inputs, also=also) for part in few.parts(1)]
        found = many(few.inputs, also=also)
    return all(value.ndim and _is_close(value, [one[name] for one in told]) for name, value in found.items())


def _is_close(value: torch.Tensor, rows: Sequence[torch.Tensor]) -> bool:
    if len(value) != len(rows) or any(row.shape != (1, *value.shape[1:]) for row in rows):
        return False
    told, found = torch.cat(list(rows)).double(), value.double()
    return not told.numel() or bool((told - found).abs().max() <= LARGEST_OFF * told.abs().max())


def _values(graph: ir.Graph, single: Executor, sample: Tensors) -> Tensors:
    """All values that there are for one sample, what is stored among them."""
    read = {value.name for node in graph for value in (*node.inputs, *node.outputs) if value is not None and value.name}
    with torch.inference_mode():
        found = single(sample, also=sorted(read - set(sample)))
    return {name: value for name, value in {**sample, **found}.items() if isinstance(value, torch.Tensor)}


def _free(graph: ir.Graph, computed: set[ir.Value], shapes: Shapes) -> None:
    """Read the number of samples from them where it was written down, in place."""
    for node in list(graph):
        if node.domain in ("", "ai.onnx") and node.op_type in RULES:
            RULES[node.op_type](graph, node, computed, shapes)


def _computed(graph: ir.Graph) -> set[ir.Value]:
    """Values that depend on the samples, as far as nodes say by their own inputs."""
    found = set(graph.inputs) - set(graph.initializers.values())
    for node in graph:
        if any(value in found for value in node.inputs):
            found.update(node.outputs)
    return found


def _reshape(graph: ir.Graph, node: ir.Node, computed: set[ir.Value], shapes: Shapes) -> None:
    """The axis of the samples is found when there are some."""
    data, made = node.inputs[0], node.outputs[0]
    if data not in computed or _written(node, 1) is None:
        return
    shaped = {"given": shapes[data.name or ""], "wanted": shapes[made.name or ""]}
    new = ir.node(RESHAPE, [data], shaped, domain=DOMAIN, name=node.name)
    ir.convenience.replace_nodes_and_values(graph, node, [node], [new], [made], new.outputs)


def _resize(graph: ir.Graph, node: ir.Node, computed: set[ir.Value], shapes: Shapes) -> None:
    """To the sizes that were wanted, of as many samples as come."""
    wanted = _written(node, 3)
    if wanted is None or not wanted.size or wanted[0] != 1 or "axes" in node.attributes or node.inputs[0] not in computed:
        return
    sizes = [_samples(graph, node, 0), _stored(graph, node, wanted[1:])]
    node.replace_input_with(3, _made(graph, node, "Concat", sizes, axis=0))


def _concat(graph: ir.Graph, node: ir.Node, computed: set[ir.Value], shapes: Shapes) -> None:
    """What is joined to one sample's values is joined to every sample's."""
    like = next((index for index, value in enumerate(node.inputs) if value in computed), None)
    if like is None or node.attributes["axis"].as_int() == 0:
        return
    for index, value in enumerate(node.inputs):
        shape = () if value is None or value in computed else shapes[value.name or ""]
        if shape and shape[0] == 1:
            sizes = [_samples(graph, node, like), _stored(graph, node, np.ones(len(shape) - 1))]
            times = _made(graph, node, "Concat", sizes, axis=0)
            node.replace_input_with(index, _made(graph, node, "Expand", [value, times]))


def _samples(graph: ir.Graph, node: ir.Node, index: int) -> ir.Value:
    """How many samples an input has, of shape (1,)."""
    shape = _made(graph, node, "Shape", [node.inputs[index]])
    return _made(graph, node, "Gather", [shape, _stored(graph, node, np.zeros(1))], axis=0)


def _written(node: ir.Node, index: int) -> np.ndarray | None:
    """Numbers that an input is stored as, None where it is computed."""
    value = node.inputs[index] if index < len(node.inputs) else None
    tensor = None if value is None else constant_tensor(value)
    return None if tensor is None else tensor.numpy()


def _stored(graph: ir.Graph, node: ir.Node, sizes: np.ndarray) -> ir.Value:
    return _made(graph, node, "Constant", [], value=ir.tensor(sizes.astype(np.int64)))


def _made(graph: ir.Graph, node: ir.Node, op_type: str, inputs: Sequence[ir.Value | None], **attributes: object) -> ir.Value:
    made = ir.node(op_type, inputs, attributes)  # type: ignore[arg-type]
    graph.insert_before(node, made)
    return made.outputs[0]


Rule = Callable[[ir.Graph, ir.Node, set[ir.Value], Shapes], None]

RULES: Mapping[str, Rule] = {
    "Reshape": _reshape,
    "Resize": _resize,
    "Concat": _concat,
}
"""What frees an operator of the number of samples, by its name."""
