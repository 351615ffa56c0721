"""Training of the graph itself: an ONNX model as a torch module.  Needs the extra ``shrinkc[torch]``."""

from __future__ import annotations

from importlib.util import find_spec

from shrinkc.errors import RuntimeUnavailable

if find_spec("torch") is None:
    raise RuntimeUnavailable("training needs torch, which is not installed", hint="pip install 'shrinkc[torch]'")
