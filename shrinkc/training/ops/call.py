"""What an operator's builder sees of a node, and the table builders stand in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from shrinkc.training.ops.tensors import dtype_of, tensor_of

Function = Callable[..., Any]
"""Takes the inputs of a node (None where one is absent), gives its output, or a tuple of them."""


@dataclass
class Mode:
    """Whether the executor trains; one object for all nodes of an executor.

    In training Dropout drops if ``drops``, and BatchNormalization normalises by the batch if ``normalizes``.
    ``normalize`` takes the place of normalisation by the batch at hand, where the batch is spread over processes: called with
    input, running mean and variance, gain, shift, share of the batch in the running ones, and epsilon.  ``rows`` are then those
    of the ``total`` rows of a step that fall to this process.
    """

    drops: bool = False
    normalizes: bool = False
    normalize: Callable[..., Tensor] | None = None
    rows: range = range(0)
    total: int = 0

    def drawn(self, like: Tensor, fill: Callable[[Tensor], Tensor], dtype: torch.dtype | None = None) -> Tensor:
        """Random numbers of the shape of ``like``; where it has a row for each sample here, their rows of the whole step's."""
        is_shared = like.ndim > 0 and len(self.rows) == len(like) > 0
        shape = (self.total, *like.shape[1:]) if is_shared else like.shape
        filled = fill(torch.empty(shape, dtype=dtype or like.dtype, device=like.device))
        return filled[self.rows.start : self.rows.stop] if is_shared else filled


@dataclass(frozen=True, eq=False)
class Body:
    """A graph that a node holds, ready to run.

    Attributes
    ----------
    run : callable
        Takes the body's inputs and then the captured values; gives the list of its outputs.
    n_inputs : int
        Declared inputs, without what is captured.
    n_captured : int
    """

    run: Callable[[Sequence[Any]], list[Any]]
    n_inputs: int
    n_captured: int


@dataclass(frozen=True, eq=False)
class Call:
    """A node as its builder sees it.

    Attributes
    ----------
    node : ir.Node
    version : int
        Opset version of the node's domain.
    constants : tuple of (Tensor or None)
        Inputs whose value is known already, on the CPU.
    bodies : mapping of attribute name to Body
        Graphs the node holds; what they capture follows the node's own inputs, in the order of the bodies.
    mode : Mode
    """

    node: ir.Node
    version: int
    constants: tuple[Tensor | None, ...] = ()
    bodies: Mapping[str, Body] = field(default_factory=dict)
    mode: Mode = field(default_factory=Mode)

    @property
    def n_outputs(self) -> int:
        """Outputs the node declares."""
        return len(self.node.outputs)

    def has_output(self, index: int) -> bool:
        """Whether somebody asked for an output."""
        return index < self.n_outputs and bool(self.node.outputs[index].name)

    def given(self, index: int) -> bool:
        """Whether an input is there."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def _attribute(self, name: str) -> ir.Attr | None:
        return self.node.attributes.get(name)

    def has(self, name: str) -> bool:
        """Whether an attribute is set."""
        return name in self.node.attributes

    def integer(self, name: str, default: int = 0) -> int:
        """Integer attribute."""
        found = self._attribute(name)
        return default if found is None else int(found.as_int())

    def number(self, name: str, default: float = 0.0) -> float:
        """Float attribute."""
        found = self._attribute(name)
        return default if found is None else float(found.as_float())

    def text(self, name: str, default: str = "") -> str:
        """Text attribute."""
        found = self._attribute(name)
        return default if found is None else str(found.as_string())

    def texts(self, name: str) -> list[str]:
        """Attribute that is a list of texts; empty if it is not set."""
        found = self._attribute(name)
        return [] if found is None else [str(item) for item in found.as_strings()]

    def integers(self, name: str) -> list[int] | None:
        """Attribute that is a list of integers, None if it is not set."""
        found = self._attribute(name)
        return None if found is None else [int(item) for item in found.as_ints()]

    def numbers(self, name: str) -> list[float] | None:
        """Attribute that is a list of floats, None if it is not set."""
        found = self._attribute(name)
        return None if found is None else [float(item) for item in found.as_floats()]

    def tensor(self, name: str) -> Tensor | None:
        """Attribute that is a tensor, None if it is not set."""
        found = self._attribute(name)
        return None if found is None else tensor_of(found.as_tensor())

    def dtype(self, name: str) -> torch.dtype | None:
        """Attribute that is an element type, None if it is not set."""
        found = self._attribute(name)
        return None if found is None else dtype_of(ir.DataType(found.as_int()))

    def constant(self, index: int) -> Tensor | None:
        """Value of an input, if it is known already."""
        return self.constants[index] if index < len(self.constants) else None

    def reader(self, index: int) -> Callable[[Tensor | None], list[int] | None]:
        """A function that makes a list of integers of an input; where it is known already, nothing is read again."""
        known = self.constant(index)
        if known is None:
            return read_ints
        values = read_ints(known)
        return lambda _: values

    def axes(self, index: int, name: str = "axes") -> Callable[[Tensor | None], list[int] | None]:
        """Like :meth:`reader`, for axes that were an attribute in older opsets."""
        values = self.integers(name)
        if values is None and self.has(name):
            values = []
        return (lambda _: values) if self.has(name) else self.reader(index)


def read_ints(tensor: Tensor | None) -> list[int] | None:
    """Integers in a tensor, flat; None for None."""
    return None if tensor is None else [int(item) for item in tensor.reshape(-1).tolist()]


Builder = Callable[[Call], Function]
"""Makes the function of a node, once, when the graph is loaded."""

OpTable = dict[tuple[str, str], dict[int, Builder]]
"""(domain, operator) to builders by the opset version since which each holds."""


def plain(function: Function) -> Builder:
    """Builder of an operator that has no attributes."""
    return lambda call: function


class Table:
    """Collects the builders of a family; ``table.ops`` is what an entry point names."""

    def __init__(self, domain: str = "") -> None:
        self.domain = domain
        self.ops: OpTable = {}

    def __call__(self, *names: str, since: int = 1) -> Callable[[Builder], Builder]:
        """Register a builder for operators, from an opset version on."""

        def register(builder: Builder) -> Builder:
            for name in names:
                self.ops.setdefault((self.domain, name), {})[since] = builder
            return builder

        return register

    def plain(self, **functions: Function) -> None:
        """Register operators that have no attributes, by name."""
        for name, function in functions.items():
            self(name)(plain(function))
