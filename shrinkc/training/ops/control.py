"""Branches and loops."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from shrinkc.training.ops.call import Call, Function, Table
from shrinkc.training.ops.tensors import dtype_of

op = Table()
OPS = op.ops


def _result(items: list[Any]) -> Any:
    return items[0] if len(items) == 1 else tuple(items)


@op("If")
def branch(call: Call) -> Function:
    """One of two graphs."""
    yes, no = call.bodies["then_branch"], call.bodies["else_branch"]
    return lambda condition, *captured: _result((yes if bool(condition) else no).run(captured))


@op("Loop")
def loop(call: Call) -> Function:
    """A graph again and again, while its condition holds and its count is not reached."""
    body, n_given = call.bodies["body"], len(call.node.inputs)
    n_carried = body.n_inputs - 2

    def run(*inputs: Any) -> Any:
        given, captured = inputs[:n_given], inputs[n_given:]
        limit = given[0] if n_given else None
        goes_on = given[1] if n_given > 1 else None
        goes_on = torch.tensor(True) if goes_on is None else goes_on
        carried, scanned, number = list(given[2:]), [], 0
        while (limit is None or number < int(limit)) and bool(goes_on):
            results = body.run([torch.tensor(number), goes_on, *carried, *captured])
            goes_on, carried = results[0], results[1 : 1 + n_carried]
            scanned.append(results[1 + n_carried :])
            number += 1
        n_scanned = len(call.node.outputs) - n_carried
        stacked = (
            [torch.stack(column) for column in zip(*scanned, strict=True)] if scanned else _nothing(call, n_carried, n_scanned)
        )
        return _result([*carried, *stacked])

    return run


def _nothing(call: Call, n_carried: int, count: int) -> list[Tensor]:
    """Scan outputs of a loop that never ran: no rows, of the size and the type that are declared."""
    values = call.node.attributes["body"].as_graph().outputs[1 + n_carried :]
    sizes = [[dim if isinstance(dim, int) else 0 for dim in value.shape or ()] for value in values]
    types = [torch.float32 if value.dtype is None else dtype_of(value.dtype) for value in values]
    return [torch.zeros(0, *size, dtype=dtype) for size, dtype in zip(sizes[:count], types, strict=False)]


@op("Scan", since=9)
def scan(call: Call) -> Function:
    """A graph over the slices of some inputs, with states carried along."""
    body, n_scanned, n_given = call.bodies["body"], call.integer("num_scan_inputs"), len(call.node.inputs)
    n_states = n_given - n_scanned
    n_out = len(call.node.outputs) - n_states
    axes_in, axes_out = call.integers("scan_input_axes") or [0] * n_scanned, call.integers("scan_output_axes") or [0] * n_out
    back_in = call.integers("scan_input_directions") or [0] * n_scanned
    back_out = call.integers("scan_output_directions") or [0] * n_out

    def run(*inputs: Any) -> Any:
        states, captured = list(inputs[:n_states]), inputs[n_given:]
        columns = []
        for tensor, axis, back in zip(inputs[n_states:n_given], axes_in, back_in, strict=True):
            slices = tensor.unbind(axis)
            columns.append(slices[::-1] if back else slices)
        rows: list[list[Any]] = []
        for row in zip(*columns, strict=True):
            results = body.run([*states, *row, *captured])
            states = results[:n_states]
            rows.append(results[n_states:])
        made = [
            torch.stack(column[::-1] if back else column, axis)
            for column, axis, back in zip(zip(*rows, strict=True), axes_out, back_out, strict=True)
        ]
        return _result([*states, *made])

    return run
