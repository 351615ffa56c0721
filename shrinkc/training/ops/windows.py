"""Where the windows of convolutions and pools lie: paddings worked out from attributes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shrinkc.training.ops.call import Call


@dataclass(frozen=True)
class Windows:
    """Windows over spatial axes; ``pads`` are all befores, then all afters; None where ``auto_pad`` decides."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...] | None
    auto_pad: str
    is_ceil: bool = False

    @classmethod
    def of(cls, call: Call, kernel: Sequence[int] | None = None) -> Windows:
        """Windows of a node; ``kernel`` where the node leaves it to the weight's shape."""
        size = tuple(call.integers("kernel_shape") or kernel or ())
        n, auto = len(size), call.text("auto_pad", "NOTSET")
        pads = tuple(call.integers("pads") or (0,) * (2 * n)) if auto in ("NOTSET", "") else None
        return cls(
            size,
            tuple(call.integers("strides") or (1,) * n),
            tuple(call.integers("dilations") or (1,) * n),
            (0,) * (2 * n) if auto == "VALID" else pads,
            auto,
            bool(call.integer("ceil_mode")),
        )

    @property
    def spans(self) -> tuple[int, ...]:
        """Size of a window with its holes, by axis."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    def paddings(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Paddings for an input of these sizes."""
        if self.pads is not None:
            return self.pads
        befores, afters = [], []
        for size, stride, span in zip(sizes, self.strides, self.spans, strict=True):
            total = max(0, (-(-size // stride) - 1) * stride + span - size)
            small, large = total // 2, total - total // 2
            befores.append(large if self.auto_pad == "SAME_LOWER" else small)
            afters.append(small if self.auto_pad == "SAME_LOWER" else large)
        return (*befores, *afters)


def is_symmetric(pads: Sequence[int]) -> bool:
    """Whether as much is added before as after, on every axis."""
    half = len(pads) // 2
    return tuple(pads[:half]) == tuple(pads[half:])


def for_torch(pads: Sequence[int]) -> list[int]:
    """The order ``torch.nn.functional.pad`` wants: last axis first, before and after side by side."""
    half = len(pads) // 2
    return [amount for axis in reversed(range(half)) for amount in (pads[axis], pads[axis + half])]
