"""Deriving a recurrent layer again: its number of hidden units, and the initial states that are computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from shrinkc.analysis.attributes import input_at
from shrinkc.analysis.labels import labelled_axes
from shrinkc.analysis.oprules.recurrent import STATES
from shrinkc.errors import VerificationError

if TYPE_CHECKING:
    from shrinkc.surgery import Surgery


def recurrent(surgery: Surgery, original: ir.Node, node: ir.Node) -> None:
    """LSTM, GRU, RNN: ``hidden_size``, and a Gather of the units left where an initial state has no channels of its own."""
    kept = _kept_units(surgery, original)
    node.attributes["hidden_size"] = ir.AttrInt64("hidden_size", len(kept))
    for index in STATES:
        value = input_at(original, index)
        if value is not None and not surgery.analysis.shadow[value].is_static and not _has_channels(surgery, value):
            _pick_units(surgery, node, index, kept)


def _kept_units(surgery: Surgery, original: ir.Node) -> np.ndarray:
    """Positions of the hidden units that stay, read off the columns of the recurrence."""
    for attachment in surgery.analysis.flow.attachments:
        if attachment.node is original and (attachment.input_index, attachment.axis) == (2, 2):
            return np.flatnonzero(surgery.is_kept[surgery.analysis.classes[attachment.labels]])
    return np.arange((surgery.analysis.shadow.shape(original.inputs[2]) or (0, 0, 0))[2])  # the layer was refused


def _has_channels(surgery: Surgery, value: ir.Value) -> bool:
    classes = surgery.analysis.classes_of(value)
    return classes is not None and bool(labelled_axes(classes))


def _pick_units(surgery: Surgery, node: ir.Node, index: int, kept: np.ndarray) -> None:
    shape = surgery.shadow.shape(node.inputs[index])
    if shape is None:
        raise VerificationError("an initial state has no known size", where=node.name or node.op_type)
    if shape[2] == len(kept):  # nothing went, or it is made from a width that shrank with the layer
        return
    name = f"{node.outputs[0].name or node.name}.state{index}"
    indices = surgery.add_constant(f"{name}.units", kept)
    gather = ir.Node("", "Gather", [node.inputs[index], indices], [ir.AttrInt64("axis", 2)])
    gather.outputs[0].name = surgery.fresh_name(name)
    surgery.model.graph.insert_before(node, gather)
    surgery.shadow.visit(gather)
    node.replace_input_with(index, gather.outputs[0])
