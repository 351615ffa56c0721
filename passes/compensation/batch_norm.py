"""Statistics of every BatchNormalization anew, and what amounts to that where one was folded into a layer.

Each BatchNormalization of the cut network gets the mean and variance of what reaches it there, over all of the calibration data
alike (a cumulative average; a running one forgets).  They are visited in the order of the graph, so that later ones see what
earlier ones make of their input.  A Conv or Gemm with a bias of its own and no BatchNormalization behind it may have had one
folded in: every output gets the mean and standard deviation back that it had in the original, by a factor and a shift that go
into weight and bias.  Layers that give an output of the model are left alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from shrinkc.api import FloatArray, Repair, Repaired
from shrinkc.evidence.matching import Channels, kept_channels
from shrinkc.evidence.sites import Site, is_alone, sites_of
from shrinkc.evidence.spread import mean_and_variance
from shrinkc.evidence.walking import Walk
from shrinkc.ir import constant_tensor, replace_tensor, stored_array
from shrinkc.shapes import Shadow

Moments = tuple[FloatArray, FloatArray]
"""Mean and variance of every channel."""

SMALLEST_SPREAD = 1e-9
"""Share of the original's variance below which an output is constant, and is not scaled."""


class BatchNorm:
    """See the module."""

    name = "batch-norm"
    needs_data = True

    def apply(self, repair: Repair) -> Repaired:
        """See :class:`shrinkc.api.Compensation`."""
        work = _Statistics(repair)
        tensors: list[str] = []
        for node in repair.pruned.graph:
            if is_normalization(node):
                tensors += work.reestimate(node)
            elif (site := work.folded.get(node)) is not None:
                tensors += work.match(site)
        return Repaired(tuple(tensors))


def is_normalization(node: ir.Node) -> bool:
    """Whether a node is a BatchNormalization with statistics of its own."""
    if node.op_type != "BatchNormalization" or node.domain not in ("", "ai.onnx"):
        return False
    statistics = [value for value in node.inputs[3:5] if value is not None]
    return all(constant_tensor(value) is not None and is_alone(value) for value in statistics)


class _Statistics:
    """The walks through the cut network and the original."""

    def __init__(self, repair: Repair) -> None:
        self._repair = repair
        dense = sites_of(repair.analysis.model, repair.analysis.shadow)
        cut = sites_of(repair.pruned, Shadow.of(repair.pruned, repair.shapes))
        self._dense_sites = {site.name: site for site in dense}
        self.folded = {site.node: site for site in cut if self._left(site) is not None and _may_hold_normalization(site)}
        names = [site.name for site in self.folded.values()]
        self._cut = Walk(repair.pruned, repair.batches, repair.runtime, names)
        self._dense = Walk(repair.analysis.model, repair.batches, repair.runtime, names)

    def reestimate(self, node: ir.Node) -> list[str]:
        """Give a BatchNormalization the statistics of what it reads now."""
        data, place = node.inputs[0], self._cut.place(node.outputs[0].name or "")
        if data is None or place is None:
            return []
        self._cut.advance(place)
        return _store(node.inputs[3:5], self._moments(self._cut, data.name or ""))

    def match(self, site: Site) -> list[str]:
        """Give a layer's outputs the mean and standard deviation they had."""
        left, here, there = self._left(site), self._cut.place(site.name), self._dense.place(site.name)
        if here is None or there is None or left is None:
            return []
        self._cut.advance(here + 1)
        self._dense.advance(there + 1)
        mean, variance = self._moments(self._dense, site.name, site.channel_axis)
        factor, shift = _matching((mean[left], variance[left]), self._moments(self._cut, site.name, site.channel_axis))
        self._transform(site, factor, shift)
        is_same = np.allclose(factor, 1, rtol=1e-5) and np.allclose(shift, 0, atol=1e-5 * np.sqrt(variance.max()))
        return [] if is_same else _fold(site, factor, shift)

    def _left(self, site: Site) -> Channels | None:
        """Outputs of the original's layer that the cut one still has."""
        original = self._dense_sites.get(site.name)
        if original is None:
            return None
        return kept_channels(self._repair.analysis, self._repair.is_kept, original.output, original.channel_axis)

    def _transform(self, site: Site, factor: FloatArray, shift: FloatArray) -> None:
        """What follows reads the layer's output as it will be."""
        for number in range(self._cut.n_batches):
            output = np.moveaxis(self._cut.value(site.name, number), site.channel_axis, -1)
            changed = (output * factor + shift).astype(output.dtype)
            self._cut.replace(site.name, number, np.ascontiguousarray(np.moveaxis(changed, -1, site.channel_axis)))
        self._cut.release(site.name)
        self._dense.release(site.name)

    def _moments(self, walk: Walk, name: str, axis: int = 1) -> Moments:
        return mean_and_variance((walk.value(name, number) for number in range(walk.n_batches)), axis)


def _may_hold_normalization(site: Site) -> bool:
    """Whether a BatchNormalization may have been folded into a layer: it leaves a bias of the layer's own."""
    if site.node.op_type not in ("Conv", "Gemm") or site.output.is_graph_output():
        return False
    is_followed = any(usage.node.op_type == "BatchNormalization" for usage in site.output.uses())
    return not is_followed and site.intercept is not None and site.intercept.is_own


def _matching(dense: Moments, cut: Moments) -> Moments:
    """Factor and shift that turn values with the moments of the cut network into values with those of the original."""
    varies = (cut[1] > SMALLEST_SPREAD * dense[1]) & (dense[1] > 0)
    factor = np.sqrt(np.divide(dense[1], cut[1], out=np.ones_like(cut[1]), where=varies))
    return factor, dense[0] - factor * cut[0]


def _fold(site: Site, factor: FloatArray, shift: FloatArray) -> list[str]:
    own = factor.reshape(site.groups, -1)
    return site.write(site.matrix() * own[:, :, None], site.bias() * own + shift.reshape(site.groups, -1))


def _store(values: Sequence[ir.Value | None], moments: Moments) -> list[str]:
    for value, moment in zip(values, moments, strict=True):
        if value is not None:
            replace_tensor(value, moment.astype(stored_array(value).dtype))
    return [value.name or "" for value in values if value is not None]
