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
        if isinstance(model, str | os.PathLike) and example_inputs is None:
            return cast(Callable[..., Report], of_file)(model, **options)
        if example_inputs is None:
            raise RecipeError(
                "neither a file nor a module with inputs", where=type(model).__name__, hint="compress(module, (images,), ...)"
            )
        from shrinkc.torch import compress as compress_module

        return compress_module(model, example_inputs, **options)

    return cast(Compress[OfFile], compress)


compress = of_either(compress_file)
