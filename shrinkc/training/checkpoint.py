"""Checkpoints: one file, tensors as numpy's ``.npz`` and the rest as JSON inside it; no pickle, renamed into place."""

from __future__ import annotations

import json
import os
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shrinkc.errors import RecipeError

FORMAT = "shrinkc.checkpoint/1"
FACTS = "facts"
TENSORS = "tensor/"


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Tensors by name, and plain facts."""

    tensors: Mapping[str, torch.Tensor]
    facts: Mapping[str, Any]


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write beside the target and rename into place."""
    arrays: dict[str, np.ndarray] = {}
    halves = [name for name, tensor in checkpoint.tensors.items() if tensor.dtype == torch.bfloat16]
    for name, tensor in checkpoint.tensors.items():
        stored = tensor.detach().cpu()
        # numpy has no bfloat16
        arrays[TENSORS + name] = (stored.view(torch.int16) if name in halves else stored).numpy()
    facts = json.dumps({"format": FORMAT, "bfloat16": halves, **checkpoint.facts})
    arrays[FACTS] = np.frombuffer(facts.encode(), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        draft = Path(folder) / "draft.npz"
        with draft.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, path)


def load(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises
    ------
    RecipeError
        The file is none.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        facts = json.loads(arrays.pop(FACTS).tobytes())
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise RecipeError("the checkpoint cannot be read", where=str(path), because=str(error), hint="delete it") from error
    if facts.get("format") != FORMAT:
        raise RecipeError("the checkpoint is of another version", where=str(path), because=str(facts.get("format")))
    tensors = {name.removeprefix(TENSORS): torch.from_numpy(array) for name, array in arrays.items()}
    for name in facts["bfloat16"]:
        tensors[name] = tensors[name].view(torch.bfloat16)
    return Checkpoint(tensors, facts)


def under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors below a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def named(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors with a prefix."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


@dataclass
class Checkpoints:
    """Writes a checkpoint now and then.

    Attributes
    ----------
    path : Path or None
        None never writes.
    fingerprint : str
        Of model, data and settings: a checkpoint of other ones is refused.
    every_s : float
        Least time between two, in seconds.
    """

    path: Path | None = None
    fingerprint: str = ""
    every_s: float = 20.0
    _last: float = field(default_factory=time.monotonic)

    def found(self) -> Checkpoint | None:
        """The one to go on from, if there is one.

        Raises
        ------
        RecipeError
            It belongs to another run.
        """
        if self.path is None or not self.path.exists():
            return None
        checkpoint = load(self.path)
        if checkpoint.facts.get("fingerprint") != self.fingerprint:
            raise RecipeError(
                "the checkpoint belongs to another run",
                where=str(self.path),
                because="model, data or settings differ",
                hint="delete it, or name another file",
            )
        return checkpoint

    def offer(self, made: Callable[[], Checkpoint]) -> None:
        """Write one if it is time."""
        if self.path is not None and time.monotonic() - self._last >= self.every_s:
            self.write(made())

    def write(self, checkpoint: Checkpoint) -> None:
        """Write one."""
        if self.path is not None:
            save(self.path, Checkpoint(checkpoint.tensors, {**checkpoint.facts, "fingerprint": self.fingerprint}))
            self._last = time.monotonic()
