"""New nodes for old: a layer gives way to the chain of its factors.

Beside :mod:`shrinkc.surgery`, the only place that adds weights to a graph.  Names come from the original's, so that a profile
can be read: node ``fc`` becomes ``fc.factor0`` and ``fc.factor1``, its weight ``w`` becomes ``w.factor0`` and so on, and the
last node's output keeps the name, type and shape of the layer's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from shrinkc import ir as shrinkc_ir
from shrinkc.analysis.attributes import input_at
from shrinkc.errors import VerificationError
from shrinkc.evidence.sites import Site
from shrinkc.factors import Chain
from shrinkc.graphs import all_graphs
from shrinkc.stages import Stage

PLACE = "{}.factor{}"
"""Name of a part of what was one node or tensor."""


def factorise(model: ir.Model, sites: Sequence[Site], chains: Mapping[str, Chain]) -> dict[str, tuple[str, ...]]:
    """Put chains in the place of layers, in place.

    Parameters
    ----------
    model : ir.Model
    sites : sequence of Site
        Of this very model.
    chains : mapping of layer name to Chain

    Returns
    -------
    mapping of layer name to tuple of str
        Names of the new weights, in the order of the chain.

    Raises
    ------
    VerificationError
        A layer that is to be replaced is not there.
    """
    by_name = {site.name: site for site in sites}
    taken = _names(model)
    added: dict[str, tuple[str, ...]] = {}
    for name, chain in chains.items():
        if name not in by_name:
            raise VerificationError("a layer that was to be factorised is not there", where=name)
        added[name] = _replace(model, by_name[name], chain, taken)
    return added


def _names(model: ir.Model) -> set[str]:
    """Every name of a value in the model, so that new ones differ."""
    taken = {value.name or "" for value in model.graph.inputs}
    for graph in all_graphs(model):
        taken |= {name for name in graph.initializers if name}
        taken |= {output.name or "" for node in graph for output in node.outputs}
    return taken


def _replace(model: ir.Model, site: Site, chain: Chain, taken: set[str]) -> tuple[str, ...]:
    old, value = site.node, data_of(site)
    dtype = shrinkc_ir.stored_array(site.weight).dtype
    stem = site.weight.name or site.name
    weights: list[str] = []
    for number, stage in enumerate(chain.stages):
        is_last = number == len(chain.stages) - 1
        weight = _constant(model, PLACE.format(stem, number), stage.weight.astype(dtype), taken)
        bias = _bias(model, site, stage, dtype, taken)
        node = _node(stage, value, weight, bias, PLACE.format(old.name or site.name, number))
        if stage.rest:
            node = _like(old, value, weight, node.name or "")
        model.graph.insert_before(old, node)
        value = node.outputs[0]
        weights.append(weight.name or "")
        if not is_last:
            value.name, value.type = _fresh(PLACE.format(site.name, number), taken), ir.TensorType(_type(dtype))
    _take_over(model, site, value)
    if chain.shift is not None:
        _shift(site, chain.shift)
    return tuple(weights)


def data_of(site: Site) -> ir.Value:
    """What a layer's node reads now: the layer before it may have been replaced since the site was found."""
    value = site.node.inputs[1 if site.node.op_type == "Gather" else 0]
    if value is None:
        raise VerificationError("a layer lost its input", where=site.name)
    return value


def _node(stage: Stage, data: ir.Value, weight: ir.Value, bias: ir.Value | None, name: str) -> ir.Node:
    inputs = stage.ordered(data, weight, bias)
    attributes = ir.convenience.convert_attributes(
        {key: list(value) if isinstance(value, tuple) else value for key, value in stage.attributes.items()}
    )
    return ir.Node("", stage.op_type, inputs, attributes, name=name)


def _like(old: ir.Node, data: ir.Value, weight: ir.Value, name: str) -> ir.Node:
    """The old node with other data and another weight; it reads whatever else it read."""
    inputs = [data, weight, *old.inputs[2:]]
    return ir.Node("", old.op_type, inputs, list(old.attributes.values()), name=name, num_outputs=len(old.outputs))


def _bias(model: ir.Model, site: Site, stage: Stage, dtype: np.dtype[np.generic], taken: set[str]) -> ir.Value | None:
    """The layer's own bias where a stage has the same, else a new one; none where it would be zero."""
    if stage.bias is None:
        return None
    own, wanted = input_at(site.node, 2), stage.bias.astype(dtype)
    if own is not None and "beta" not in site.node.attributes and np.array_equal(shrinkc_ir.stored_array(own), wanted):
        return own
    if own is None and not wanted.any():
        return None
    return _constant(model, f"{site.weight.name or site.name}.bias" if own is None else f"{own.name}.shifted", wanted, taken)


def _constant(model: ir.Model, name: str, array: np.ndarray, taken: set[str]) -> ir.Value:
    unique = _fresh(name, taken)
    tensor = ir.tensor(np.ascontiguousarray(array), name=unique)
    value = ir.Value(name=unique, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    model.graph.register_initializer(value)
    if model.ir_version < 4:  # such old models list every initializer among the inputs
        model.graph.inputs.append(value)
    return value


def _fresh(name: str, taken: set[str]) -> str:
    unique, number = name, 1
    while unique in taken:
        number += 1
        unique = f"{name}_{number}"
    taken.add(unique)
    return unique


def _type(dtype: np.dtype[np.generic]) -> ir.DataType:
    return ir.DataType.from_numpy(dtype)


def _take_over(model: ir.Model, site: Site, value: ir.Value) -> None:
    """The last stage's outputs take the names, types, shapes and readers of the layer's."""
    old, producer = site.node, value.producer()
    if producer is None:
        raise VerificationError("a chain of no stages", where=site.name)
    producer.metadata_props.update(old.metadata_props)
    for before, after in zip(old.outputs, producer.outputs, strict=True):
        name, before.name = before.name, None
        after.name, after.type, after.shape = name, before.type, before.shape
        after.metadata_props.update(before.metadata_props)
        before.replace_all_uses_with(after, replace_graph_outputs=True)
    model.graph.remove(old, safe=True)


def _shift(site: Site, change: np.ndarray) -> None:
    """Add to the intercept that another node holds for a layer."""
    if site.intercept is None or site.intercept.is_own:
        raise VerificationError("there is no place for a change of the bias", where=site.name)
    site.write_bias(change)
