"""From a graph to a program: every node's function is bound, what is known already is computed, slots get numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from shrinkc.errors import UnsupportedGraphError
from shrinkc.graphs import inner_graphs
from shrinkc.training.expansion import expanded, of_function
from shrinkc.training.fusing import Fused, fusions
from shrinkc.training.lookup import builder_of, domain_of
from shrinkc.training.ops.call import Body, Call, Function, Mode
from shrinkc.training.ops.tensors import tensor_of
from shrinkc.training.placement import makes_sizes, read_on_cpu
from shrinkc.training.program import ABSENT, UNUSED, Program, Step

FOLD_LIMIT = 1 << 16
"""Elements up to which a known result may be larger than what it is computed of."""

DRAWN = frozenset({"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"})


@dataclass
class Compiler:
    """Compiles one graph; graphs inside it get compilers of their own.

    Attributes
    ----------
    opsets : mapping of domain to version
    mode : Mode
    stored : set of ir.Value
        Values that are filled in from outside: parameters, buffers.
    known : dict of ir.Value to Tensor
        Values that are known before anything runs.
    on_cpu : set of ir.Value
        Values made on the CPU whatever the device.
    functions : mapping of operator to ir.Function
        The model's own, of calls that were not inlined.
    fuses : bool
        Whether nodes may be run together; values between them then do not exist.
    """

    opsets: Mapping[str, int]
    mode: Mode
    stored: frozenset[ir.Value] = frozenset()
    known: dict[ir.Value, Tensor] = field(default_factory=dict)
    on_cpu: set[ir.Value] = field(default_factory=set)
    fuses: bool = True
    functions: Mapping[ir.OperatorIdentifier, ir.Function] = field(default_factory=dict)
    fused: dict[ir.Node, Fused] = field(default_factory=dict)
    skipped: set[ir.Node] = field(default_factory=set)
    aliases: dict[ir.Value, ir.Value] = field(default_factory=dict)
    slots: dict[ir.Value | None, int] = field(default_factory=dict)
    device_slots: dict[ir.Value, int] = field(default_factory=dict)
    n_slots: int = 2

    def slot(self, value: ir.Value | None) -> int:
        """Number of a value's slot."""
        if value is None:
            return ABSENT
        value = self.aliases.get(value, value)
        if value not in self.slots:
            self.slots[value] = self.n_slots
            self.n_slots += 1
        return self.slots[value]

    def compile(self, graph: ir.Graph, captured: Iterable[ir.Value] = ()) -> Program:
        """Program of a graph.

        Raises
        ------
        UnsupportedGraphError
            It has operators that nobody brings; all of them are named.
        """
        captured = list(captured)
        self._take_constants(graph)
        inputs = tuple(UNUSED if value in self.known else self.slot(value) for value in graph.inputs)
        outer = tuple(UNUSED if value in self.known else self.slot(value) for value in captured)
        if self.fuses:
            self.fused = fusions(graph, self._alone, self.mode)
            self.skipped = {inner for fused in self.fused.values() for inner in fused.covered}
        steps = [step for node in graph for step in self._step(node)]
        outputs = tuple(self.slot(value) for value in graph.outputs)
        for value in self.stored:
            self.slot(value)
        named = {value.name: self.slot(value) for value in (*self.slots, *self.known, *self.aliases) if value and value.name}
        constants = tuple((self.slots[value], tensor) for value, tensor in self.known.items() if value in self.slots)
        on_device = tuple((slot, self.known[value]) for value, slot in self.device_slots.items())
        pinned = {*outputs, *(slot for slot, _ in (*constants, *on_device)), *(self.slots[value] for value in self.stored)}
        return Program(tuple(_with_deaths(steps, pinned)), self.n_slots, inputs, outer, outputs, constants, on_device, named)

    def _take_constants(self, graph: ir.Graph) -> None:
        for value in graph.initializers.values():
            if value not in self.stored and value.const_value is not None:
                self.known[value] = tensor_of(value.const_value)

    def _step(self, node: ir.Node) -> Iterator[Step]:
        if node in self.skipped:
            return
        if node in self.fused:
            yield self._fused_step(node, self.fused[node])
            return
        if _is_alias(node):
            source = node.inputs[0]
            assert source is not None
            self.aliases[node.outputs[0]] = self.aliases.get(source, source)
            return
        captured = captured_values(node)
        inputs = [*node.inputs, *captured]
        resolved = [None if value is None else self.aliases.get(value, value) for value in inputs]
        function = self._function(node, captured, resolved)
        if self._fold(node, function, resolved):
            return
        on_device = self._needed_on_device(node, resolved)
        slots = [self._device_slot(v) if i in on_device and v in self.known else self.slot(v) for i, v in enumerate(resolved)]
        moved = tuple(i for i in on_device if resolved[i] not in self.known)
        outputs = tuple(self.slot(value) if value.name else UNUSED for value in node.outputs)
        yield Step(node, function, tuple(slots), outputs or (UNUSED,), moved)

    def _fused_step(self, node: ir.Node, fused: Fused) -> Step:
        resolved = [self.aliases.get(value, value) for value in fused.inputs]
        slots = [self._device_slot(value) if value in self.known else self.slot(value) for value in resolved]
        moved = tuple(index for index, value in enumerate(resolved) if value in self.on_cpu)
        return Step(node, fused.run, tuple(slots), (self.slot(node.outputs[0]),), moved)

    def _device_slot(self, value: ir.Value) -> int:
        """Slot for a known value where it is computed with, on whatever device."""
        if value not in self.device_slots:
            self.device_slots[value] = self.n_slots
            self.n_slots += 1
        return self.device_slots[value]

    def _alone(self, node: ir.Node) -> Function:
        """What a node without graphs inside calls."""
        return self._function(node, [], list(node.inputs))

    def _function(self, node: ir.Node, captured: list[ir.Value], resolved: list[ir.Value | None]) -> Function:
        version = self.opsets.get(node.domain, self.opsets.get(domain_of(node), 1))
        constants = tuple(None if value is None else self.known.get(value) for value in resolved)
        call = Call(node, version, constants, self._bodies(node, captured), self.mode)
        own = self.functions.get(node.op_identifier())
        if own is not None:
            return of_function(own, self._inner)(call)
        builder = builder_of(node, version) or expanded(node, version, self._inner)
        if builder is None:
            raise UnsupportedGraphError(
                "an operator that torch cannot run", where=f"{node.domain or 'ai.onnx'}::{node.op_type}"
            )
        return builder(call)

    def _bodies(self, node: ir.Node, captured: list[ir.Value]) -> dict[str, Body]:
        bodies = {}
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                graph = attribute.as_graph()
                program = self._around(captured).compile(graph, captured)
                bodies[attribute.name] = Body(program.called, len(graph.inputs), len(captured))
        return bodies

    def _around(self, captured: list[ir.Value]) -> Compiler:
        """Compiler for a graph inside, that knows what this one knows of the captured values."""
        known = {value: self.known[value] for value in captured if value in self.known}
        on_cpu = {value for value in captured if value in self.on_cpu}
        return Compiler(self.opsets, self.mode, frozenset(), known, on_cpu, self.fuses, self.functions)

    def _inner(self, graph: ir.Graph, opsets: Mapping[str, int], known: Mapping[ir.Value, Tensor]) -> Program:
        """Program of an operator's own body."""
        return Compiler(opsets, self.mode, known=dict(known), functions=self.functions).compile(graph)

    def _fold(self, node: ir.Node, function: Function, resolved: list[ir.Value | None]) -> bool:
        """Compute a node whose inputs are all known; True if that was done."""
        given = [None if value is None else self.known.get(value) for value in resolved]
        if any(value is not None and tensor is None for value, tensor in zip(resolved, given, strict=True)):
            return False
        if node.op_type in DRAWN or node.op_type == "Dropout":
            return False
        try:
            with torch.no_grad():
                got = function(*given)
        except Exception:  # the same error comes again, with its node, when the graph runs
            return False
        results = got if isinstance(got, tuple) else (got,)
        limit = max(FOLD_LIMIT, sum(tensor.numel() for tensor in given if tensor is not None))
        if not all(isinstance(item, Tensor) for item in results) or sum(item.numel() for item in results) > limit:
            return False
        self.known.update({value: item for value, item in zip(node.outputs, results, strict=False) if value.name})
        return True

    def _needed_on_device(self, node: ir.Node, resolved: list[ir.Value | None]) -> list[int]:
        """Inputs made on the CPU that are computed with where the data is; marks the outputs that stay on the CPU."""
        at_home = [index for index, value in enumerate(resolved) if value in self.on_cpu or value in self.known]
        n_present = sum(value is not None for value in resolved)
        if makes_sizes(node) or len(at_home) == n_present:
            self.on_cpu.update(node.outputs)
            return []
        read = read_on_cpu(node)
        return [index for index in at_home if index not in read and index < len(node.inputs)]


def _is_alias(node: ir.Node) -> bool:
    return node.op_type == "Identity" and domain_of(node) == "" and node.inputs[0] is not None


def captured_values(node: ir.Node) -> list[ir.Value]:
    """Values from outside that the graphs inside a node read, in order of appearance."""
    found: dict[ir.Value, None] = {}
    for graph in inner_graphs(node):
        inside: set[Any] = set()
        for value in _read_in(graph, inside):
            if value not in inside:
                found[value] = None
    return list(found)


def _read_in(graph: ir.Graph, inside: set[Any]) -> list[ir.Value]:
    inside.update(graph.inputs)
    inside.update(graph.initializers.values())
    read: list[ir.Value] = []
    for node in graph:
        read += [value for value in node.inputs if value is not None]
        inside.update(node.outputs)
        for inner in inner_graphs(node):
            read += _read_in(inner, inside)
    return read + list(graph.outputs)


def _with_deaths(steps: list[Step], pinned: set[int]) -> list[Step]:
    """Every step with the slots that it reads or writes last."""
    last: dict[int, int] = {}
    for index, step in enumerate(steps):
        last.update(dict.fromkeys((*step.inputs, *step.outputs), index))
    dead: dict[int, list[int]] = {}
    for slot, index in last.items():
        if slot not in pinned and slot != ABSENT:
            dead.setdefault(index, []).append(slot)
    return [
        Step(step.node, step.run, step.inputs, step.outputs, step.moved, tuple(dead.get(index, ())))
        for index, step in enumerate(steps)
    ]
