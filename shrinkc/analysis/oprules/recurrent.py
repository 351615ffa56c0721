"""Recurrent layers: a hidden unit is one row of every gate, one column of the recurrence and one channel of the outputs.

With D directions, G gates, H units and I inputs the weights are ``W (D, G*H, I)``, ``R (D, G*H, H)``, ``B (D, 2*G*H)``
and, of an LSTM with peepholes, ``P (D, 3*H)``.  A unit whose rows are zero may still have a state, but nobody reads it
once the columns are zero too, so removing is zeroing.  Both directions lie in one tensor and lose the same units.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from shrinkc.analysis.attributes import input_at
from shrinkc.analysis.flow import Flow, Role, RuleTable, Work
from shrinkc.analysis.labels import Labels, along, labelled_axes

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
LENGTHS, STATES, PEEPHOLES = 4, (5, 6), 7
"""Inputs beside data, weights and bias."""


def recurrent(flow: Flow, node: ir.Node) -> None:
    """LSTM, GRU and RNN, one direction or both, of either layout."""
    flow.require_constant(node, 1, 2, 3, PEEPHOLES)
    inputs = flow.channels(node.inputs[0], 2)
    units = flow.space.fresh(flow.shape(node.inputs[2])[2])
    _attach_weights(flow, node, inputs, units)
    lengths = input_at(node, LENGTHS)
    if lengths in flow.labels:
        flow.freeze(flow.labels[lengths], node, "its numbers are lengths of sequences")
    for index in STATES:
        _attach_state(flow, node, index, units)
    for output, rank in zip(node.outputs, (4, 3, 3), strict=False):
        flow.assign(output, along(units, rank - 1, rank))
    _note_work(flow, node)


def _attach_weights(flow: Flow, node: ir.Node, inputs: Labels, units: Labels) -> None:
    """The recurrence stands for what produces the units: along its columns each is counted once, not once a gate."""
    rows = np.tile(units, GATES[node.op_type])
    flow.attach(node, 2, 2, units, Role.PRODUCES)
    flow.attach(node, 2, 1, rows, Role.FOLLOWS)
    flow.attach(node, 1, 1, rows, Role.FOLLOWS)
    flow.attach(node, 1, 2, inputs, Role.CONSUMES)
    flow.attach(node, 3, 1, np.tile(rows, 2), Role.FOLLOWS)
    flow.attach(node, PEEPHOLES, 1, np.tile(units, 3), Role.FOLLOWS)


def _attach_state(flow: Flow, node: ir.Node, index: int, units: Labels) -> None:
    """A stored initial state follows, a computed one with channels is tied; of any other, surgery picks the units left."""
    value = input_at(node, index)
    if value is None:
        return
    if flow.is_constant(value):
        flow.attach(node, index, 2, units, Role.FOLLOWS)
    elif labelled_axes(flow.labels_of(value)):
        flow.space.tie(units, flow.channels(value, 2))


def _note_work(flow: Flow, node: ir.Node) -> None:
    steps = math.prod(flow.shape(node.inputs[0])[:2])  # sequence and batch, in either order
    for index in (2, 1):
        flow.work.append(Work(node, steps * math.prod(flow.shape(node.inputs[index])), index))


RULES: RuleTable = {("", op): recurrent for op in GATES}
