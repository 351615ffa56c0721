"""For torch users: an ONNX file as a module that trains, and back into a file.

>>> import shrinkc.torch                                        # doctest: +SKIP
>>> module = shrinkc.torch.load("model.onnx")                   # doctest: +SKIP
>>> module(image).sum().backward()                              # doctest: +SKIP
>>> shrinkc.torch.save(module, "trained.onnx")                  # doctest: +SKIP
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from shrinkc import ir as shrinkc_ir
from shrinkc.errors import RecipeError
from shrinkc.training.executor import Executor  # says how to install torch, if it is missing

if TYPE_CHECKING:
    from torch import Tensor


class OnnxModule(Executor):
    """An executor that is called as torch modules are: inputs by position or name, a tensor or a tuple of them back."""

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:  # type: ignore[override]
        """Run the graph.

        Parameters
        ----------
        *inputs : Tensor
            In the order of ``input_names``.
        **named : Tensor
            The rest, by name.

        Returns
        -------
        Tensor, or tuple of Tensor where the model has several outputs.

        Raises
        ------
        TypeError
            Too many inputs, too few, one twice, or one the model does not have.
        """
        given = dict(zip(self.input_names, inputs, strict=False))
        _check(self.input_names, len(inputs), set(named))
        found = tuple(super().forward({**given, **named}).values())
        return found[0] if len(found) == 1 else found


def _check(names: tuple[str, ...], n_given: int, named: set[str]) -> None:
    if n_given > len(names):
        raise TypeError(f"the model has {len(names)} inputs ({', '.join(names)}), and {n_given} were given")
    missing = [name for name in names[n_given:] if name not in named]
    wrong = sorted(named - set(names[n_given:]))
    if missing or wrong:
        told = [
            f"{what}: {', '.join(some)}" for what, some in (("missing", missing), ("unknown or given twice", wrong)) if some
        ]
        raise TypeError("inputs that do not fit the model; " + "; ".join(told))


def load(path: str | os.PathLike[str]) -> OnnxModule:
    """An ONNX file as a torch module, in training mode as torch modules are at first.

    Raises
    ------
    ModelLoadError
        The file cannot be read.
    UnsupportedGraphError
        It has operators torch has no function for.
    RuntimeUnavailable
        Torch is not installed.
    """
    return OnnxModule(shrinkc_ir.load(path))


def save(module: Executor, path: str | os.PathLike[str]) -> int:
    """Write the graph with the module's weights; what was not trained stays as it was, bit for bit.

    Returns
    -------
    int
        Bytes written.

    Raises
    ------
    RecipeError
        The module was not made of an ONNX file.
    """
    if not isinstance(module, Executor):
        raise RecipeError("only modules made of an ONNX file can be saved as one", where=type(module).__name__)
    return shrinkc_ir.save(module.write_back(), path)
