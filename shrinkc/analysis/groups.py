"""Channel groups: what may be removed from a graph, together with what, and why the rest may not."""

from __future__ import annotations

import fnmatch
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from shrinkc import ir as shrinkc_ir
from shrinkc.analysis.constants import UNTOUCHED, Cut, Use, stored_cuts
from shrinkc.analysis.flow import Attachment, Blocked, Blocker, Flow, Heads, Mixing, Role, RuleTable, walk
from shrinkc.analysis.grids import (
    HeadPolicy,
    compress_classes,
    settle_followings,
    settle_grids,
    settle_heads,
    settle_mixings,
)
from shrinkc.analysis.kinds import DEFAULT_KINDS, Kind, attention_heads, normalised_labels
from shrinkc.analysis.labels import Labels, labelled_axes
from shrinkc.analysis.shuffles import Shuffle, find_shuffles
from shrinkc.errors import RecipeError
from shrinkc.shapes import Shadow

BoolArray = NDArray[np.bool_]

NO_PRODUCER = Blocker("", "", "no weight produces these channels")


@dataclass(frozen=True)
class Member:
    """One axis of one stored tensor (for one of its uses) that a group runs along.

    Attributes
    ----------
    use : Use
    axis : int
    index : ndarray of shape (axis length,), int64
        Position in the group of every index of the axis, ``UNTOUCHED`` where another channel lies.
    role : Role
    """

    use: Use
    axis: int
    index: Labels
    role: Role


@dataclass(frozen=True)
class Group:
    """Channels with the same producers; each position is one class of united labels.

    Attributes
    ----------
    name : str
        Name of the first tensor that produces the channels.
    classes : ndarray of shape (width,), int64
    members : tuple of Member
    cells : ndarray of shape (width,), int64
        Positions of one cell are interchangeable for every balance constraint; equal counts per cell keep the balance.
    multiplicity : int
        Channels of the first producer that go when one position goes.
    is_exact : bool
        Removing equals zeroing; false where a normalisation or the like mixes these channels.
    kind : Kind
    """

    name: str
    classes: Labels
    members: tuple[Member, ...]
    cells: Labels
    multiplicity: int
    is_exact: bool
    kind: Kind = Kind.CONV

    @property
    def width(self) -> int:
        """Number of positions that can be removed one by one."""
        return len(self.classes)


@dataclass(frozen=True)
class ClassCut:
    """A :class:`~shrinkc.analysis.constants.Cut` with classes in place of labels."""

    use: Use
    axis: int
    classes: Labels
    role: Role
    reader: ir.Node


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

    def mixings(self) -> list[tuple[Mixing, Labels]]:
        """Nodes that mix channels, each with the classes of the input they mix."""
        return [(mixing, self.classes[self.flow.labels[_mixed(mixing)]]) for mixing in self.flow.mixings]


def _mixed(mixing: Mixing) -> ir.Value:
    value = mixing.node.inputs[mixing.input_index]
    if value is None:
        raise ValueError("a mixing node lost its input")
    return value


def analyse(
    model: ir.Model,
    shapes: Mapping[str, tuple[int, ...]],
    rules: RuleTable,
    *,
    exclude: Sequence[str] = (),
    include: Sequence[str] = (),
    kinds: frozenset[Kind] = DEFAULT_KINDS,
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

    Raises
    ------
    RecipeError
        A pattern matches nothing.
    """
    shadow = Shadow.of(model, shapes)
    settled = _settled(model.graph, shadow, rules, lambda flow: _policy(flow, kinds))
    if settled.both:
        rows_only = _settled(model.graph, shadow, rules, lambda flow: _policy(flow, kinds - {Kind.HEADS}))
        heads_only = _settled(model.graph, shadow, rules, lambda flow: _policy(flow, kinds - {Kind.HEAD_DIM}))
        compromise = {**dict.fromkeys(_crowded(rows_only), "whole"), **dict.fromkeys(_lonely(heads_only), "rows")}
        settled = _settled(model.graph, shadow, rules, lambda flow: _policy(flow, kinds, compromise))
    flow, classes = settled.flow, settled.flow.space.classes()
    class_cuts = [
        ClassCut(cut.use, cut.axis, _to_classes(cut.labels, classes), attachment.role, attachment.node)
        for cut, attachment in settled.cuts
    ]
    frozen = _frozen(flow, classes)
    balances = [classes[balance.rows] for balance in flow.balances]
    heads = [HeadClasses(classes[link.heads], classes[link.rows]) for link in settled.both]
    groups = _form_groups(flow, [*class_cuts, *_cuts_of_heads(class_cuts, heads)], balances, frozen)
    groups = _select(groups, exclude, include, kinds, frozen)
    analysis = Analysis(
        model, flow, classes, class_cuts, groups, settled.shuffles, settled.columns, balances, heads, frozen, settled.untraced
    )
    analysis.refusals = _refusals(analysis)
    return analysis


@dataclass(frozen=True)
class _Settled:
    """Labels after everything that ties them has been found."""

    flow: Flow
    both: list[Heads]
    cuts: list[tuple[Cut, Attachment]]
    untraced: list[Attachment]
    shuffles: list[Shuffle]
    columns: dict[ir.Value, int]


def _settled(graph: ir.Graph, shadow: Shadow, rules: RuleTable, policy_for: Callable[[Flow], HeadPolicy]) -> _Settled:
    flow = walk(graph, shadow, rules)
    both = settle_heads(flow, policy_for(flow))
    settle_followings(flow)
    settle_mixings(flow)
    cuts, untraced = _stored(flow)
    shuffles = find_shuffles(flow, graph)
    columns = settle_grids(flow, graph, {value for shuffle in shuffles for value in shuffle.inner})
    return _Settled(flow, both, cuts, untraced, shuffles, columns)


def _policy(flow: Flow, kinds: frozenset[Kind], compromise: Mapping[int, str] | None = None) -> HeadPolicy:
    """What may go of which heads; those of a normalisation per group of channels always stay.

    ``compromise`` says it for the numbers of those heads that cannot go beside the channels in their rows.
    """
    attention = attention_heads(flow)

    def policy(number: int, heads: Heads) -> str:
        if not attention[number] or Kind.HEADS not in kinds:
            return "rows"
        return "whole" if Kind.HEAD_DIM not in kinds else (compromise or {}).get(number, "both")

    return policy


def _crowded(settled: _Settled) -> list[int]:
    """Heads some channel of which lies in two rows, as where rotary positions tie the dims of all heads."""
    classes = settled.flow.space.classes()
    found = []
    for number, heads in enumerate(settled.flow.heads):
        rows = np.unique(classes[heads.rows], axis=0)  # queries of one key have one row together, that is no crowd
        if len(rows) == 1 or len(np.unique(rows)) < sum(len(np.unique(row)) for row in rows):
            found.append(number)
    return found


def _lonely(settled: _Settled) -> list[int]:
    """Heads that are all tied to each other, as where one key serves them all: there is none to remove."""
    classes = settled.flow.space.classes()
    return [number for number, heads in enumerate(settled.flow.heads) if len(np.unique(classes[heads.heads])) == 1]


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


def _stored(flow: Flow) -> tuple[list[tuple[Cut, Attachment]], list[Attachment]]:
    """Cuts of stored tensors, and the attachments that could not be traced to any."""
    cuts: list[tuple[Cut, Attachment]] = []
    untraced: list[Attachment] = []
    seen: dict[tuple[Use, int], Labels] = {}
    for attachment in flow.attachments:
        try:
            found = stored_cuts(flow.shadow, flow.space, attachment)
        except Blocked as blocked:
            flow.freeze(attachment.labels, attachment.node, str(blocked))
            untraced.append(attachment)
            continue
        for cut in found:
            cuts.append((cut, attachment))
            # Two readers behind one edge (say, of one Identity) see the same stored tensor: they must agree.
            earlier = seen.setdefault((cut.use, cut.axis), cut.labels)
            both = (earlier != UNTOUCHED) & (cut.labels != UNTOUCHED)
            flow.space.tie(earlier[both], cut.labels[both])
            seen[cut.use, cut.axis] = np.where(earlier == UNTOUCHED, cut.labels, earlier)
    _freeze_for_silent_readers(flow, cuts, seen)
    return cuts, untraced


def _freeze_for_silent_readers(flow: Flow, cuts: list[tuple[Cut, Attachment]], seen: Mapping[tuple[Use, int], Labels]) -> None:
    """Keep what one reader behind an edge could lose while another, which sees no channels there, needs it whole."""
    spoken: dict[tuple[Use, int], set[tuple[ir.Node, int]]] = defaultdict(set)
    for cut, attachment in cuts:
        spoken[cut.use, cut.axis].add((attachment.node, attachment.input_index))
    for (use, axis), labels in seen.items():
        for node, index in _readers(flow, use.node, use.input_index):
            if (node, index) not in spoken[use, axis]:
                flow.freeze(labels[labels != UNTOUCHED], node, "it reads the same stored tensor and needs it whole")


def _readers(flow: Flow, node: ir.Node, index: int) -> Iterator[tuple[ir.Node, int]]:
    """Inputs at which a stored tensor meets data, behind the nodes that only derive other constants from it."""
    if node.op_type in ("Shape", "Size"):  # whoever reads a size gets the new one
        return
    if not all(flow.is_constant(output) for output in node.outputs):
        yield node, index
        return
    for output in node.outputs:
        for usage in output.uses():
            yield from _readers(flow, usage.node, usage.idx)


def _to_classes(labels: Labels, classes: Labels) -> Labels:
    return np.where(labels == UNTOUCHED, UNTOUCHED, classes[labels])


def _frozen(flow: Flow, classes: Labels) -> dict[int, Blocker]:
    frozen: dict[int, Blocker] = {}
    for labels, blocker in flow.blocked:
        for index in np.unique(classes[labels]).tolist():
            frozen.setdefault(index, blocker)
    return frozen


def _mixed_classes(flow: Flow) -> set[int]:
    mixed: set[int] = set()
    for mixing in flow.mixings:
        labels = compress_classes(flow, flow.labels[_mixed(mixing)])
        if mixing.axis in labelled_axes(labels):
            mixed.update(np.unique(flow.space.classes()[labels]).tolist())
    return mixed


def _form_groups(flow: Flow, cuts: list[ClassCut], balances: list[Labels], frozen: Mapping[int, Blocker]) -> list[Group]:
    producers: dict[int, list[int]] = defaultdict(list)
    for number, cut in enumerate(cuts):
        if cut.role is Role.PRODUCES:
            for index in np.unique(cut.classes).tolist():
                producers[index].append(number)
    producers.pop(UNTOUCHED, None)
    by_producers: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index in sorted(producers):
        if index not in frozen:
            by_producers[tuple(producers[index])].append(index)
    owner = {index: key for key, indices in by_producers.items() for index in indices}
    members = _members_by_group(cuts, owner)
    traits = _Traits(_cells(balances), _mixed_classes(flow), *_classes_of_kinds(flow))
    names: dict[str, int] = {}
    return [_group(key, indices, cuts, members[key], traits, names) for key, indices in sorted(by_producers.items())]


@dataclass(frozen=True)
class _Traits:
    """What is known of single classes: the cells of the balances they lie in, and sets of classes."""

    cells: Mapping[int, tuple[tuple[int, int, int], ...]]
    mixed: set[int]
    heads: set[int]
    rows: set[int]
    normalised: set[int]

    def kind(self, indices: list[int], producers: list[ClassCut]) -> Kind:
        """Kind of a group."""
        if not self.heads.isdisjoint(indices):
            return Kind.HEADS
        if not self.rows.isdisjoint(indices):
            return Kind.HEAD_DIM
        if len({cut.reader for cut in producers}) > 1 and not self.normalised.isdisjoint(indices):
            return Kind.STREAM
        return Kind.CONV if producers[0].reader.op_type in CONVOLUTIONS else Kind.MLP


CONVOLUTIONS = frozenset({"Conv", "ConvTranspose", "DeformConv"})


def _classes_of_kinds(flow: Flow) -> tuple[set[int], set[int], set[int]]:
    """Classes of heads of attention, of the channels in their rows, and of normalised values."""
    classes = flow.space.classes()
    attention = [heads for heads, is_found in zip(flow.heads, attention_heads(flow), strict=True) if is_found]
    heads = {int(index) for link in attention for index in classes[link.heads]}
    rows = {int(index) for link in attention for index in classes[link.rows].ravel()}
    return heads, rows, set(classes[normalised_labels(flow)].tolist())


Key = tuple[int, ...]


def _members_by_group(cuts: list[ClassCut], owner: Mapping[int, Key]) -> dict[Key, list[ClassCut]]:
    members: dict[Key, list[ClassCut]] = defaultdict(list)
    for cut in cuts:
        for key in dict.fromkeys(owner[index] for index in np.unique(cut.classes).tolist() if index in owner):
            members[key].append(cut)
    return members


def _cells(balances: list[Labels]) -> dict[int, tuple[tuple[int, int, int], ...]]:
    """Signature of every class: how often it lies in which row of which balance constraint."""
    signature: dict[int, dict[tuple[int, int], int]] = defaultdict(lambda: defaultdict(int))
    for number, rows in enumerate(balances):
        for row, line in enumerate(rows):
            for index in line.tolist():
                signature[index][(number, row)] += 1
    return {
        index: tuple(sorted((number, row, times) for (number, row), times in counts.items()))
        for index, counts in signature.items()
    }


def _group(
    key: Key,
    indices: list[int],
    cuts: list[ClassCut],
    members: list[ClassCut],
    traits: _Traits,
    names: dict[str, int],
) -> Group:
    first = cuts[key[0]]
    order = {index: position for position, index in enumerate(dict.fromkeys(first.classes.tolist()))}
    indices = sorted(indices, key=order.__getitem__)
    position = {index: place for place, index in enumerate(indices)}
    kinds: dict[object, int] = {}
    cell = [kinds.setdefault(traits.cells.get(index, ()), len(kinds)) for index in indices]
    lookup = np.full(int(max(int(c.classes.max()) for c in members)) + 2, UNTOUCHED, np.int64)
    for index, place in position.items():
        lookup[index] = place
    return Group(
        name=_unique(first.use.tensor.name or first.reader.name or "group", names),
        classes=np.asarray(indices, np.int64),
        members=tuple(Member(cut.use, cut.axis, lookup[cut.classes], cut.role) for cut in members),
        cells=np.asarray(cell, np.int64),
        multiplicity=max(1, round(int(np.isin(first.classes, indices).sum()) / len(indices))),
        is_exact=traits.mixed.isdisjoint(indices),
        kind=traits.kind(indices, [cuts[number] for number in key]),
    )


def _unique(name: str, names: dict[str, int]) -> str:
    names[name] = names.get(name, 0) + 1
    return name if names[name] == 1 else f"{name}#{names[name]}"


def _select(
    groups: list[Group],
    exclude: Sequence[str],
    include: Sequence[str],
    kinds: frozenset[Kind],
    frozen: dict[int, Blocker],
) -> list[Group]:
    for pattern in (*exclude, *include):
        if not any(_matches(group, pattern) for group in groups):
            raise RecipeError(
                "a pattern matches no group that could be pruned",
                where=pattern,
                hint="`shrinkc inspect MODEL` lists groups, their tensors and nodes",
            )
    kept = []
    for group in groups:
        refused = next((f"--exclude {pattern}" for pattern in exclude if _matches(group, pattern)), None)
        if refused is None and include and not any(_matches(group, pattern) for pattern in include):
            refused = "not named by --include"
        if refused is None and group.kind not in kinds:
            refused = NOT_ASKED_FOR[group.kind]
        if refused is None:
            kept.append(group)
        else:
            frozen.update({int(index): Blocker("", "", refused) for index in group.classes})
    return kept


NOT_ASKED_FOR = {
    **{kind: f"--prune does not name {kind.value}" for kind in Kind},
    Kind.STREAM: "a residual stream that is normalised over its channels stays whole unless --prune names stream",
    Kind.HEAD_DIM: "dims of attention heads stay whole unless --prune names head-dim",
}


def _matches(group: Group, pattern: str) -> bool:
    names = [group.name]
    for member in group.members:
        if member.role is Role.PRODUCES:
            names += [member.use.node.name or "", member.use.tensor.name or ""]
    return any(fnmatch.fnmatchcase(name, pattern) for name in names)


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
