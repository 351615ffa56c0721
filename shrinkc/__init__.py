"""shrinkc: a deployment compiler that makes trained ONNX models smaller and faster, with the proof beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from shrinkc.inspection import inspect as inspect
    from shrinkc.learning import train as train
    from shrinkc.pipeline import compress as compress

__all__ = ["__version__", "compress", "inspect", "train"]


def __getattr__(name: str) -> Any:
    """Load the pipeline when it is first asked for; ``import shrinkc`` alone stays light."""
    if name == "compress":
        from shrinkc.pipeline import compress

        return compress
    if name == "inspect":
        from shrinkc.inspection import inspect

        return inspect
    if name == "train":
        from shrinkc.learning import train

        return train
    raise AttributeError(f"module 'shrinkc' has no attribute {name!r}")
