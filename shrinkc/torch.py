"""For torch users: an ONNX file as a module that trains, and back into a file.

>>> import shrinkc.torch                                        # doctest: +SKIP
>>> module = shrinkc.torch.load("model.onnx")                   # doctest: +SKIP
>>> module(image).sum().backward()                              # doctest: +SKIP
>>> shrinkc.torch.save(module, "trained.onnx")                  # doctest: +SKIP
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from onnx import ModelProto

from shrinkc import ir as shrinkc_ir
from shrinkc.errors import RecipeError
from shrinkc.training.executor import Executor  # says how to install torch, if it is missing
from shrinkc.training.lifting import lift_weights

if TYPE_CHECKING:
    from torch import Tensor, nn

    from shrinkc.report.model import Report


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
    model = shrinkc_ir.load(path)
    lift_weights(model)
    return OnnxModule(model)


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


@dataclass(frozen=True, eq=False)
class Compressed:
    """What :func:`compress` gives.

    Attributes
    ----------
    report : Report
        Of the run; it names files only where ``output`` was given.
    module : OnnxModule
        The compressed network, which trains.
    onnx : onnx.ModelProto
        The same as ONNX, as it left the compression.
    """

    report: Report
    module: OnnxModule
    onnx: ModelProto


def compress(module: nn.Module, example_inputs: Sequence[Tensor], **options: Any) -> Compressed:
    """Export a torch module, compress it, and take it back.

    Parameters
    ----------
    module : nn.Module
        Exported as it infers; it is not changed.
    example_inputs : sequence of Tensor
        One for every argument of its ``forward``.  Their first axis is the batch; it is free in the export.
    **options
        Those of :func:`shrinkc.compress`: ``macs``, ``data``, ``output`` and so on.  Without ``output`` no file is left.

    Returns
    -------
    Compressed

    Raises
    ------
    ShrinkcError
        One of its kinds; see :func:`shrinkc.compress`.
    RecipeError
        The module cannot be exported.
    """
    from shrinkc.pipeline import compress as compress_file

    if options.get("dry_run"):
        raise RecipeError("a dry run leaves no module", where="dry_run", hint="export it, and plan for the file")
    with tempfile.TemporaryDirectory(prefix="shrinkc-") as folder:
        path = Path(folder) / "model.onnx"
        _export(module, tuple(example_inputs), path)
        asked = options.pop("output", None)
        output = Path(asked or Path(folder) / "compressed.onnx")
        report = compress_file(path, output=output, **options)
        kept = report if asked else replace(report, output=None, files={})
        return Compressed(kept, load(output), onnx.load(output))


def _export(module: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> None:
    import torch

    batch, modes = torch.export.Dim("batch"), {part: part.training for part in module.modules()}
    examples = tuple(torch.cat([x, x]) if len(x) == 1 else x for x in inputs)  # a size of one would be taken as fixed
    module.eval()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter tells its own developers things
            torch.onnx.export(
                module, examples, str(path), dynamo=True, external_data=False, verbose=False, opset_version=18,
                dynamic_shapes=tuple({0: batch} for _ in examples),
            )  # fmt: skip
    except Exception as error:  # exporters raise many types; all mean that there is no ONNX model of this module
        raise RecipeError(
            "the module cannot be exported to ONNX", where=type(module).__name__, because=str(error)[:300]
        ) from error
    finally:
        for part, was_training in modes.items():
            part.training = was_training
