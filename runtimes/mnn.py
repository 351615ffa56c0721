"""MNN on this machine's CPU: Alibaba's engine for phones."""

from __future__ import annotations

from typing import ClassVar

from shrinkc.runtimes.isolated import BACKENDS, IsolatedEngine


class Mnn(IsolatedEngine):
    """Adapter for MNN; its compiled converter only, see the backend.

    Attributes
    ----------
    tolerances : dict of precision to float
        Wider than other engines' in float32: its convolutions are of Winograd's kind.  Measured: 1.3e-4 off on ResNet-18 and
        ViT; 1.1e-3 at single pixels of PP-OCR's detector, which ends in a steep sigmoid (its SQNR there is 86 dB).
    """

    name = "mnn"
    formats = ("mnn",)
    backend = BACKENDS / "mnn_backend.py"
    distributions = ("MNN",)
    modules = ("MNN", "_tools")
    hint = "pip install MNN"
    tolerances: ClassVar[dict[str, float]] = {"float32": 2e-3}
