"""Deriving stored indices again: where the positions that stay lie among all that stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from shrinkc.analysis.labels import compress, labelled_axes

if TYPE_CHECKING:
    from shrinkc.surgery import Surgery


def gather_nd(surgery: Surgery, original: ir.Node, node: ir.Node) -> None:
    """GatherND of a list of channels; behind other axes nothing changes."""
    _rank_again(surgery, original, node, original.inputs[0])


def scatter_nd(surgery: Surgery, original: ir.Node, node: ir.Node) -> None:
    """ScatterND over channels: those that are gone are not written to."""
    _rank_again(surgery, original, node, original.outputs[0])


def _rank_again(surgery: Surgery, original: ir.Node, node: ir.Node, data: ir.Value | None) -> None:
    fact = surgery.analysis.shadow[original.inputs[1]]
    kept = None if data is None else surgery.kept(data)
    shape = surgery.analysis.shadow.shape(data)
    if data is None or kept is None or shape is None or fact.value is None:
        return
    indices = np.array(fact.value)
    for axis in labelled_axes(kept):
        if axis >= indices.shape[-1]:
            continue
        positions, survivors = indices[..., axis] % shape[axis], surgery.kept_positions(data, axis)
        stays = compress(np.isin(positions, survivors).astype(np.int64))
        indices[..., axis] = np.searchsorted(survivors, positions)
        for run in labelled_axes(stays):
            indices = np.compress(stays.reshape(-1).astype(bool), indices, run)
        surgery.set_constant_input(node, 1, indices, "positions")
