"""Sequences (lists of tensors) and optional values (a value or None)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from shrinkc.training.ops.call import Call, Function, Table

op = Table()
OPS = op.ops


def _place(position: Tensor | None, length: int) -> int:
    index = length if position is None else int(position)
    return index + length if index < 0 else index


def _inserted(sequence: list[Tensor], tensor: Tensor, position: Tensor | None = None) -> list[Tensor]:
    place = _place(position, len(sequence))
    return [*sequence[:place], tensor, *sequence[place:]]


def _erased(sequence: list[Tensor], position: Tensor | None = None) -> list[Tensor]:
    place = len(sequence) - 1 if position is None else _place(position, len(sequence))
    return [*sequence[:place], *sequence[place + 1 :]]


op.plain(
    SequenceConstruct=lambda *tensors: list(tensors),
    SequenceEmpty=list,
    SequenceInsert=_inserted,
    SequenceErase=_erased,
    SequenceAt=lambda sequence, position: sequence[int(position)],
    SequenceLength=lambda sequence: torch.tensor(len(sequence), dtype=torch.int64),
    OptionalHasElement=lambda value=None: torch.tensor(value is not None),
    OptionalGetElement=lambda value: value,
    Optional=lambda value=None: value,
)


@op("ConcatFromSequence")
def concat_from_sequence(call: Call) -> Function:
    """Tensors of a sequence side by side, or along a new axis."""
    axis, is_new = call.integer("axis"), call.integer("new_axis")
    return lambda sequence: torch.stack(sequence, axis) if is_new else torch.cat(sequence, axis)


@op("SplitToSequence")
def split_to_sequence(call: Call) -> Function:
    """Parts of an axis as a sequence: of given sizes, of one size, or single slices."""
    axis, keeps, read = call.integer("axis"), call.integer("keepdims", 1), call.reader(1)

    def run(x: Tensor, split: Tensor | None = None) -> list[Tensor]:
        sizes = read(split)
        if sizes is None or split is None:
            return list(torch.split(x, 1, axis) if keeps else x.unbind(axis))
        if split.dim() == 0:
            return list(torch.split(x, sizes[0], axis))
        return list(torch.split(x, sizes, axis))

    return run


@op("SequenceMap")
def sequence_map(call: Call) -> Function:
    """A graph run for every entry of a sequence."""
    body, n_given = call.bodies["body"], len(call.node.inputs)

    def run(*inputs: Any) -> Any:
        given, captured = inputs[:n_given], inputs[n_given:]
        rows = [
            body.run([item[i] if isinstance(item, list) else item for item in given] + list(captured))
            for i in range(len(given[0]))
        ]
        columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in call.node.outputs]
        return columns[0] if len(columns) == 1 else tuple(columns)

    return run
