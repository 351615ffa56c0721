"""Engines that load ONNX itself: nothing is converted, the artifact is the model where it lies."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from shrinkc.runtimes.isolated import IsolatedEngine

from shrinkc.api import Artifact, ArtifactFile, Convert, ConvertConfig
from shrinkc.files import sha256
from shrinkc.ir import external_tensors, load
from shrinkc.signature import read_signature


class OnnxEngine(IsolatedEngine):
    """An engine whose format is ONNX; ``details`` go into the artifact."""

    def details(self, config: ConvertConfig) -> dict[str, object]:
        """What the backend needs to know besides the file."""
        return dict(config.options)

    def convert(self, model: Path, folder: Path, config: ConvertConfig) -> Artifact:
        """Name the model and the files that hold its weights; ``folder`` stays empty.

        Raises
        ------
        RuntimeUnavailable
            The engine is missing.
        ModelLoadError
            The model cannot be read.
        """
        self.require()
        started = time.perf_counter()
        signature = read_signature(model, config.shapes)
        files = tuple(ArtifactFile(file.name, sha256(file), file.stat().st_size) for file in _files(model))
        artifact = Artifact(
            self.name, self.version(), "float32", model.parent.resolve(), files, signature, self.details(config)
        )
        return replace(artifact, seconds=time.perf_counter() - started)

    @contextmanager
    def converter(self) -> Iterator[Convert]:
        """Nothing runs for it."""
        yield self.convert


def _files(model: Path) -> list[Path]:
    """The model first, then what holds its weights."""
    loaded = load(model)
    stored = {model.parent / Path(str(tensor.path)).name for tensor in external_tensors(loaded)}
    return [model, *sorted(file for file in stored if file.is_file())]
