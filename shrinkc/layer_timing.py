"""CPU times of layers by themselves, whole and factorised, measured on the runtime at hand and kept.

Layers that differ in nothing that takes time are one measurement, and what was measured before is not measured again: the same
model gets the same plan.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from shrinkc import ir as shrinkc_ir
from shrinkc.api import RunConfig, RuntimeAdapter
from shrinkc.errors import BuildError
from shrinkc.evidence.sites import Site
from shrinkc.factorable import Candidate, is_table
from shrinkc.head_folding import PairCandidate
from shrinkc.latency.layer_times import LayerTimes, time_layers
from shrinkc.latency.measured_pairs import MeasuredPairs
from shrinkc.shapes import Shadow
from shrinkc.stages import Stage, layer_model


@dataclass
class Times:
    """CPU times of layers, whole and factorised, measured once for every rank.

    Attributes
    ----------
    model : ir.Model
    shadow : Shadow
    runtime : RuntimeAdapter
    threads : int
    kept : MeasuredPairs
        What was measured before.
    """

    model: ir.Model
    shadow: Shadow
    runtime: RuntimeAdapter
    threads: int
    kept: MeasuredPairs = field(default_factory=MeasuredPairs)
    known: dict[tuple[str, str, int], LayerTimes | None] = field(default_factory=dict)

    def of(self, candidate: Candidate, rank: int) -> LayerTimes | None:
        """Times of one layer at one rank; None where the runtime cannot run it by itself."""
        if isinstance(candidate, PairCandidate):
            return None  # no layer is added, and those there are get narrower
        key = (candidate.name, candidate.form.name, rank)
        if key not in self.known:
            self.known[key] = self._found(candidate, rank)
        return self.known[key]

    def _found(self, candidate: Candidate, rank: int) -> LayerTimes | None:
        shape = self.shadow.shape(candidate.site.data)
        if shape is None:
            return None
        chains = candidate.dense_chain().stages, candidate.chain(rank).stages
        key = description(candidate.site, shape, chains)
        known = self.kept.of(key)
        if known is None and (known := self._measured(candidate.site, shape, chains)) is not None:
            self.kept.add(key, known)
        return known

    def _measured(self, site: Site, shape: tuple[int, ...], chains: Sequence[Sequence[Stage]]) -> LayerTimes | None:
        config = RunConfig(threads=self.threads)
        try:
            before, after = (self.runtime.load(micro_model(self.model, site, stages), config) for stages in chains)
            return time_layers(before, after, {"x": made_up(site, shape)})
        except BuildError:
            return None


def description(site: Site, shape: tuple[int, ...], chains: Sequence[Sequence[Stage]]) -> str:
    """Everything about two versions of a layer that their times depend on."""
    versions = [[_described(stage) for stage in stages] for stages in chains]
    return json.dumps([list(shape), str(element_type(site)), *versions])


def _described(stage: Stage) -> list[object]:
    rest = [None if array is None else list(array.shape) for array in stage.rest]
    return [stage.op_type, list(stage.weight.shape), stage.bias is not None, sorted(stage.attributes.items()), rest]


def made_up(site: Site, shape: tuple[int, ...]) -> np.ndarray:
    """Inputs for timing one layer: normal numbers, or rows of a table."""
    generator = np.random.default_rng(0)
    if is_table(site):
        return generator.integers(0, site.inputs, shape).astype((site.data.dtype or ir.DataType.INT64).numpy())
    return generator.standard_normal(shape).astype(element_type(site))


def micro_model(model: ir.Model, site: Site, stages: Sequence[Stage]) -> bytes:
    """A layer of a model as a model of its own, as stages say it."""
    dtype = element_type(site)
    data_type = int(site.data.dtype or ir.DataType.from_numpy(dtype))
    return layer_model(stages, model.graph.opset_imports, model.ir_version, data_type, dtype)


def element_type(site: Site) -> np.dtype[np.generic]:
    """Type that a layer's weight is stored in."""
    return shrinkc_ir.stored_array(site.weight).dtype
