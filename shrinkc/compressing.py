"""``shrinkc.compress``: of a file, or of a torch module."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, cast, overload

from shrinkc.errors import RecipeError
from shrinkc.pipeline import compress as compress_file
from shrinkc.report.model import Report

if TYPE_CHECKING:
    from torch import Tensor, nn

    from shrinkc.torch import Compressed

OfFile = ParamSpec("OfFile")


ABOUT_MODULES = """Compress an ONNX file, or a torch module: ``compress(module, (images,), ...)``.

For a module see :func:`shrinkc.torch.compress`; all that follows is about files."""


class Compress(Protocol[OfFile]):
    """What can be called with a file, or with a torch module and an example of each of its inputs."""

    @overload
    def __call__(self, *args: OfFile.args, **options: OfFile.kwargs) -> Report: ...
    @overload
    def __call__(self, model: nn.Module, example_inputs: Sequence[Tensor], **options: Any) -> Compressed: ...


def of_either(of_file: Callable[OfFile, Report]) -> Compress[OfFile]:
    """Compression of files that takes torch modules as well, see :func:`shrinkc.torch.compress`."""

    @wraps(of_file)
    def compress(model: Any, example_inputs: Any = None, **options: Any) -> Any:
        is_file = isinstance(model, str | os.PathLike)
        if is_file and example_inputs is None:
            return cast(Callable[..., Report], of_file)(model, **options)
        if is_file or not isinstance(example_inputs, tuple | list):
            given = f"{type(model).__name__}, {type(example_inputs).__name__}"
            hint = 'compress("model.onnx", ...) or compress(module, (images,), ...)'
            raise RecipeError("neither a file nor a module with inputs", where=given, hint=hint)
        from shrinkc.torch import compress as compress_module

        return compress_module(model, example_inputs, **options)

    compress.__doc__ = f"{ABOUT_MODULES}\n\n{of_file.__doc__}"
    return cast(Compress[OfFile], compress)


compress = of_either(compress_file)
