"""Judging a compressed model from outside: does it run, is its face unchanged, and what does the independent checker say."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

CHECKER = Path(__file__).parents[2] / "shared" / "checks" / "masked_equivalence.py"


def face(path: Path) -> tuple[object, ...]:
    """Everything a caller sees of a model: real inputs, outputs, opsets, metadata, producer."""
    model = onnx.load(str(path))
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [i.SerializeToString() for i in model.graph.input if i.name not in stored]
    opsets = [(o.domain, o.version) for o in model.opset_import]
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    outputs = [o.SerializeToString() for o in model.graph.output]
    return inputs, outputs, opsets, metadata, model.producer_name, model.ir_version


def run_with_onnxruntime(path: Path, shapes: dict[str, tuple[int, ...]] | None = None, seed: int = 0) -> list[np.ndarray]:
    """Outputs for random inputs; free dimensions are 2 (batch) and 16."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(seed)
    kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(bool)": np.bool_, "tensor(uint8)": np.uint8}
    feeds = {}
    for value in session.get_inputs():
        free = [2 if axis == 0 else 16 for axis in range(len(value.shape))]
        shape = [dim if isinstance(dim, int) else free[axis] for axis, dim in enumerate(value.shape)]
        shape = list((shapes or {}).get(value.name, shape))
        feeds[value.name] = np.asarray(generator.standard_normal(shape)).astype(kinds[value.type])
    outputs: list[np.ndarray] = session.run(None, feeds)
    return outputs


def independent_verdict(
    original: Path, pruned: Path, plan: Path, shapes: dict[str, tuple[int, ...]] | None = None, options: Sequence[str] = ()
) -> str:
    """Verdict of the independent checker; skips where it is not beside the checkout."""
    if not CHECKER.exists():
        pytest.skip("the independent checker (../shared/checks) is not beside this checkout")
    command = [sys.executable, str(CHECKER), str(original), str(pruned), str(plan), *options]
    if shapes:
        command += ["--shapes", json.dumps({name: list(shape) for name, shape in shapes.items()})]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    verdict = json.loads(result.stdout)
    return "pass" if verdict["status"] == "pass" else json.dumps(verdict)
