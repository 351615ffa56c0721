"""From kept channels to tensor edits: which stored tensor loses which indices, and which uses need a copy of their own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
import onnx_ir as ir

from shrinkc import ir as shrinkc_ir
from shrinkc.analysis.constants import Use
from shrinkc.analysis.forming import Group
from shrinkc.analysis.groups import Analysis, BoolArray
from shrinkc.plan import Keep, Plan, PlannedGroup, TensorSlice

Removed = tuple[int, ...] | tuple[tuple[int, ...], ...]
"""Removed indices of an axis, sorted; or those of every group of a grouped convolution whose groups choose for themselves."""

Removal = tuple[tuple[int, Removed], ...]
"""Removed indices by axis, sorted: ``((axis, (i, ...)), ...)``."""


@dataclass(frozen=True)
class TensorEdit:
    """One cut of a stored tensor for some of its uses.

    ``copy_name`` is None where the stored tensor itself is cut, else the name of the copy that ``uses`` get.
    """

    tensor: ir.Value
    removal: Removal
    uses: tuple[tuple[ir.Node, int], ...]
    copy_name: str | None


def tensor_edits(analysis: Analysis, is_kept: BoolArray) -> list[TensorEdit]:
    """Every cut that keeping ``is_kept`` (see :meth:`Analysis.keep_mask`) asks for.

    Uses of a shared tensor that lose the same indices share one cut; uses that differ get copies, and the stored tensor
    stays with those that lose nothing, if there are any.
    """
    taken = {value.name for value in analysis.model.graph.initializers.values()}
    taken |= {output.name for node in analysis.model.graph.all_nodes() for output in node.outputs}
    edits: list[TensorEdit] = []
    by_tensor: dict[ir.Value, dict[tuple[ir.Node, int], Removal]] = defaultdict(dict)
    for use, removal in removals(analysis, is_kept).items():
        by_tensor[use.tensor][(use.node, use.input_index)] = removal
    for tensor, uses in by_tensor.items():
        edits += _edits_of(tensor, uses, taken)
    return edits


def cut(array: np.ndarray, removal: Removal) -> np.ndarray:
    """Array without the removed indices, contiguous."""
    for axis, removed in removal:
        if is_per_group(removed):
            parts = zip(np.split(array, len(removed)), removed, strict=True)
            array = np.concatenate([np.delete(part, own, axis) for part, own in parts])
        else:
            array = np.delete(array, np.asarray(removed, np.int64), axis)
    return np.ascontiguousarray(array)


LAZY_BYTES = 1 << 20
"""Tensors above this are cut when they are written, one after the other; a second copy of a big model never exists."""


def cut_tensor(tensor: ir.TensorProtocol, removal: Removal) -> ir.TensorProtocol:
    """Tensor without the removed indices, under the same name; large ones are cut once they are needed."""
    if tensor.nbytes <= LAZY_BYTES:
        return ir.Tensor(cut(shrinkc_ir.contents(tensor), removal), tensor.dtype, name=tensor.name)
    shape = list(tensor.shape.numpy())
    for axis, removed in removal:
        shape[axis] -= len(removed[0]) if is_per_group(removed) else len(removed)
    return shrinkc_ir.cut_later(tensor, lambda array: cut(array, removal), shape)


def is_per_group(removed: Removed) -> TypeGuard[tuple[tuple[int, ...], ...]]:
    """Whether every group along the first axis loses indices of its own."""
    return bool(removed) and isinstance(removed[0], tuple)


def removals(analysis: Analysis, is_kept: BoolArray) -> dict[Use, Removal]:
    """What every use of a stored tensor loses."""
    gone: dict[Use, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for cut in analysis.cuts:
        lost = np.flatnonzero(~is_kept[cut.classes])
        if len(lost):
            gone[cut.use][cut.axis].update(lost.tolist())
    found: dict[Use, Removal] = {
        use: tuple((axis, tuple(sorted(axes[axis]))) for axis in sorted(axes)) for use, axes in gone.items()
    }
    for use, inputs in analysis.regroupings():
        if removed := _of_groups(is_kept[inputs]):
            found[use] = (*found.get(use, ()), (1, removed))
    return found


def _of_groups(kept: BoolArray) -> Removed:
    """What is lost of the inputs of every group; one choice if all make the same."""
    rows = tuple(tuple(np.flatnonzero(~row).tolist()) for row in kept)
    return rows[0] if len(set(rows)) == 1 else rows


def _edits_of(tensor: ir.Value, cut_uses: dict[tuple[ir.Node, int], Removal], taken: set[str | None]) -> list[TensorEdit]:
    by_removal: dict[Removal, list[tuple[ir.Node, int]]] = defaultdict(list)
    for key in value_readers(tensor):
        by_removal[cut_uses.get(key, ())].append(key)
    keeps_original = () in by_removal or tensor.is_graph_output()
    by_removal.pop((), None)
    edits: list[TensorEdit] = []
    for removal, uses in by_removal.items():
        name = None if not keeps_original and not edits else _fresh_name(f"{tensor.name}.copy", taken)
        edits.append(TensorEdit(tensor, removal, tuple(uses), name))
    return edits


def value_readers(tensor: ir.Value) -> list[tuple[ir.Node, int]]:
    """Inputs that read what a tensor holds; whoever only asks for its size is served by whatever is left of it."""
    return [(usage.node, usage.idx) for usage in tensor.uses() if usage.node.op_type not in ("Shape", "Size")]


def _fresh_name(stem: str, taken: set[str | None]) -> str:
    number = 1
    while (name := f"{stem}{number}") in taken:
        number += 1
    taken.add(name)
    return name


def make_plan(
    analysis: Analysis, keep: Mapping[str, tuple[int, ...]], model_sha256: str, settings: Mapping[str, object]
) -> Plan:
    """Plan that keeps the given positions of every group.

    Parameters
    ----------
    analysis : Analysis
    keep : mapping of group name to kept positions
        Groups that are not named are kept whole.
    model_sha256 : str
    settings : mapping
        The resolved recipe, recorded for the reader.
    """
    edits = tensor_edits(analysis, analysis.keep_mask(keep))
    copies = {(edit.tensor, use): edit.copy_name for edit in edits for use in edit.uses}
    planned, steps = [], []
    for group in analysis.groups:
        indices = tuple(sorted(keep.get(group.name, range(group.width))))
        steps.append(Keep(group.name, indices))
        planned.append(PlannedGroup(group.name, group.width, len(indices), _slices(group, indices, copies)))
    planned += _regrouped(analysis, edits, copies)
    return Plan(model_sha256, tuple(steps), tuple(planned), dict(settings))


Copies = Mapping[tuple[ir.Value, tuple[ir.Node, int]], "str | None"]


def _regrouped(analysis: Analysis, edits: Sequence[TensorEdit], copies: Copies) -> Iterator[PlannedGroup]:
    """What the groups of grouped convolutions lose of their inputs, where they choose for themselves."""
    removal_of = {(edit.tensor, use): dict(edit.removal) for edit in edits for use in edit.uses}
    for use, inputs in analysis.regroupings():
        key = (use.tensor, (use.node, use.input_index))
        removed = removal_of.get(key, {}).get(1, ())
        if removed:
            name, width = use.tensor.name or "", inputs.shape[1]
            if is_per_group(removed):
                slice_ = TensorSlice(name, 1, removed[0], copies.get(key), removed)
            else:
                slice_ = TensorSlice(name, 1, tuple(int(index) for index in np.ravel(removed)), copies.get(key))
            yield PlannedGroup(f"{name} by groups", width, width - len(slice_.removed), (slice_,))


def _slices(group: Group, indices: tuple[int, ...], copies: Copies) -> tuple[TensorSlice, ...]:
    stays = np.zeros(group.width + 1, bool)
    stays[list(indices)] = True
    stays[-1] = True  # UNTOUCHED
    slices: dict[TensorSlice, None] = {}
    for member in group.members:
        removed = tuple(np.flatnonzero(~stays[member.index]).tolist())
        if removed:
            use = (member.use.node, member.use.input_index)
            slices[TensorSlice(member.use.tensor.name or "", member.axis, removed, copies.get((member.use.tensor, use)))] = None
    return tuple(slices)
