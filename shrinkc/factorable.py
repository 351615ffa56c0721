"""Which layers could be factorised, how, and what every rank of them would cost and lose; nothing is changed here."""

from __future__ import annotations

import copy
import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import onnx_ir as ir

from shrinkc import ir as shrinkc_ir
from shrinkc.analysis.attributes import input_at, int_of
from shrinkc.api import FloatArray, RuntimeAdapter
from shrinkc.evidence.responses import Batches, Response, needed_values, observable, responses
from shrinkc.evidence.sites import Intercept, Site, is_alone, sites_of
from shrinkc.evidence.walking import Walk
from shrinkc.factors import BasisOf, Chain, Factored, Factorization, Form, LinearLayer, Sizes, Work
from shrinkc.shapes import Shadow
from shrinkc.stages import RECURRENT, Stage, recurrent_stage


@dataclass(frozen=True)
class Whole:
    """A layer that stays as it is, and why.

    Attributes
    ----------
    layer : str
    reason : str
    """

    layer: str
    reason: str


@dataclass(frozen=True, eq=False)
class Candidate:
    """A layer in one form.

    Attributes
    ----------
    site : Site
    form : Form
    layer : LinearLayer
    sizes : Sizes
    step : int
        Ranks are multiples of this.
    """

    site: Site
    form: Form | JointForm
    layer: LinearLayer
    sizes: Sizes
    step: int
    basis_of: BasisOf = field(repr=False)
    limit: int | None = field(default=None, kw_only=True)
    """No larger rank is looked at, where one is known to gain nothing."""

    @property
    def name(self) -> str:
        """Of the layer."""
        return self.site.name

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that it changes: no two candidates may change the same."""
        return (self.name,)

    @cached_property
    def factored(self) -> Factored:
        """The decomposition, made when it is first asked for and only then."""
        return self._alone.factored(self.site, self.layer, self.basis_of)

    @property
    def errors(self) -> FloatArray:
        """See :class:`shrinkc.factors.Factored`."""
        return self.factored.errors

    def error(self, rank: int) -> float:
        """See :class:`shrinkc.factors.Factored`."""
        return self.factored.error(rank)

    def chain(self, rank: int) -> Chain:
        """See :class:`shrinkc.factors.Factored`."""
        return self.factored.chain(rank)

    def dense_chain(self) -> Chain:
        """The layer whole, as a chain of one stage."""
        site = self.site
        weight = self.layer.weight.reshape(site.outputs, -1)
        if site.windows is not None:
            kernel = site.windows.kernel
            attributes = {**site.attributes(SLIDING), "kernel_shape": kernel, "group": site.groups}
            shaped = weight.reshape(site.outputs, site.inputs // site.groups, *kernel)
            return Chain((Stage("Conv", shaped, self.layer.bias.reshape(-1), attributes),))
        if site.node.op_type == "MatMul":
            return Chain((Stage("MatMul", weight.T),))
        if is_table(site):
            return Chain((Stage("Gather", weight.T, attributes={"axis": 0}),))
        if is_recurrent(site):
            return Chain((recurrent_stage(site, weight),))
        return Chain((Stage("Gemm", weight, self.layer.bias.reshape(-1), {"transB": 1}),))

    def as_matrix(self, weight: FloatArray) -> FloatArray:
        """A weight in the operator's layout as ``(groups, outputs, columns)``."""
        layout = weight.T if self.site.is_transposed else weight
        matrix: FloatArray = layout.reshape(self.layer.weight.shape)
        return matrix

    @cached_property
    def full_rank(self) -> int:
        """Largest rank."""
        return self._alone.full_rank(self.site)

    @property
    def _alone(self) -> Form:
        """Its form, that of one layer."""
        if isinstance(self.form, JointForm):
            raise TypeError(f"{self.form.name} is a form of several layers")
        return self.form

    def dense(self, inputs: int | None = None, outputs: int | None = None, /) -> Work:
        """Cost of the layer whole, of all or of so many of its channels."""
        site = self.site
        elements = (inputs or site.inputs) * (outputs or site.outputs) // site.groups * site.taps
        macs = 0 if is_table(site) else self.sizes.samples * math.prod(self.sizes.made) * elements
        return Work(macs, elements)

    def work(self, rank: int, inputs: int | None = None, outputs: int | None = None, /) -> Work:
        """Cost at a rank, of all or of so many of its channels."""
        return self._alone.work(self.site, self.sizes, rank, inputs or self.site.inputs, outputs or self.site.outputs)

    def inner_widths(self, rank: int) -> tuple[int, ...]:
        """Channels between the stages of the chain at a rank."""
        return self._alone.inner_widths(self.site, rank)

    @cached_property
    def largest_rank(self) -> int:
        """Largest multiple of the step that costs less than the whole layer, in both respects; 0 if none does."""
        most = self.full_rank if self.limit is None else min(self.limit, self.full_rank)
        return max((rank for rank in range(self.step, most + 1, self.step) if self.pays(rank)), default=0)

    def up_to(self, rank: int) -> Candidate:
        """The same candidate, decomposed already if this one is, with no larger rank."""
        other = copy.copy(self)
        object.__setattr__(other, "limit", rank)
        other.__dict__.pop("largest_rank", None)
        return other

    def pays(self, rank: int, inputs: int | None = None, outputs: int | None = None, /) -> bool:
        """Whether a rank is below the break-even point."""
        before, after = self.dense(inputs, outputs), self.work(rank, inputs, outputs)
        is_less_work = after.macs < before.macs or not self.form.saves_time
        return is_less_work and after.parameters < before.parameters


@runtime_checkable
class JointForm(Protocol):
    """A rewrite of several layers at once, which finds its candidates itself; in the place of a :class:`Form`.

    Attributes
    ----------
    name : str
    saves_time : bool
    """

    name: str
    saves_time: bool

    def candidates(
        self, model: ir.Model, shadow: Shadow, scope: Scope, batches: Batches, runtime: RuntimeAdapter, seed: int
    ) -> Found:
        """Candidates of a model, and what stays as it is; see :func:`candidates_in`."""


@dataclass(frozen=True)
class Scope:
    """What may be factorised.

    Attributes
    ----------
    forms : sequence of Form or JointForm
    factorization : Factorization
    round_to : int
        Ranks are multiples of this.
    exclude, include : tuple of str
        Patterns of node or tensor names.
    only : frozenset of str or None
        Names of layers; None for any.
    """

    forms: Sequence[Form | JointForm]
    factorization: Factorization
    round_to: int = 1
    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    only: frozenset[str] | None = None

    def admits(self, node: ir.Node) -> bool:
        """Whether the patterns let a node be factorised."""
        if self.only is not None and node.outputs[0].name not in self.only:
            return False
        names = [node.name or "", *(value.name or "" for value in (*node.inputs, *node.outputs) if value is not None)]
        is_named = any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in self.include)
        is_excluded = any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in self.exclude)
        return (is_named or not self.include) and not is_excluded


@dataclass(frozen=True)
class Found:
    """Layers in every form that fits, and those that stay whole; in the order of the graph."""

    candidates: tuple[Candidate, ...]
    whole: tuple[Whole, ...]


SLIDING = ("strides", "pads", "dilations", "auto_pad")
"""Attributes that say how a convolution slides."""

LAYERS = ("Conv", "Gemm", "MatMul", "Gather", *RECURRENT)


def layers_of(model: ir.Model, shadow: Shadow) -> list[Site]:
    """Every layer of a graph that could be factorised, tables among them, in its order."""
    found = {site.node: site for site in sites_of(model, shadow)}
    makers = {"Gather": _table, **dict.fromkeys(RECURRENT, _recurrent)}
    others = {node: makers[node.op_type](node, shadow) for node in model.graph if node.op_type in makers}
    return [site for node in model.graph if (site := found.get(node) or others.get(node)) is not None]


def is_recurrent(site: Site) -> bool:
    """Whether a layer is the input matrices of a recurrent one, whose products are no values of the graph."""
    return site.node.op_type in RECURRENT


def _recurrent(node: ir.Node, shadow: Shadow) -> Site | None:
    """The input matrices of a recurrent layer, directions and gates together, as a layer over its inputs."""
    data, weight = node.inputs[0], node.inputs[1]
    shape = shadow.shape(weight)
    if node.domain not in ("", "ai.onnx") or data is None or weight is None or shape is None or not node.outputs[0].name:
        return None
    if shrinkc_ir.constant_tensor(weight) is None or not is_alone(weight) or shadow.shape(data) is None:
        return None
    rows = shape[0] * shape[1]
    intercept = _gate_biases(node, shape[0], shape[1])
    return Site(node, data, node.outputs[0], weight, 1, shape[2], rows, 1, None, False, 1.0, intercept)


def _gate_biases(node: ir.Node, directions: int, rows: int) -> Intercept | None:
    """The biases behind the input matrices: the first half of what each direction stores."""
    stored = input_at(node, 3)
    if stored is None or shrinkc_ir.constant_tensor(stored) is None or not is_alone(stored):
        return None
    places = np.arange(directions)[:, None] * 2 * rows + np.arange(rows)
    return Intercept(stored, places=places.reshape(-1))


def is_table(site: Site) -> bool:
    """Whether a layer is a table of embeddings, its input an index."""
    return site.node.op_type == "Gather"


def _table(node: ir.Node, shadow: Shadow) -> Site | None:
    """A Gather of rows of a stored matrix that nobody else reads, as a layer over one-hot rows."""
    if node.op_type != "Gather" or node.domain not in ("", "ai.onnx") or int_of(node, "axis", 0) != 0:
        return None
    table, indices = node.inputs[0], node.inputs[1]
    shape = shadow.shape(table)
    if table is None or indices is None or shape is None or len(shape) != 2 or shadow[indices].is_static:
        return None
    is_float = shadow[table].dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)
    if not is_float or shrinkc_ir.constant_tensor(table) is None or not is_alone(table):
        return None
    rows, width = shape
    return Site(node, indices, node.outputs[0], table, 1, rows, width, 1, None, True, 1.0, None)


def candidates_in(
    model: ir.Model,
    shadow: Shadow,
    scope: Scope,
    batches: Batches,
    runtime: RuntimeAdapter,
    seed: int = 0,
) -> Found:
    """Look at every layer of a model, on data if there are any.

    Parameters
    ----------
    model : ir.Model
    shadow : Shadow
        Of the model.
    scope : Scope
    batches : sequence of mapping of input name to ndarray
        Empty without data.
    runtime : RuntimeAdapter
    seed : int
        Of the sampled positions.
    """
    sites = {site.node: site for site in layers_of(model, shadow)}
    joint, whole = _joint(model, shadow, scope, batches, runtime, seed)
    fitting: dict[str, list[Form]] = {}
    for node in model.graph:
        if node.op_type not in LAYERS or node.domain not in ("", "ai.onnx") or not scope.admits(node):
            continue
        forms, reason = _forms(node, sites.get(node), scope, shadow, has_data=bool(batches))
        name = node.outputs[0].name or ""
        if node.op_type in RECURRENT:
            whole.append(Whole(f"{name} (recurrent matrices)", "the fused operator takes its recurrent matrices whole"))
        if forms:
            fitting[name] = forms
        elif reason:
            whole.append(Whole(name, reason))
    chosen = [site for site in sites.values() if site.name in fitting]
    seen = _seen(model, chosen, fitting, batches, runtime, seed)
    candidates, narrow = list(joint), []
    for site in chosen:
        layer = linear_layer(site, seen.get(site.name))
        own = [_candidate(site, form, layer, shadow, scope) for form in fitting[site.name]]
        useful = [candidate for candidate in own if candidate.largest_rank]
        candidates += useful
        narrow += [] if useful else [Whole(site.name, _narrow(own[0]))]
    return Found(tuple(candidates), (*whole, *narrow))


def _joint(
    model: ir.Model, shadow: Shadow, scope: Scope, batches: Batches, runtime: RuntimeAdapter, seed: int
) -> tuple[list[Candidate], list[Whole]]:
    """Candidates of several layers, and what stays as it is."""
    candidates: list[Candidate] = []
    whole: list[Whole] = []
    for form in scope.forms:
        if isinstance(form, JointForm):
            found = form.candidates(model, shadow, scope, batches, runtime, seed)
            candidates += found.candidates
            whole += found.whole
    return candidates, whole


def _forms(node: ir.Node, site: Site | None, scope: Scope, shadow: Shadow, *, has_data: bool) -> tuple[list[Form], str]:
    """Forms that fit a layer, or why none does."""
    if site is None and node.op_type == "Gather":
        return [], ""
    weight = input_at(node, 1)
    if site is None and (weight is None or not shadow[weight].is_static):
        return [], ""  # a product of two activations is no layer
    if site is None:
        return [], "its weight is shared with another node, computed, or batched"
    if _odd_bias(site):
        return [], "its bias is no stored vector"
    reasons = [(form, form.refusal(site)) for form in scope.forms if not isinstance(form, JointForm)]
    if not reasons:
        return [], ""
    fitting = [form for form, reason in reasons if not reason]
    if has_data:
        fitting = [form for form in fitting if not form.wants_inputs(site) or observable(site, inputs=True)]
    wrong_kind = [reason for _, reason in reasons if reason and not reason.startswith("it is no")]
    return fitting, "" if fitting or is_table(site) else (wrong_kind or ["no rewrite fits it"])[0]


def _odd_bias(site: Site) -> bool:
    own = None if is_table(site) or is_recurrent(site) else input_at(site.node, 2)
    if own is None:
        return False
    return shrinkc_ir.constant_tensor(own) is None or own_bias(site).size != site.outputs


def own_bias(site: Site) -> FloatArray:
    """What a Conv or Gemm adds itself, shape ``(groups, outputs)``, whoever else reads the tensor."""
    own = None if is_recurrent(site) else input_at(site.node, 2)
    if own is None:
        return np.zeros((site.groups, site.outputs // site.groups))
    beta = site.node.attributes.get("beta")
    stored = shrinkc_ir.stored_array(own).astype(np.float64) * (1.0 if beta is None else beta.as_float())
    return stored.reshape(site.groups, -1) if stored.size == site.outputs else stored


def linear_layer(site: Site, response: Response | None) -> LinearLayer:
    """A site and what data say of it, as a linear map."""
    can_shift = site.node.op_type in ("Conv", "Gemm") or site.intercept is not None
    layer = LinearLayer(site.name, site.matrix(), own_bias(site), _gain(site), can_shift)
    if response is None:
        return layer
    return replace(layer, inputs=response.inputs, outputs=None if is_recurrent(site) else response.outputs)


def _gain(site: Site) -> FloatArray:
    """What the BatchNormalization that alone reads a layer multiplies its outputs by; ones where there is none."""
    ones = np.ones((site.groups, site.outputs // site.groups))
    node = normalisation_behind(site)
    if node is None:
        return ones
    read = (node.inputs[1], node.inputs[4])
    stored = [None if value is None else shrinkc_ir.constant_tensor(value) for value in read]
    if stored[0] is None or stored[1] is None:
        return ones
    scale, variance = (tensor.numpy().astype(np.float64) for tensor in stored if tensor is not None)
    gain: FloatArray = scale / np.sqrt(variance + epsilon_of(node))
    return gain.reshape(ones.shape)


def normalisation_behind(site: Site) -> ir.Node | None:
    """The BatchNormalization that alone reads a layer's output; None where there is none."""
    readers = list(site.output.uses())
    if len(readers) != 1 or readers[0].node.op_type != "BatchNormalization" or readers[0].idx != 0:
        return None
    return readers[0].node


def epsilon_of(node: ir.Node) -> float:
    """What a BatchNormalization adds to variances."""
    epsilon = node.attributes.get("epsilon")
    return 1e-5 if epsilon is None else epsilon.as_float()


def _seen(
    model: ir.Model,
    sites: Sequence[Site],
    fitting: Mapping[str, Sequence[Form]],
    batches: Batches,
    runtime: RuntimeAdapter,
    seed: int,
) -> dict[str, Response]:
    if not batches or not sites:
        return {}
    with_inputs = {site.name: any(form.wants_inputs(site) for form in fitting[site.name]) for site in sites}
    n_samples = sum(len(next(iter(batch.values()))) for batch in batches)
    walk = Walk(model, batches, runtime, needed_values(sites))
    return responses(walk, sites, with_inputs, n_samples, seed)


def _candidate(site: Site, form: Form, layer: LinearLayer, shadow: Shadow, scope: Scope) -> Candidate:
    step = scope.round_to // math.gcd(scope.round_to, site.groups)
    return Candidate(site, form, layer, _sizes(site, shadow), step, scope.factorization.basis)


def _sizes(site: Site, shadow: Shadow) -> Sizes:
    read, made = shadow.shape(site.data) or (1,), shadow.shape(site.output) or (1,)
    if is_table(site):
        return Sizes(read[0] if read else 1, read[1:], read[1:])
    if is_recurrent(site):
        return Sizes(read[0], read[1:-1], read[1:-1])
    if site.windows is None:
        return Sizes(read[0], read[1:-1], made[1:-1])
    return Sizes(read[0], read[2:], made[2:])


def _narrow(candidate: Candidate) -> str:
    even = max((rank for rank in range(1, candidate.full_rank + 1) if candidate.pays(rank)), default=0)
    if not even:
        return "no rank costs less than the layer whole"
    return f"its largest rank that pays, {even}, is below the channel multiple {candidate.step}"
