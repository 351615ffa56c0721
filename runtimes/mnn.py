"""MNN on this machine's CPU: Alibaba's engine for phones."""

from __future__ import annotations

from shrinkc.runtimes.isolated import BACKENDS, IsolatedEngine


class Mnn(IsolatedEngine):
    """Adapter for MNN; its compiled converter only, see the backend."""

    name = "mnn"
    formats = ("mnn",)
    backend = BACKENDS / "mnn_backend.py"
    distributions = ("MNN",)
    modules = ("MNN", "_tools")
    hint = "pip install MNN"
