"""A graph as a list of bound functions over numbered slots: no name is looked up while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from shrinkc.training.ops.call import Function

ABSENT, UNUSED = 0, 1
"""Slot that holds None, for inputs that are not given; slot for outputs that nobody reads."""


@dataclass(frozen=True, eq=False)
class Step:
    """One node: what to call, the slots it reads and writes, and those nobody reads after it.

    ``moved`` are positions of inputs that were made on the CPU and are computed with elsewhere.
    """

    node: ir.Node
    run: Function
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    moved: tuple[int, ...] = ()
    dead: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Program:
    """Steps in order, over ``n_slots`` slots.

    Attributes
    ----------
    inputs, captured, outputs : tuple of int
        Slots of the graph's inputs, of values from outside it, and of its outputs.
    constants : tuple of (int, Tensor)
        Slots that are filled before the first step, with tensors on the CPU.
    on_device : tuple of (int, Tensor)
        The same, for tensors that are brought to the device of the data.
    slots : mapping of value name to int
    """

    steps: tuple[Step, ...]
    n_slots: int
    inputs: tuple[int, ...]
    captured: tuple[int, ...]
    outputs: tuple[int, ...]
    constants: tuple[tuple[int, Tensor], ...]
    on_device: tuple[tuple[int, Tensor], ...]
    slots: Mapping[str, int]

    @cached_property
    def _prepared(self) -> list[Any]:
        values: list[Any] = [None] * self.n_slots
        for slot, tensor in self.constants:
            values[slot] = tensor
        return values

    def values(self) -> list[Any]:
        """Fresh slots with the constants in them."""
        return self._prepared.copy()

    def run(self, values: list[Any], device: torch.device, keep: frozenset[int] = frozenset()) -> None:
        """Run every step; slots in ``keep`` are not emptied."""
        steps = self.steps if device.type == "cpu" else [_on(step, device) for step in self.steps]
        step = None
        try:
            for step in steps:
                got = step.run(*[values[slot] for slot in step.inputs])
                if type(got) is tuple:
                    for slot, item in zip(step.outputs, got, strict=False):
                        values[slot] = item
                else:
                    values[step.outputs[0]] = got
                for slot in step.dead:
                    if slot not in keep:
                        values[slot] = None
        except Exception as error:
            _name(error, step)
            raise

    def called(self, inputs: Sequence[Any]) -> list[Any]:
        """Outputs for the inputs and the captured values, in this order."""
        values = self.values()
        for slot, value in zip((*self.inputs, *self.captured), inputs, strict=True):
            values[slot] = value
        tensors = (value for value in inputs if isinstance(value, Tensor) and value.device.type != "cpu")
        device = next((tensor.device for tensor in tensors), torch.device("cpu"))
        for slot, tensor in self.on_device:
            values[slot] = tensor.to(device)
        self.run(values, device)
        return [values[slot] for slot in self.outputs]


def _on(step: Step, device: torch.device) -> Step:
    """The same step, with inputs made on the CPU brought to a device first."""
    if not step.moved:
        return step
    return Step(step.node, _moving(step.run, step.moved, device), step.inputs, step.outputs, (), step.dead)


def _moving(function: Function, moved: tuple[int, ...], device: torch.device) -> Callable[..., Any]:
    def run(*inputs: Any) -> Any:
        brought = list(inputs)
        for position in moved:
            if isinstance(brought[position], Tensor):
                brought[position] = brought[position].to(device)
        return function(*brought)

    return run


def _name(error: Exception, step: Step | None) -> None:
    """Say in an error which node it comes from, where Python can."""
    if step is not None and hasattr(error, "add_note"):
        outputs = ", ".join(value.name or "" for value in step.node.outputs)
        error.add_note(f"in {step.node.op_type} {step.node.name!r} that makes {outputs}")
