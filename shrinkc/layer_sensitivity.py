"""How much an error at a factorised layer shows in the model's outputs.

As for groups of channels (:mod:`shrinkc.evidence.sensitivity`): every layer is probed alone, with the product of its factors in
place of its weight, and the error of the outputs is divided by that of the layer, known in closed form.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from shrinkc import ir as shrinkc_ir
from shrinkc.api import RuntimeAdapter
from shrinkc.evidence.responses import Batches
from shrinkc.evidence.sensitivity import distance_between, outputs_of
from shrinkc.evidence.sites import Site
from shrinkc.factorable import Candidate, layers_of
from shrinkc.head_folding import PairCandidate, zeroed
from shrinkc.shapes import Shadow
from shrinkc.stages import composed

PROBED_ERROR = 0.1
"""A probe has the least rank whose error is below this: large enough to be seen, small enough to be a perturbation."""

LEAST_ERROR = 1e-6
"""Errors below this tell nothing."""


def layer_sensitivities(
    model: ir.Model, shadow: Shadow, candidates: Sequence[Candidate], batches: Batches, runtime: RuntimeAdapter
) -> dict[str, float]:
    """Error of the outputs per error of a layer, by layer name; layers that were not probed are missing.

    Parameters
    ----------
    model : ir.Model
    shadow : Shadow
        Of the model.
    candidates : sequence of Candidate
        One a layer.
    batches : sequence of mapping of input name to ndarray
        A few dozen samples are enough.
    runtime : RuntimeAdapter
    """
    reference = outputs_of(model, batches, runtime)
    copy = model.clone()
    sites = {site.name: site for site in layers_of(copy, Shadow.of(copy, shadow.input_shapes))}
    found: dict[str, float] = {}
    for candidate in candidates:
        rank = int(np.argmax(candidate.errors <= PROBED_ERROR))
        error = candidate.error(rank) if rank else 0.0
        if error < LEAST_ERROR:
            continue
        if isinstance(candidate, PairCandidate):
            probed = zeroed(model, shadow.input_shapes, candidate.paired(), rank)
            found[candidate.name] = distance_between(reference, outputs_of(probed, batches, runtime)) / error
            continue
        undo = _put_product(sites[candidate.name], candidate, rank)
        found[candidate.name] = distance_between(reference, outputs_of(copy, batches, runtime)) / error
        for value, tensor in undo:
            shrinkc_ir.put_tensor(value, tensor)
    return found


def _put_product(site: Site, candidate: Candidate, rank: int) -> list[tuple[ir.Value, ir.TensorProtocol]]:
    """Store what a layer's factors amount to; returns what was there before."""
    held = [site.weight, *([] if site.intercept is None else [site.intercept.tensor])]
    undo = [(value, tensor) for value in held if (tensor := shrinkc_ir.constant_tensor(value)) is not None]
    chain = candidate.chain(rank)
    weight, bias = composed(chain.stages)
    change = chain.shift if bias is None else bias.reshape(candidate.layer.bias.shape) - candidate.layer.bias
    site.write(candidate.as_matrix(weight), site.bias() if change is None else site.bias() + change)
    return undo
