"""Where a run writes, and that it writes over nothing it reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shrinkc.errors import RecipeError


@dataclass(frozen=True)
class Artifacts:
    """Where a run writes.

    Attributes
    ----------
    output : Path
        The compressed model; report and recipe lie beside it under the same stem.
    plan : Path or None
    checkpoint : Path or None
        Of the recovery.
    """

    output: Path
    plan: Path | None
    checkpoint: Path | None = None

    def written(self) -> list[Path]:
        """Every file a run may write."""
        results = [".onnx.data", ".report.json", ".report.md", ".recipe.json", ".rejected.onnx"]
        plan = self.plan or self.beside(".plan.json")
        progress = [] if self.checkpoint is None else [self.checkpoint]
        return [self.output, plan, *progress, *(self.beside(suffix) for suffix in results)]

    def beside(self, suffix: str) -> Path:
        """Path of the output with another suffix."""
        return self.output.with_name(self.output.name.removesuffix(".onnx") + suffix)


def check_paths(artifacts: Artifacts, read: Sequence[Path | None]) -> None:
    """Refuse to write over anything that is read, or over another result.

    Raises
    ------
    RecipeError
    """
    if artifacts.output.suffix != ".onnx":
        raise RecipeError("the output must be an .onnx file", where=str(artifacts.output))
    taken = {path.resolve(): "is read by this run" for path in read if path is not None}
    for path in artifacts.written():
        if path.resolve() in taken:
            raise RecipeError(
                f"a result would overwrite a file that {taken[path.resolve()]}", where=str(path), hint="choose another name"
            )
        if path.is_dir() or any(parent.exists() and not parent.is_dir() for parent in path.parents):
            raise RecipeError("a result cannot be written there", where=str(path), because="a folder or file is in the way")
        taken[path.resolve()] = "this run writes too"
