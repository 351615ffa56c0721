"""Opening a model: reading it, fixing its shapes, and finding what may be removed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from shrinkc import ir as shrinkc_ir
from shrinkc import registry, shapes
from shrinkc.analysis.cost import Cost, CostModel
from shrinkc.analysis.groups import Analysis, analyse
from shrinkc.analysis.labels import Shape
from shrinkc.canonicalize import drop_unused
from shrinkc.evidence import data as evidence_data
from shrinkc.evidence.data import Data
from shrinkc.files import sha256
from shrinkc.inlining import inline_functions
from shrinkc.log import Progress
from shrinkc.recipe import Recipe


@dataclass(frozen=True)
class Opened:
    """A model, analysed.

    ``assumed`` names the inputs with free sizes besides the batch that neither the user nor the data gave; ``inlined`` the
    local functions whose bodies were put in the place of their calls; ``merged`` the layers whose factors were put back
    together.
    """

    path: Path
    model: ir.Model
    sha256: str
    size_bytes: int
    shapes: dict[str, Shape]
    assumed: tuple[str, ...]
    inlined: tuple[str, ...]
    analysis: Analysis
    cost: CostModel
    merged: tuple[str, ...] = ()

    @property
    def has_data_file(self) -> bool:
        """Whether weights are stored beside the model file."""
        return bool(data_files(self.path, self.model))


@contextmanager
def loaded(source: Path, progress: Progress) -> Iterator[ir.Model]:
    """The model; a large single file is spilled to a temporary folder, which goes again."""
    with tempfile.TemporaryDirectory(prefix="shrinkc-") as work:
        with progress.stage("reading the model"):
            model = shrinkc_ir.load(source, Path(work))
        yield model


Merge = Callable[[ir.Model, dict[str, Shape]], tuple[str, ...]]
"""Puts factors of a model back together, in place, at the shapes of its inputs."""


def open_model(
    path: Path, recipe: Recipe, data: Data | None, model: ir.Model, progress: Progress, merge: Merge | None = None
) -> Opened:
    """Inline a loaded model's functions, drop its dead nodes, both in place, and analyse it at the right shapes."""
    inlined = inline_functions(model)
    if recipe.optimize:
        drop_unused(model)  # they would go in the end, and a plan should not name what is not there any more
    given = _given_shapes(model, recipe, data)
    sizes = shapes.input_shapes(model, given)
    merged = () if merge is None else merge(model, sizes)
    with progress.stage("analysing channels"):
        rules, kinds = registry.operator_rules(), recipe.kinds()
        analysis = analyse(
            model,
            sizes,
            rules,
            exclude=recipe.exclude,
            include=recipe.include,
            kinds=kinds,
            independent_groups=recipe.independent_groups,
        )
    size = file_bytes(path, model)
    cost = CostModel(analysis, max(0, size - shrinkc_ir.size_bytes(model)))
    assumed = tuple(name for name in shapes.with_free_sizes(model) if name not in given)
    return Opened(path, model, sha256(path), size, sizes, assumed, inlined, analysis, cost, merged)


def analysed(model: ir.Model, data: Data) -> Analysis:
    """Channels of a model as it is, at the shapes of its data."""
    return analyse(model, shapes.input_shapes(model, _shapes_of(model, data)), registry.operator_rules())


def counted_cost(model: ir.Model, sizes: dict[str, Shape]) -> Cost:
    """Cost of a model as it is, counted anew; its bytes are those of its tensors."""
    return CostModel(analyse(model, sizes, registry.operator_rules())).dense()


def _given_shapes(model: ir.Model, recipe: Recipe, data: Data | None) -> dict[str, Shape]:
    return {**(_shapes_of(model, data) if data is not None else {}), **(recipe.input_shapes or {})}


def _shapes_of(model: ir.Model, data: Data) -> dict[str, Shape]:
    batch = evidence_data.fixed_batch(model) or 1
    return {name: (batch, *array.shape[1:]) for name, array in data.inputs.items()}


def file_bytes(path: Path, model: ir.Model) -> int:
    """Bytes of a model on disk, external data included (a spilled model counts as the one file it came from)."""
    return path.stat().st_size + sum(file.stat().st_size for file in data_files(path, model))


def data_files(path: Path, model: ir.Model) -> list[Path]:
    """Files beside a model that hold its weights."""
    folder = path.parent.resolve()
    external = {Path(str(tensor.path)).resolve() for tensor in shrinkc_ir.external_tensors(model)}
    return sorted(file for file in external if file.is_relative_to(folder))
