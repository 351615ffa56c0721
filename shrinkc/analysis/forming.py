"""Groups out of labelled cuts: channels with the same producers, what kind they are, and which the user left in play."""

from __future__ import annotations

import fnmatch
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from shrinkc.analysis.constants import UNTOUCHED, Use
from shrinkc.analysis.flow import Blocker, Flow, Mixing, Role
from shrinkc.analysis.grids import compress_classes
from shrinkc.analysis.kinds import Kind, attention_heads, normalised_labels
from shrinkc.analysis.labels import Labels, labelled_axes
from shrinkc.errors import RecipeError


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


def mixed_value(mixing: Mixing) -> ir.Value:
    """The input that is mixed."""
    value = mixing.node.inputs[mixing.input_index]
    if value is None:
        raise ValueError("a mixing node lost its input")
    return value


def _mixed_classes(flow: Flow) -> set[int]:
    mixed: set[int] = set()
    for mixing in flow.mixings:
        labels = compress_classes(flow, flow.labels[mixed_value(mixing)])
        if mixing.axis in labelled_axes(labels):
            mixed.update(np.unique(flow.space.classes()[labels]).tolist())
    return mixed


def form_groups(flow: Flow, cuts: list[ClassCut], balances: list[Labels], frozen: Mapping[int, Blocker]) -> list[Group]:
    """Groups of every channel that a weight produces and nothing freezes."""
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


def select(
    groups: list[Group],
    exclude: Sequence[str],
    include: Sequence[str],
    kinds: frozenset[Kind],
    frozen: dict[int, Blocker],
) -> list[Group]:
    """Groups that patterns and kinds leave in play; the others are frozen with the reason."""
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
