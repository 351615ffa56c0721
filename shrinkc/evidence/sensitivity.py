"""How much an error at a group's consumers shows in the model's outputs.

A layer's error is relative to that layer; networks forgive it in some places and not in others.  Every group is probed alone:
its weakest channels are silenced in the original, the consumers refitted in closed form, and the outputs compared.  The ratio
of the error found there to the error predicted at the consumers puts the curves of all groups on one scale.  Nothing is cut
for this: columns of weights are set to zero, which is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from scipy import linalg

from shrinkc import ir as shrinkc_ir
from shrinkc.analysis.groups import Analysis
from shrinkc.api import Consumer, Evidence, FloatArray, Group, RunConfig, RuntimeAdapter, Sensitivity
from shrinkc.evidence.curves import greedy_elimination
from shrinkc.evidence.elimination import damped
from shrinkc.evidence.sites import Site, sites_of

Array = NDArray[Any]

PROBED_SHARE = 0.5
"""Share of a group's positions that a probe silences where nobody says otherwise."""

LEAST_ERROR = 1e-6
"""Predicted error below which a group is not probed: it has so many spare channels that nothing would show."""


def with_sensitivities(
    evidence: Evidence,
    analysis: Analysis,
    batches: Sequence[Mapping[str, Array]],
    runtime: RuntimeAdapter,
    silenced: Mapping[str, int] | None = None,
) -> Evidence:
    """Evidence with one more probe of every group that could be probed.

    Parameters
    ----------
    evidence : Evidence
    analysis : Analysis
    batches : sequence of mapping of input name to ndarray
        A few dozen samples are enough.
    runtime : RuntimeAdapter
    silenced : mapping of group name to int, optional
        Groups to probe, and how many of their positions to silence.  By default half of every group.
    """
    if silenced is None:
        silenced = {group.name: round(PROBED_SHARE * group.width) for group in analysis.groups}
    reference = outputs_of(analysis.model, batches, runtime)
    copy = analysis.model.clone()
    values = {value.name: value for value in _stored(copy)}
    sites = {site.name: site for site in sites_of(analysis.model, analysis.shadow)}
    found = dict(evidence.sensitivity)
    for group in analysis.groups:
        predicted = _predicted(evidence, group, silenced.get(group.name, 0))
        if predicted is None:
            continue
        order, error = predicted
        undo = _silence(evidence.consumers[group.name], order, sites, values)
        ratio = distance_between(reference, outputs_of(copy, batches, runtime)) / error
        found[group.name] = found.get(group.name, Sensitivity(())).with_probe(len(order), ratio)
        for value, tensor in undo:
            shrinkc_ir.put_tensor(value, tensor)
    return replace(evidence, sensitivity=found)


def _predicted(evidence: Evidence, group: Group, count: int) -> tuple[NDArray[np.int64], float] | None:
    """Positions that a probe silences, and the error this makes at the consumers."""
    elimination = greedy_elimination(evidence, group) if count else None
    if elimination is None or elimination.errors[count] < LEAST_ERROR:
        return None
    return elimination.order[:count], float(elimination.errors[count])


def _stored(model: ir.Model) -> list[ir.Value]:
    values = list(model.graph.initializers.values())
    return values + [output for node in model.graph for output in node.outputs if node.op_type == "Constant"]


def _silence(
    consumers: Sequence[Consumer],
    gone: NDArray[np.int64],
    sites: Mapping[str, Site],
    values: Mapping[str | None, ir.Value],
) -> list[tuple[ir.Value, ir.TensorProtocol]]:
    """Refit the consumers in a copy of the model without some positions; returns what was there before."""
    undo: list[tuple[ir.Value, ir.TensorProtocol]] = []
    by_site: dict[str, list[Consumer]] = {}
    for consumer in consumers:
        by_site.setdefault(consumer.name, []).append(consumer)
    for name, parts in by_site.items():
        site = _in_copy(sites[name], values)
        undo += [(value, tensor) for value in _changed(site) if (tensor := shrinkc_ir.constant_tensor(value)) is not None]
        matrix, bias = site.matrix(), site.bias().copy()
        for part in parts:
            weight, shift = refitted(part, np.isin(part.position, gone), can_shift=site.intercept is not None)
            matrix[part.number][:, slice(None) if part.columns is None else part.columns] = weight
            bias[part.number] += shift
        site.write(matrix, bias)
    return undo


def _in_copy(site: Site, values: Mapping[str | None, ir.Value]) -> Site:
    intercept = site.intercept
    if intercept is not None:
        intercept = replace(intercept, tensor=values[intercept.tensor.name])
    return replace(site, weight=values[site.weight.name], intercept=intercept)


def _changed(site: Site) -> list[ir.Value]:
    return [site.weight, *([] if site.intercept is None else [site.intercept.tensor])]


def refitted(consumer: Consumer, is_gone: NDArray[np.bool_], *, can_shift: bool) -> tuple[FloatArray, FloatArray]:
    """Weight without some columns and the change of the bias that make up for them best, on the inputs of the original.

    METHODS P4: ``M' = M_K + M_S S_SK (S_KK)^-1`` with the damped covariance ``S``; the plain second moment where there is no
    place for a bias.
    """
    second = consumer.gram - np.outer(consumer.mean, consumer.mean) if can_shift else consumer.gram
    matrix = damped(second, consumer.rows)
    kept = ~is_gone
    weight = np.zeros(consumer.weight.shape)
    weight[:, kept] = consumer.weight[:, kept]
    if not is_gone.any() or not kept.any():
        return weight, consumer.weight[:, is_gone] @ consumer.mean[is_gone] * can_shift
    pulled = linalg.solve(matrix[np.ix_(kept, kept)], second[np.ix_(kept, is_gone)], assume_a="pos")
    weight[:, kept] += consumer.weight[:, is_gone] @ pulled.T
    return weight, (consumer.weight - weight) @ consumer.mean * can_shift


def outputs_of(model: ir.Model, batches: Sequence[Mapping[str, Array]], runtime: RuntimeAdapter) -> list[dict[str, Array]]:
    """Outputs of a model, batch by batch."""
    session = runtime.load(shrinkc_ir.loadable(model), RunConfig(threads=0))
    return [session.run(batch) for batch in batches]


def distance_between(reference: Sequence[Mapping[str, Array]], actual: Sequence[Mapping[str, Array]]) -> float:
    """Squared error as a share of the outputs' variance, the mean over the floating-point outputs."""
    shares = []
    for name, first in reference[0].items():
        if np.issubdtype(first.dtype, np.floating):
            wanted = np.concatenate([batch[name].ravel() for batch in reference]).astype(np.float64)
            found = np.concatenate([batch[name].ravel() for batch in actual]).astype(np.float64)
            if wanted.shape == found.shape and wanted.var() > 0:
                shares.append(float(np.square(wanted - found).mean() / wanted.var()))
    return float(np.mean(shares)) if shares else 0.0
