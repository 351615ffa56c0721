"""Channel groups: what may be removed from a graph, together with what, and why the rest may not."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from shrinkc import ir as shrinkc_ir
from shrinkc.analysis.constants import UNTOUCHED, Use
from shrinkc.analysis.flow import Attachment, Blocker, Flow, Mixing, Role, RuleTable, walk
from shrinkc.analysis.forming import ClassCut, Group, form_groups, mixed_value, select
from shrinkc.analysis.kinds import DEFAULT_KINDS, Kind
from shrinkc.analysis.labels import Labels
from shrinkc.analysis.settling import settled_for
from shrinkc.analysis.shuffles import Shuffle
from shrinkc.shapes import Shadow

BoolArray = NDArray[np.bool_]

NO_PRODUCER = Blocker("", "", "no weight produces these channels")


@dataclass(frozen=True)
class Refusal:
    """Channels that stay, the reason, and what they hold.

    ``macs`` and ``parameters`` are those of the layers producing the channels, in proportion to the channels refused.
    """

    blocker: Blocker
    channels: int
    macs: int
    parameters: int

    @property
    def where(self) -> str:
        """Node that refuses, or the kind of thing that does."""
        return self.blocker.node or self.blocker.op_type or "settings"


@dataclass(frozen=True)
class HeadClasses:
    """Heads that can go beside channels of their rows: classes of shape (heads,) and (heads, channels)."""

    heads: Labels
    rows: Labels


@dataclass
class Analysis:
    """Everything later stages need to know about a graph."""

    model: ir.Model
    flow: Flow
    classes: Labels
    cuts: list[ClassCut]
    groups: list[Group]
    shuffles: list[Shuffle]
    columns: dict[ir.Value, int]
    balances: list[Labels]
    heads: list[HeadClasses]
    frozen: dict[int, Blocker]
    untraced: list[Attachment] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)

    @property
    def shadow(self) -> Shadow:
        """Static facts about the graph."""
        return self.flow.shadow

    @property
    def n_classes(self) -> int:
        """Number of classes of labels."""
        return int(self.classes.max()) + 1 if len(self.classes) else 0

    def classes_of(self, value: ir.Value) -> Labels | None:
        """Class array of a value (compressed), None for constants."""
        labels = self.flow.labels.get(value)
        return None if labels is None else self.classes[labels]

    def keep_mask(self, keep: Mapping[str, Iterable[int]]) -> BoolArray:
        """Whether each class is kept, shape ``(n_classes + 1,)``; the last entry is for ``UNTOUCHED`` and always true.

        Parameters
        ----------
        keep : mapping of group name to kept positions
            Groups that are not named are kept whole.
        """
        return self.without_lost_heads(self.named_mask(keep))

    def named_mask(self, keep: Mapping[str, Iterable[int]]) -> BoolArray:
        """Like :meth:`keep_mask`, but the rows of heads that go are still there."""
        mask = np.ones(self.n_classes + 1, bool)
        for group in self.groups:
            if group.name in keep:
                mask[group.classes] = False
                mask[group.classes[np.asarray(list(keep[group.name]), np.int64)]] = True
        return mask

    def without_lost_heads(self, mask: BoolArray) -> BoolArray:
        """Mask in which the channels of every head that goes are gone too."""
        mask = mask.copy()
        for heads in self.heads:
            mask[heads.rows[~mask[heads.heads]]] = False
        return mask

    def regroupings(self) -> list[tuple[Use, Labels]]:
        """Weights of grouped convolutions whose groups choose for themselves, with the classes of every group's inputs."""
        return [
            (Use(weight, regrouping.node, 1), self.classes[regrouping.inputs])
            for regrouping in self.flow.regroupings
            if (weight := regrouping.node.inputs[1]) is not None
        ]

    def mixings(self) -> list[tuple[Mixing, Labels]]:
        """Nodes that mix channels, each with the classes of the input they mix."""
        return [(mixing, self.classes[self.flow.labels[mixed_value(mixing)]]) for mixing in self.flow.mixings]


def analyse(
    model: ir.Model,
    shapes: Mapping[str, tuple[int, ...]],
    rules: RuleTable,
    *,
    exclude: Sequence[str] = (),
    include: Sequence[str] = (),
    kinds: frozenset[Kind] = DEFAULT_KINDS,
    independent_groups: bool = False,
) -> Analysis:
    """Find the channel groups of a model.

    Parameters
    ----------
    model : ir.Model
    shapes : mapping of input name to shape
    rules : operator rules, see :func:`shrinkc.registry.operator_rules`
    exclude, include : patterns (shell style) of node, tensor or group names
        Excluded groups stay whole; with ``include``, all others do.
    kinds : set of Kind
        Kinds of channels that may go.
    independent_groups : bool
        Let every group of a grouped convolution keep inputs of its own choice; its weight is then put together anew.

    Raises
    ------
    RecipeError
        A pattern matches nothing.
    """
    shadow = Shadow.of(model, shapes)
    settled = settled_for(model.graph, lambda: walk(model.graph, shadow, rules, independent_groups=independent_groups), kinds)
    flow, classes = settled.flow, settled.flow.space.classes()
    class_cuts = [
        ClassCut(cut.use, cut.axis, _to_classes(cut.labels, classes), attachment.role, attachment.node)
        for cut, attachment in settled.cuts
    ]
    frozen = _frozen(flow, classes)
    balances = [classes[balance.rows] for balance in flow.balances]
    heads = [HeadClasses(classes[link.heads], classes[link.rows]) for link in settled.both]
    groups = form_groups(flow, [*class_cuts, *_cuts_of_heads(class_cuts, heads)], balances, frozen)
    groups = select(groups, exclude, include, kinds, frozen)
    analysis = Analysis(
        model, flow, classes, class_cuts, groups, settled.shuffles, settled.columns, balances, heads, frozen, settled.untraced
    )
    analysis.refusals = _refusals(analysis)
    return analysis


def _cuts_of_heads(cuts: list[ClassCut], heads: list[HeadClasses]) -> list[ClassCut]:
    """The cuts that removing a head makes, as cuts of the head itself."""
    owner: dict[int, int] = {}
    for link in heads:
        for head, row in zip(link.heads.tolist(), link.rows.tolist(), strict=True):
            owner.update(dict.fromkeys(row, head))
    found = []
    for cut in cuts:
        mapped = np.asarray([owner.get(index, UNTOUCHED) for index in cut.classes.tolist()], np.int64)
        if owner and (mapped != UNTOUCHED).any():
            found.append(ClassCut(cut.use, cut.axis, mapped, cut.role, cut.reader))
    return found


def _to_classes(labels: Labels, classes: Labels) -> Labels:
    return np.where(labels == UNTOUCHED, UNTOUCHED, classes[labels])


def _frozen(flow: Flow, classes: Labels) -> dict[int, Blocker]:
    frozen: dict[int, Blocker] = {}
    for labels, blocker in flow.blocked:
        for index in np.unique(classes[labels]).tolist():
            frozen.setdefault(index, blocker)
    return frozen


def _refusals(analysis: Analysis) -> list[Refusal]:
    """Sum up, per reason, the share of every producing layer that cannot be removed."""
    owned = {int(index) for group in analysis.groups for index in group.classes}
    macs = {work.node: work.macs for work in analysis.flow.work}
    totals: dict[Blocker, list[int]] = defaultdict(lambda: [0, 0, 0])
    for node, elements, classes in _producers(analysis):
        for index in classes.tolist():
            if index not in owned:
                total = totals[analysis.frozen.get(index, NO_PRODUCER)]
                total[0] += 1
                total[1] += macs.get(node, 0) // len(classes)
                total[2] += elements // len(classes)
    refusals = [Refusal(blocker, *numbers) for blocker, numbers in totals.items()]
    return sorted(refusals, key=lambda refusal: -refusal.parameters)


def _producers(analysis: Analysis) -> Iterator[tuple[ir.Node, int, Labels]]:
    """(node, elements of its weight, classes it produces) of every producer, traced or not."""
    for cut in analysis.cuts:
        if cut.role is Role.PRODUCES:
            reached = cut.classes[cut.classes != UNTOUCHED]
            yield cut.reader, math.prod(analysis.flow.shape(cut.use.tensor)) * len(reached) // len(cut.classes), reached
    for attachment in analysis.untraced:
        if attachment.role is Role.PRODUCES:
            weight = attachment.node.inputs[attachment.input_index]
            yield attachment.node, math.prod(analysis.flow.shape(weight)), analysis.classes[attachment.labels]


def stored_tensors(model: ir.Model) -> list[ir.Value]:
    """Every initializer and Constant output of the main graph."""
    values = list(model.graph.initializers.values())
    values += [node.outputs[0] for node in model.graph if node.op_type == "Constant" and node.domain in ("", "ai.onnx")]
    return [value for value in values if shrinkc_ir.constant_tensor(value) is not None]
