"""What :mod:`shrinkc.training.any_batch` writes in the place of operators that know how many samples there are."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor

from shrinkc.training.ops.call import Call, Function, Table

DOMAIN, RESHAPE = "shrinkc.training", "ReshapeSamples"

op = Table(DOMAIN)
OPS = op.ops


@op(RESHAPE)
def reshape_samples(call: Call) -> Function:
    """From the shape ``given`` to the shape ``wanted``, as far as one sample goes: of more, one axis is longer in both."""
    given, wanted = call.integers("given") or [], call.integers("wanted") or []
    return lambda x: x.reshape(sizes_for(x, given, wanted))


def sizes_for(x: Tensor, given: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """Sizes to reshape to: the axis that begins where the longer one of ``x`` does takes what there is more.

    Raises
    ------
    ValueError
        No axis begins there.
    """
    longer = next((axis for axis, (size, one) in enumerate(zip(x.shape, given, strict=True)) if size != one), None)
    if longer is None:
        return list(wanted)
    axis = [prod(wanted[:at]) for at in range(len(wanted))].index(prod(given[:longer]))
    return [*wanted[:axis], -1, *wanted[axis + 1 :]]
