"""The state of one analysis while labels are pushed through a graph, and what operator rules may do to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from shrinkc.analysis.attributes import input_at
from shrinkc.analysis.labels import Labels, LabelSpace, Shape, along, labelled_axes, main_axis, uniform
from shrinkc.shapes import Shadow


class Role(Enum):
    """What a parameter axis does for the channels it carries."""

    PRODUCES = "produces"
    CONSUMES = "consumes"
    SCALES = "scales"
    FOLLOWS = "follows"


@dataclass(frozen=True)
class Attachment:
    """One axis of a constant, as a node reads it, tied to channels: ``labels[i]`` is the channel of index ``i``."""

    node: ir.Node
    input_index: int
    axis: int
    labels: Labels
    role: Role


@dataclass(frozen=True)
class Blocker:
    """Why channels cannot be removed."""

    node: str
    op_type: str
    reason: str


@dataclass(frozen=True)
class Balance:
    """Rows of channels that must keep the same number each; ``rows`` has shape (rows, channels)."""

    node: str
    rows: Labels


@dataclass(frozen=True)
class Mixing:
    """A node that mixes the channels of one input over ``axis``: removal there is not the same as zeroing."""

    node: ir.Node
    input_index: int
    axis: int
    keeps_axis: bool


@dataclass(frozen=True)
class Heads:
    """Rows of channels that one label each stands for: without its row a head is empty, without its head a row is useless.

    Attributes
    ----------
    node : ir.Node
        Contraction or reduction that leaves the heads of the rows.
    heads : ndarray of shape (rows,), int64
    rows : ndarray of shape (rows, channels), int64
    is_rigid : bool
        A row goes with its head only, as a whole.
    is_balanced : bool
        If channels go one by one, every row keeps the same number; set where the rows lie side by side on one axis.
    """

    node: ir.Node
    heads: Labels
    rows: Labels
    is_rigid: bool = False
    is_balanced: bool = False


@dataclass(frozen=True)
class Following:
    """A constant broadcast against labels on several axes; which of them it follows is known once those are settled.

    ``axes[i]`` is the constant's axis that lies along axis ``i`` of the labels, None where it has none.
    """

    node: ir.Node
    input_index: int
    labels: Labels
    axes: tuple[int | None, ...]
    role: Role


@dataclass(frozen=True)
class Regrouping:
    """The weight of a grouped convolution whose groups may keep different inputs, equally many.

    Attributes
    ----------
    node : ir.Node
    inputs : ndarray of shape (groups, channels), int64
    """

    node: ir.Node
    inputs: Labels


@dataclass(frozen=True)
class Work:
    """Multiply-accumulates of one node.

    They shrink with the attached axes of its input ``weight_index`` and with ``operands``: labels aligned to the same axes,
    of which the work is the product.
    """

    node: ir.Node
    macs: int
    weight_index: int | None
    operands: tuple[Labels, ...] = ()


class Blocked(Exception):
    """Raised by a rule: the channels that reach this node must stay."""


Rule = Callable[["Flow", ir.Node], None]
RuleTable = Mapping[tuple[str, str], Rule]


class Flow:
    """Labels of every value of a graph, and everything rules found out about them.

    Rules read labels with :meth:`channels` or :meth:`labels_of`, give outputs labels with :meth:`assign`, and tie
    parameters to channels with :meth:`attach` and :meth:`follow`.  A rule that cannot tell raises :class:`Blocked`.
    """

    def __init__(self, shadow: Shadow, *, independent_groups: bool = False) -> None:
        self.shadow = shadow
        self.independent_groups = independent_groups
        self.regroupings: list[Regrouping] = []
        self.space = LabelSpace()
        self.labels: dict[ir.Value, Labels] = {}
        self.attachments: list[Attachment] = []
        self.blocked: list[tuple[Labels, Blocker]] = []
        self.balances: list[Balance] = []
        self.mixings: list[Mixing] = []
        self.work: list[Work] = []
        self.heads: list[Heads] = []
        self.followings: list[Following] = []

    def shape(self, value: ir.Value | None) -> Shape:
        """Static shape of a value; raises :class:`Blocked` if it is not known."""
        shape = self.shadow.shape(value)
        if shape is None:
            raise Blocked(f"the shape of {value.name if value else 'an absent input'} is not known")
        return shape

    def is_constant(self, value: ir.Value | None) -> bool:
        """Whether a value depends on no graph input."""
        return self.shadow[value].is_static

    def known(self, node: ir.Node, index: int) -> NDArray[Any]:
        """Value of a small constant input; raises :class:`Blocked` if it is not known."""
        value = self.shadow[input_at(node, index)].value
        if value is None:
            raise Blocked(f"input {index} is computed from the data")
        return value

    def require_constant(self, node: ir.Node, *indices: int) -> None:
        """Raise :class:`Blocked` unless the named inputs, where present, are constants."""
        for index in indices:
            value = input_at(node, index)
            if value is not None and not self.is_constant(value):
                raise Blocked(f"input {index} ({value.name}) is not a constant")

    def labels_of(self, value: ir.Value | None) -> Labels:
        """Labels of an activation; raises :class:`Blocked` for constants and values of unknown shape."""
        if value is None or value not in self.labels:
            raise Blocked(f"{value.name if value else 'an absent input'} carries no channels")
        return self.labels[value]

    def channels(self, value: ir.Value | None, axis: int) -> Labels:
        """Labels along one axis as a vector; labels that vary along other axes are tied across them."""
        labels = self.labels_of(value)
        carried = labelled_axes(labels)
        if carried and axis % labels.ndim not in carried:
            raise Blocked(f"channels lie on axis {carried[0]}, which it does not treat as channels")
        labels = self.tie_across(labels, [other for other in carried if other != axis % labels.ndim])
        size = self.shape(value)[axis]
        return np.broadcast_to(labels.reshape(-1), (size,))

    def assign(self, value: ir.Value, labels: Labels) -> None:
        """Give an output its labels."""
        self.labels[value] = labels

    def assign_channels(self, value: ir.Value, vector: Labels, axis: int) -> None:
        """Give an output labels that vary along ``axis`` only."""
        self.labels[value] = along(np.asarray(vector), axis, len(self.shape(value)))

    def attach(self, node: ir.Node, input_index: int, axis: int, labels: Labels, role: Role) -> None:
        """Tie an axis of a constant input to channels."""
        value = input_at(node, input_index)
        if value is not None:
            if self.shape(value)[axis] != len(labels):
                raise Blocked(f"input {input_index} has {self.shape(value)[axis]} entries for {len(labels)} channels")
            if 0 in self.shape(value):
                raise Blocked(f"input {input_index} ({value.name}) is empty")
            self.attachments.append(Attachment(node, input_index, axis, np.asarray(labels), role))

    def follow(self, node: ir.Node, input_index: int, labels: Labels, role: Role = Role.FOLLOWS) -> None:
        """Tie a constant that is broadcast against values with ``labels`` (numpy alignment, last axes together)."""
        shape = self.shape(node.inputs[input_index])
        offset = labels.ndim - len(shape)
        axes = [axis - offset if axis >= offset and shape[axis - offset] > 1 else None for axis in range(labels.ndim)]
        self.follow_along(node, input_index, labels, tuple(axes), role)

    def follow_along(
        self, node: ir.Node, input_index: int, labels: Labels, axes: tuple[int | None, ...], role: Role = Role.FOLLOWS
    ) -> None:
        """Tie a constant to labels; ``axes[i]`` is its axis along axis ``i`` of the labels, None where it has none."""
        carried = labelled_axes(labels)
        if len(carried) > 1:
            self.followings.append(Following(node, input_index, labels, axes, role))
        elif carried and (axis := axes[carried[0]]) is not None:
            self.attach(node, input_index, axis, labels.reshape(-1), role)

    def head_rows(self, node: ir.Node, labels: Labels, inner: Sequence[int]) -> Labels:
        """Labels of the rows that are left when the axes ``inner`` are contracted, tied by :class:`Heads`."""
        shape = [1 if axis in inner else size for axis, size in enumerate(labels.shape)]
        heads = self.space.fresh(math.prod(shape)).reshape(shape)
        self.link_heads(node, heads, labels)
        return heads

    def link_heads(
        self, node: ir.Node, heads: Labels, rows: Labels, *, is_rigid: bool = False, is_balanced: bool = False
    ) -> None:
        """Note that each of ``heads`` stands for the row of ``rows`` it broadcasts over."""
        outer = labelled_axes(heads)
        order = [*outer, *(axis for axis in range(rows.ndim) if axis not in outer)]
        self.heads.append(Heads(node, heads.reshape(-1), rows.transpose(order).reshape(heads.size, -1), is_rigid, is_balanced))

    def mark(self) -> tuple[int, ...]:
        """State to go back to if a rule gives up half-way; ties stay, they only make groups larger."""
        return tuple(len(notes) for notes in self._notes())

    def _notes(self) -> tuple[list[Any], ...]:
        return (
            self.attachments,
            self.balances,
            self.mixings,
            self.work,
            self.heads,
            self.followings,
            self.regroupings,
        )

    def roll_back(self, mark: tuple[int, ...]) -> None:
        """Forget what was noted since ``mark``."""
        for notes, length in zip(self._notes(), mark, strict=True):
            del notes[length:]

    def freeze(self, labels: Labels, node: ir.Node | None, reason: str) -> None:
        """Keep the channels of ``labels`` whole, and say why."""
        name = "" if node is None else node.name or (node.outputs[0].name or "" if node.outputs else "")
        self.blocked.append((np.unique(labels), Blocker(name, node.op_type if node else "", reason)))

    def block(self, node: ir.Node, reason: str) -> None:
        """Freeze everything that reaches ``node``, and give its outputs labels that can never go."""
        for value in reads(node):
            if value in self.labels:
                self.freeze(self.labels[value], node, reason)
        for output in node.outputs:
            shape = self.shadow.shape(output)
            if shape is not None:
                self.assign(output, self.opaque(len(shape), node, reason))

    def opaque(self, rank: int, node: ir.Node | None, reason: str) -> Labels:
        """Labels of a value that has no removable channels."""
        labels = uniform(int(self.space.fresh(1)[0]), rank)
        self.freeze(labels, node, reason)
        return labels

    def mix(self, node: ir.Node, input_index: int, axes: list[int], *, keeps_axis: bool) -> None:
        """Note that ``node`` mixes channels over those of ``axes`` that carry labels."""
        labels = self.labels_of(node.inputs[input_index])
        for axis in labelled_axes(labels):
            if axis in axes:
                self.mixings.append(Mixing(node, input_index, axis, keeps_axis))

    def make_rectangular(self, labels: Labels) -> None:
        """Tie labels that vary along several axes so that they vary along one only."""
        main = main_axis(labels)
        self.tie_across(labels, [axis for axis in labelled_axes(labels) if axis != main])

    def tie_across(self, labels: Labels, axes: Sequence[int]) -> Labels:
        """Tie what lies along ``axes``; returns the labels that are left."""
        for axis in axes:
            if labels.shape[axis] > 1:
                first = labels.take([0], axis)
                self.space.tie(labels, first)
                labels = first
        return labels


def reads(node: ir.Node) -> list[ir.Value]:
    """Every value a node reads, those captured by its subgraphs included."""
    values = [value for value in node.inputs if value is not None]
    for attribute in node.attributes.values():
        if isinstance(attribute, ir.Attr) and attribute.type == ir.AttributeType.GRAPH:
            graphs = [attribute.as_graph()]
        elif isinstance(attribute, ir.Attr) and attribute.type == ir.AttributeType.GRAPHS:
            graphs = list(attribute.as_graphs())
        else:
            continue
        for graph in graphs:
            for inner in graph.all_nodes():
                values += [value for value in inner.inputs if value is not None]
            values += list(graph.outputs)
    return values


def walk(graph: ir.Graph, shadow: Shadow, rules: RuleTable, *, independent_groups: bool = False) -> Flow:
    """Push labels through a graph.

    Parameters
    ----------
    graph : ir.Graph
        In topological order.
    shadow : Shadow
        Facts about every value of the graph.
    rules : mapping of (domain, operator) to rule
    independent_groups : bool
        Let every group of a grouped convolution keep inputs of its own choice.
    """
    flow = Flow(shadow, independent_groups=independent_groups)
    for value in graph.inputs:
        shape = shadow.shape(value)
        if value.const_value is None and shape is not None:
            flow.assign(value, flow.opaque(len(shape), None, f"graph input {value.name}"))
    for node in graph:
        _visit(flow, node, rules)
    for value in graph.outputs:
        if value in flow.labels:
            flow.freeze(flow.labels[value], value.producer(), f"graph output {value.name}")
    return flow


def _visit(flow: Flow, node: ir.Node, rules: RuleTable) -> None:
    facts = [flow.shadow[output] for output in node.outputs]
    if all(fact.is_static for fact in facts):
        return
    if all(fact.value is not None for fact in facts):
        # Shape arithmetic: it carries sizes, not channels.
        for output, fact in zip(node.outputs, facts, strict=True):
            model = None if fact.value is None or fact.value.any() else _made_like(node)
            labels = flow.labels.get(model) if model is not None else None
            flow.assign(output, uniform(int(flow.space.fresh(1)[0]), len(fact.shape or ())) if labels is None else labels)
        return
    domain = "" if node.domain == "ai.onnx" else node.domain
    rule = rules.get((domain, node.op_type))
    if rule is None:
        flow.block(node, f"no rule for operator {node.domain or 'ai.onnx'}::{node.op_type}")
        return
    mark = flow.mark()
    try:
        rule(flow, node)
        _require_labels(flow, node)
    except Blocked as blocked:
        flow.roll_back(mark)
        flow.block(node, str(blocked))
    except (ValueError, IndexError, TypeError, KeyError, ZeroDivisionError) as error:
        # Attributes, ranks or widths that contradict each other: nothing here can be trusted.
        flow.roll_back(mark)
        flow.block(node, f"the node is malformed ({type(error).__name__}: {error})")


def _made_like(node: ir.Node) -> ir.Value | None:
    """The value in whose shape a node fills a tensor, as zeros_like does: zeros lose the channels that it loses."""
    index = {"ConstantOfShape": 0, "Expand": 1}.get(node.op_type)
    sizes = None if index is None else node.inputs[index]
    producer = None if sizes is None else sizes.producer()
    if producer is None or producer.op_type != "Shape" or producer.attributes.get("end") is not None:
        return None
    start = producer.attributes.get("start")
    return producer.inputs[0] if start is None or start.as_int() == 0 else None


def _require_labels(flow: Flow, node: ir.Node) -> None:
    """An output that is read and that the rule said nothing about would lose its coupling in silence."""
    for output in node.outputs:
        if output not in flow.labels and (output.uses() or output.is_graph_output()) and flow.shadow.shape(output) is not None:
            raise Blocked(f"its output {output.name} is used, and the rule does not cover it")
