"""No engine's process reports to anybody: nothing that does is imported, and nothing is left in its home folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from shrinkc.runtimes.isolation import Child

from shrinkc import registry

REPORTING = "openvino_telemetry", "MNN.tools", "aliyun"

LOOK = """

def look(request):
    import os, sys
    left = [name for _, _, names in os.walk(os.environ["HOME"]) for name in names]
    return {"modules": list(sys.modules), "left": sorted(set(left) - {"log"})}
"""


@pytest.mark.parametrize("name", ["mnn", "ncnn", "onnxruntime-cpu", "openvino", "tensorrt-rtx"])
def test_an_engine_that_was_imported_has_no_reporter_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    engine = registry.load("runtimes", name)()
    probe = engine.probe()
    if not probe.is_available:
        pytest.skip(f"{probe.reason}; {probe.hint}")
    backend = tmp_path / "backend.py"
    backend.write_text(engine.backend.read_text(encoding="utf-8") + LOOK, encoding="utf-8")
    with Child(backend) as child:
        child.request("call", {"function": "probe", "arguments": engine.examination()})
        found, _ = child.request("call", {"function": "look", "arguments": {}})
    assert found["left"] == []
    live = [module for module in found["modules"] if module.startswith(REPORTING) and module != "openvino_telemetry"]
    assert live == []
