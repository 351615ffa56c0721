"""onnxruntime, the reference: in this process and in one of its own, and what it must not do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from shrinkc import registry
from shrinkc.api import ConvertConfig, RunConfig


def test_the_home_folder_stays_empty(tmp_path: Path, demo: Path) -> None:
    """Its wheels send usage data and leave a device number in the home folder, unless told not to before the import."""
    script = (
        "import sys\nfrom pathlib import Path\nfrom shrinkc import registry\nfrom shrinkc.api import RunConfig\n"
        "registry.load('runtimes', 'onnxruntime-cpu')().load(Path(sys.argv[1]), RunConfig())\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    model = str(demo / "fashion_resnet.onnx")
    subprocess.run([sys.executable, "-c", script, model], env={**environment, "HOME": str(tmp_path)}, check=True)
    assert list(tmp_path.iterdir()) == []


def test_both_processes_compute_the_same_and_layers_are_named_after_nodes(
    demo: Path, demo_sample: dict[str, np.ndarray], tmp_path: Path
) -> None:
    engine = registry.load("runtimes", "onnxruntime-cpu")()
    model, feed = demo / "fashion_resnet.onnx", {name: array[:1] for name, array in demo_sample.items()}
    with engine.open(engine.convert(model, tmp_path, ConvertConfig()), RunConfig()) as session:
        apart = session.run(feed)
        layers = session.profile(feed, runs=3)
        assert session.effective().provider == "CPUExecutionProvider"
    here = engine.load(model, RunConfig()).run(feed)
    np.testing.assert_array_equal(apart["logits"], here["logits"])
    assert {layer.op_type for layer in layers} >= {"Conv", "Gemm"}
    assert all(layer.time_s >= 0 for layer in layers)
    assert any(layer.name.startswith("/stem/") for layer in layers)
