"""shrinkc: a deployment compiler that makes trained ONNX models smaller and faster, with the proof beside them."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Wheels of onnxruntime send usage data home by default and leave a device number in the home folder; they read this when they
# are imported, so it has to stand before.  Whoever wants it otherwise sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from shrinkc.checking import check as check
    from shrinkc.compressing import compress as compress
    from shrinkc.inspection import inspect as inspect
    from shrinkc.learning import train as train
    from shrinkc.sweeping import bench as bench
    from shrinkc.validating import validate as validate

__all__ = ["__version__", "bench", "check", "compress", "inspect", "train", "validate"]


def __getattr__(name: str) -> Any:
    """Load the pipeline when it is first asked for; ``import shrinkc`` alone stays light."""
    if name == "bench":
        from shrinkc.sweeping import bench

        return bench
    if name == "check":
        from shrinkc.checking import check

        return check
    if name == "compress":
        from shrinkc.compressing import compress

        return compress
    if name == "inspect":
        from shrinkc.inspection import inspect

        return inspect
    if name == "train":
        from shrinkc.learning import train

        return train
    if name == "validate":
        from shrinkc.validating import validate

        return validate
    if name == "torch":
        return importlib.import_module("shrinkc.torch")
    raise AttributeError(f"module 'shrinkc' has no attribute {name!r}")
