"""Factors put back together: two linear nodes in a row become the one that they amount to.

For models that come factorised, where the runtime at hand is faster with the layer whole.  What is merged are pairs that one
dense node equals exactly: products of matrices, and convolutions followed by one of single positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from shrinkc.analysis.attributes import input_at
from shrinkc.analysis.labels import Shape
from shrinkc.api import RunConfig, RuntimeAdapter
from shrinkc.canonicalize import drop_unused
from shrinkc.errors import BuildError
from shrinkc.evidence.sites import Site
from shrinkc.factor_proof import prove_equal, stages_of
from shrinkc.factorable import SLIDING, layers_of, own_bias
from shrinkc.factoring import data_of, factorise
from shrinkc.factors import Chain
from shrinkc.latency.layer_times import time_layers
from shrinkc.layer_timing import made_up, micro_model
from shrinkc.log import Progress
from shrinkc.opening import Merge
from shrinkc.shapes import Shadow
from shrinkc.stages import Stage, composed


@dataclass(frozen=True, eq=False)
class Pair:
    """Two linear nodes in a row, and the one they amount to.

    Attributes
    ----------
    first, second : Site
    stages : tuple of Stage
        As they are stored.
    dense : Stage
    """

    first: Site
    second: Site
    stages: tuple[Stage, ...]
    dense: Stage

    @property
    def saves_work(self) -> bool:
        """Whether the dense node has no more weights."""
        return self.dense.weight.size <= sum(stage.weight.size for stage in self.stages)


Preference = Callable[[Pair], bool]


def merge_factors(model: ir.Model, shadow: Shadow, prefers_dense: Preference) -> tuple[str, ...]:
    """Merge the pairs of a model that are better off dense, in place; returns the names of the merged layers.

    Parameters
    ----------
    model : ir.Model
    shadow : Shadow
        Of the model.
    prefers_dense : callable of Pair to bool
    """
    merged = []
    taken: set[ir.Node] = set()
    for pair in pairs_in(model, shadow):
        if not {pair.first.node, pair.second.node} & taken and prefers_dense(pair):
            merged.append(pair.second.name)
            taken |= {pair.first.node, pair.second.node}
            _merge(model, pair)
    drop_unused(model)
    return tuple(merged)


def pairs_in(model: ir.Model, shadow: Shadow) -> list[Pair]:
    """Pairs of linear nodes that one node equals, in the order of the graph."""
    sites = layers_of(model, shadow)
    by_output = {site.output: site for site in sites}
    found = [(by_output.get(site.data), site) for site in sites]
    return [_pair(first, second) for first, second in found if first is not None and _is_exact(first, second)]


def _is_exact(first: Site, second: Site) -> bool:
    """Whether one node of the first one's kind equals both."""
    if len(list(first.output.uses())) != 1 or first.output.is_graph_output() or first.groups != second.groups:
        return False
    if first.groups > 1 and input_at(first.node, 2) is not None:
        return False
    if first.places is not None or second.places is not None:
        return False
    kinds = (first.node.op_type, second.node.op_type)
    if kinds == ("Conv", "Conv"):
        return _is_pointwise(second)
    if kinds == ("Gemm", "Gemm"):
        is_scaled = any(site.node.attributes.keys() & SCALES for site in (first, second))
        return first.is_transposed == second.is_transposed and not is_scaled
    return kinds in (("MatMul", "MatMul"), ("Gather", "MatMul"))


SCALES = frozenset({"alpha", "beta"})


def _is_pointwise(site: Site) -> bool:
    windows = site.windows
    return windows is not None and {*windows.kernel, *windows.strides} == {1} and not any(map(any, windows.pads))


def _pair(first: Site, second: Site) -> Pair:
    stages = stages_of([first.node, second.node])
    weight, bias = composed([replace(stages[0], bias=None), stages[1]])
    inner = own_bias(first).reshape(-1)
    if stages[0].bias is not None:
        bias = second.matrix()[0] @ inner + (0.0 if bias is None else bias)
    attributes = {name: _plain(value) for name, value in first.node.attributes.items() if name not in SLIDING}
    dense = Stage(stages[0].op_type, weight, bias, {**attributes, **first.attributes(SLIDING)})
    return Pair(
        first, second, tuple(_complete(site, stage) for site, stage in zip((first, second), stages, strict=True)), dense
    )


def _complete(site: Site, stage: Stage) -> Stage:
    """A stage with all attributes of its node."""
    attributes = {name: _plain(value) for name, value in site.node.attributes.items() if name not in SLIDING}
    return replace(stage, attributes={**attributes, **site.attributes(SLIDING)})


def _plain(attribute: ir.Attr) -> int | float | str | tuple[int, ...]:
    if attribute.type == ir.AttributeType.STRING:
        return attribute.as_string()
    if attribute.type == ir.AttributeType.FLOAT:
        return attribute.as_float()
    return tuple(map(int, attribute.as_ints())) if attribute.type == ir.AttributeType.INTS else attribute.as_int()


def _merge(model: ir.Model, pair: Pair) -> None:
    """Put the dense node in the place of both; names lose the ending that factorising gave them."""
    site, made = pair.second, pair.second.name
    names = pair.first.node.name, pair.first.weight.name
    _skip(pair)
    (weight,) = factorise(model, [site], {made: Chain((pair.dense,))})[made]
    node = next(node for node in model.graph if any(output.name == made for output in node.outputs))
    node.name = _stem(names[0])
    model.graph.remove(pair.first.node, safe=True)
    stem = _stem(names[1])
    if stem and stem not in model.graph.initializers:
        value = model.graph.initializers[weight]
        del model.graph.initializers[weight]
        value.name = stem
        model.graph.register_initializer(value)


def _skip(pair: Pair) -> None:
    """Let the second node read what the first one does; a chain of one table reads indices, as that did."""
    pair.second.node.replace_input_with(0, data_of(pair.first))


def _stem(name: str | None) -> str:
    return (name or "").removesuffix(".factor0")


def by_work(pair: Pair) -> bool:
    """Whether a pair is better off dense as far as counting tells."""
    return pair.saves_work


def by_time(model: ir.Model, shadow: Shadow, runtime: RuntimeAdapter, threads: int) -> Preference:
    """Preference of a runtime, measured pair by pair."""

    def prefers_dense(pair: Pair) -> bool:
        shape = shadow.shape(pair.first.data)
        if shape is None:
            return by_work(pair)
        try:
            before, after = (
                runtime.load(micro_model(model, pair.first, stages), RunConfig(threads=threads))
                for stages in (pair.stages, (pair.dense,))
            )
        except BuildError:
            return by_work(pair)
        return time_layers(before, after, {"x": made_up(pair.first, shape)}).is_faster

    return prefers_dense


def note_of(merged: Sequence[str]) -> str:
    """What was merged, for the report."""
    return f"Factors put back together: {len(merged)} pairs ({', '.join(merged[:3])}{', …' if len(merged) > 3 else ''})."


def merge_for(runtime: RuntimeAdapter, threads: int, progress: Progress, *, is_timed: bool) -> Merge:
    """Puts factors back together where the runtime prefers that, or counting does if nothing is timed; and proves it."""

    def merge(model: ir.Model, shapes: dict[str, Shape]) -> tuple[str, ...]:
        shadow = Shadow.of(model, shapes)
        before = model.clone()
        prefers = by_time(model, shadow, runtime, threads) if is_timed else by_work
        with progress.stage("putting factors back together"):
            merged = merge_factors(model, shadow, prefers)
            if merged:
                prove_equal(before, model, shapes, runtime)
        return merged

    return merge
