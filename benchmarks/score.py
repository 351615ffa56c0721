"""Accuracy and MACs of a model, as a line of JSON: ``score.py MODEL.onnx TEST.npz``.

The test file holds the model's input under its name and ``labels``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

import shrinkc


def accuracy(model: Path, name: str, samples: np.ndarray, labels: np.ndarray, batch: int = 250) -> float:
    """Top-1 accuracy in [0, 1] of an ONNX file under onnxruntime, one thread; ``name`` is that of the input."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    parts = (samples[start : start + batch] for start in range(0, len(samples), batch))
    scores = np.concatenate([session.run(None, {name: part})[0] for part in parts])
    return float((scores.argmax(1) == labels).mean())


def macs(model: Path, name: str, shape: tuple[int, ...]) -> int:
    """Multiply-accumulates of one sample, counted by shrinkc's cost model whoever made the file."""
    return shrinkc.inspect(model, input_shapes={name: (1, *shape)}).cost.macs


def main() -> None:
    """Score one file."""
    model, test = Path(sys.argv[1]), np.load(sys.argv[2])
    name = next(key for key in test if key != "labels")
    samples = test[name]
    print(
        json.dumps({"accuracy": accuracy(model, name, samples, test["labels"]), "macs": macs(model, name, samples.shape[1:])})
    )


if __name__ == "__main__":
    main()
