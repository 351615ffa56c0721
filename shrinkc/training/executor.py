"""An ONNX graph as a torch module: the same graph, its own names, gradients through it, and weights written back into it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from shrinkc.errors import UnsupportedGraphError
from shrinkc.inlining import inline_functions
from shrinkc.training.compiling import Compiler
from shrinkc.training.expansion import has_body
from shrinkc.training.lookup import builder_of, domain_of
from shrinkc.training.ops.call import Mode
from shrinkc.training.ops.tensors import dtype_of, tensor_of, to_array
from shrinkc.training.parameters import Scope, keys_of, put
from shrinkc.training.program import Program
from shrinkc.training.roles import is_learned, is_statistic

Place = tuple[dict[str, Any], str]
"""Where a tensor is looked up: modules put another object there when they are moved to a device."""

CONSTANTS = "%constants"
"""Name of the inner module that brings constants to the device; not in the state dict, and no ONNX name is written so."""


@dataclass(frozen=True, eq=False)
class Bound:
    """A program and the slots to fill before it runs: with what lies where."""

    program: Program
    filled: tuple[tuple[int, dict[str, Any], str], ...]


class Executor(nn.Module):
    """A model as a module.

    Every float initializer that is trainable becomes a parameter under its own name; the rule is that of
    :mod:`shrinkc.training.roles`.  Running statistics of BatchNormalization, and what would be trainable but for
    ``is_trainable``, are buffers; all else (sizes, indices, bounds, Constant nodes, initializers of inner graphs) is constant.
    Keys of the state dict are the ONNX names, escaped where torch does not allow them
    (:func:`shrinkc.training.parameters.keys_of`).

    In ``train()``, BatchNormalization uses the batch and follows it with its running statistics, and Dropout drops, unless
    ``normalizes`` or ``drops`` is False; in ``eval()`` both do what the graph says.

    Parameters
    ----------
    model : ir.Model
        Not changed until :meth:`write_back`.
    is_trainable : callable of ir.Value to bool, optional
        Which float initializers to train instead.
    runnable : ir.Model, optional
        What is run in the model's place: another graph that reads the same initializers.

    Attributes
    ----------
    input_names, output_names : tuple of str
    normalizes, drops : bool
        What ``train()`` does.

    Raises
    ------
    UnsupportedGraphError
        There are operators torch has no function for; names them all, and nodes that need them.
    """

    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    normalizes: bool = True
    drops: bool = True

    def __init__(
        self,
        model: ir.Model,
        *,
        is_trainable: Callable[[ir.Value], bool] | None = None,
        runnable: ir.Model | None = None,
    ) -> None:
        super().__init__()
        self._model, self._mode, self._is_trainable, self._instead = model, Mode(), is_trainable, runnable
        runnable = _inlined(model if runnable is None else runnable)
        graph = runnable.graph
        check_operators(runnable)
        stored = {
            value: tensor for value in graph.initializers.values() if (tensor := _stored(value, is_trainable)) is not None
        }
        self._runnable, self._stored = runnable, frozenset(stored)
        self._statistics = tuple(value.name or "" for value in stored if is_statistic(value))
        self._places = self._placed({value.name or "": tensor for value, tensor in stored.items()})
        self._fused = self._bound(fuses=True)
        self._whole: Bound | None = None
        self.input_names = tuple(value.name or "" for value in graph.inputs if not value.is_initializer())
        self.output_names = tuple(value.name or "" for value in graph.outputs)
        self._optional = {value.name or "" for value in graph.inputs if value.is_initializer()}

    def _placed(self, tensors: Mapping[str, Tensor]) -> dict[str, Place]:
        keys = keys_of(tensors)
        self.add_module(CONSTANTS, Scope())
        return {name: put(self, keys[name], tensor) for name, tensor in tensors.items()}

    def _bound(self, *, fuses: bool) -> Bound:
        opsets, functions = self._runnable.opset_imports, self._runnable.functions
        compiler = Compiler(opsets, self._mode, self._stored, fuses=fuses, functions=functions)
        program = compiler.compile(self._runnable.graph)
        constants, device = self.get_submodule(CONSTANTS), self._device({})
        filled = [(program.slots[name], *place) for name, place in self._places.items()]
        for slot, tensor in program.on_device:
            place = put(constants, f"{'fused' if fuses else 'whole'}{slot}", tensor.to(device), False)
            filled.append((slot, *place))
        return Bound(program, tuple(filled))

    def _for(self, also: Sequence[str]) -> Bound:
        """The program with fused nodes, unless a value between them is asked for."""
        if all(name in self._fused.program.slots for name in also):
            return self._fused
        if self._whole is None:
            self._whole = self._bound(fuses=False)
        return self._whole

    def forward(
        self, inputs: Mapping[str, Tensor], *, weights: Mapping[str, Tensor] | None = None, also: Sequence[str] = ()
    ) -> dict[str, Tensor]:
        """Run the graph.

        Parameters
        ----------
        inputs : mapping of input name to Tensor
        weights : mapping of initializer name to Tensor, optional
            Tensors that take the place of stored ones, gradients included (masked or re-parametrised weights).
        also : sequence of str
            Names of inner values to return as well.

        Returns
        -------
        dict of str to Tensor
            Outputs by their ONNX names, then what ``also`` asks for.

        Raises
        ------
        KeyError
            An input is missing, or a name is not one of the model's.
        """
        bound = self._for(also)
        program = bound.program
        self._mode.drops, self._mode.normalizes = (self.training and part for part in (self.drops, self.normalizes))
        values = program.values()
        for slot, held, key in bound.filled:
            values[slot] = held[key]
        for name in self.input_names:
            values[program.slots[name]] = inputs[name]
        given = {name: inputs[name] for name in self._optional & inputs.keys()}
        for name, tensor in {**given, **(weights or {})}.items():
            values[program.slots[self._replaceable(name)]] = tensor
        extra = {name: program.slots[name] for name in also}
        program.run(values, self._device(inputs), frozenset(extra.values()))
        found = {name: values[slot] for name, slot in zip(self.output_names, program.outputs, strict=True)}
        return found | {name: values[slot] for name, slot in extra.items()}

    def _replaceable(self, name: str) -> str:
        if name not in self._places:
            raise KeyError(f"{name} is no parameter or buffer of the model")
        return name

    def _device(self, inputs: Mapping[str, Tensor]) -> torch.device:
        """Device of the parameters, else of the inputs."""
        held: Iterator[Any] = (held[key] for held, key in self._places.values())
        given = (tensor for tensor in inputs.values() if isinstance(tensor, Tensor) and tensor.device.type != "cpu")
        tensor = next(held, None)
        tensor = next(given, None) if tensor is None else tensor
        return torch.device("cpu") if tensor is None else tensor.device

    def normalize_by(self, normalize: Callable[..., Tensor]) -> None:
        """Let BatchNormalization in training go through a function that knows the whole batch, see ``Mode``."""
        self._mode.normalize = normalize

    def draw_for(self, rows: range, total: int) -> None:
        """Let operators draw random numbers for ``total`` samples and use those of their own ``rows``, see ``Mode``."""
        self._mode.rows, self._mode.total = rows, total

    def tensor(self, name: str) -> Tensor:
        """Parameter or buffer by the name of its initializer; the stored constant for any other initializer.

        Raises
        ------
        KeyError
            The model has no initializer of that name.
        """
        if name in self._places:
            held, key = self._places[name]
            found: Tensor = held[key]
            return found
        value = self._model.graph.initializers[name]
        assert value.const_value is not None
        return tensor_of(value.const_value)

    def __deepcopy__(self, memo: dict[int, Any]) -> Executor:
        copy = type(self)(self._model.clone(), is_trainable=self._is_trainable, runnable=self._instead)
        copy.to(self._device({}))
        copy.load_state_dict({key: tensor.detach().clone() for key, tensor in self.state_dict().items()}, assign=True)
        return copy.train(self.training)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Parameters by the names of their initializers."""
        pairs = ((name, held[key]) for name, (held, key) in self._places.items())
        return {name: tensor for name, tensor in pairs if isinstance(tensor, nn.Parameter)}

    def statistics(self) -> dict[str, Tensor]:
        """Running means and variances by the names of their initializers, whoever reads them."""
        return {name: self.tensor(name) for name in self._statistics}

    def write_back(self) -> ir.Model:
        """Put what has changed into the graph, in the element type it had; every other tensor stays the object it was.

        Returns
        -------
        ir.Model
            The model that the executor was made of.
        """
        for name in self._places:
            value = self._model.graph.initializers[name]
            old = value.const_value
            assert old is not None
            array = to_array(self.tensor(name).to(dtype_of(old.dtype)))
            if not _same_bits(array, old.numpy()):
                value.const_value = ir.Tensor(array.copy(), old.dtype, name=old.name, doc_string=old.doc_string)
        return self._model


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.tobytes() == np.ascontiguousarray(b).tobytes()


def _inlined(model: ir.Model) -> ir.Model:
    """The model, or a copy without local functions if it has some."""
    if not model.functions:
        return model
    copy = model.clone()
    inline_functions(copy)
    return copy


def _stored(value: ir.Value, is_trainable: Callable[[ir.Value], bool] | None) -> Tensor | None:
    """Parameter or buffer for an initializer, None for a constant."""
    tensor = value.const_value
    if tensor is None or not tensor.dtype.is_floating_point() or tensor.dtype.bitwidth < 16:
        return None
    wanted = is_learned(value) if is_trainable is None else is_trainable(value)
    if wanted:
        return nn.Parameter(tensor_of(tensor))
    return tensor_of(tensor) if is_statistic(value) or is_learned(value) else None


def check_operators(model: ir.Model) -> None:
    """Refuse operators without a function.

    Raises
    ------
    UnsupportedGraphError
        Names every one of them, with up to three nodes that need it.
    """
    missing: dict[str, list[str]] = {}
    for node, opsets in _all_nodes(model):
        version = opsets.get(node.domain, opsets.get(domain_of(node), 1))
        if builder_of(node, version) is None and not has_body(node, version):
            label = f"{node.domain or 'ai.onnx'}::{node.op_type}"
            missing.setdefault(label, []).append(node.name or (node.outputs[0].name if node.outputs else "") or "?")
    if missing:
        raise UnsupportedGraphError(
            "torch has no function for some operators",
            where="; ".join(
                f"{label} ({', '.join(names[:3])}{' ...' if len(names) > 3 else ''})" for label, names in missing.items()
            ),
            hint="a package can bring them through the entry point group shrinkc.torch_ops",
        )


def _all_nodes(model: ir.Model) -> Iterator[tuple[ir.Node, Mapping[str, int]]]:
    """Nodes of the graph and of functions that stay, calls of functions aside, each with the opsets it is written for."""
    scopes: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for graph in scopes:
        for node in graph.all_nodes():
            if node.op_identifier() not in model.functions:
                yield node, graph.opset_imports
