"""ncnn on this machine's CPU: Tencent's engine for phones and small boards, fed by pnnx."""

from __future__ import annotations

from shrinkc.runtimes.isolated import BACKENDS, IsolatedEngine


class Ncnn(IsolatedEngine):
    """Adapter for ncnn; pnnx is installed without its dependencies, which are torch."""

    name = "ncnn"
    formats = ("ncnn.param", "ncnn.bin")
    backend = BACKENDS / "ncnn_backend.py"
    distributions = ("ncnn",)
    modules = ("ncnn", "pnnx")
    hint = "pip install ncnn && pip install --no-deps pnnx"
