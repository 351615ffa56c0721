"""What is known of one node: which of its channels can go, and what keeps the others."""

from __future__ import annotations

import fnmatch
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from shrinkc import recipe as recipes
from shrinkc.analysis.groups import NO_PRODUCER, Analysis
from shrinkc.analysis.labels import Labels, labelled_axes
from shrinkc.analysis.remedies import remedy
from shrinkc.errors import RecipeError
from shrinkc.log import Progress, Silent
from shrinkc.opening import loaded, open_model


@dataclass(frozen=True)
class Axis:
    """Channels along one axis of one tensor a node reads or gives.

    Attributes
    ----------
    place : str
        ``input 1 (conv.weight)`` or ``output 0 (y)``.
    axis, size : int
    state : str
        ``prunable in GROUP`` or the reason why they stay.
    channels : int
        Along this axis, of which ``state`` is true.
    remedy : str
    """

    place: str
    axis: int
    size: int
    state: str
    channels: int
    remedy: str


@dataclass(frozen=True)
class Explanation:
    """Everything known of one node."""

    node: str
    op_type: str
    axes: tuple[Axis, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data, schema first."""
        return {"schema": "shrinkc.explanation/1", **asdict(self)}


def explain(
    model: str | os.PathLike[str],
    node: str,
    *,
    input_shapes: dict[str, tuple[int, ...]] | None = None,
    prune: str | None = None,
    progress: Progress | None = None,
) -> Explanation:
    """Say of one node which channels can go and why the others stay.

    Parameters
    ----------
    model : path
    node : str
        Name of the node or of one of its outputs; shell patterns may be used if only one node fits.
    input_shapes, prune
        See :func:`shrinkc.compress`.
    progress : Progress, optional

    Raises
    ------
    RecipeError
        No node, or more than one, fits.
    """
    recipe, reporter = recipes.resolve(input_shapes=input_shapes, prune=prune), progress or Silent()
    with loaded(Path(model), reporter) as opened_model:
        opened = open_model(Path(model), recipe, None, opened_model, reporter)
        found = _find(opened.model, node)
        return Explanation(found.name or node, found.op_type, tuple(_axes(opened.analysis, found)))


def _find(model: ir.Model, wanted: str) -> ir.Node:
    names = {node: [node.name or "", *(output.name or "" for output in node.outputs)] for node in model.graph}
    exact = [node for node, own in names.items() if wanted in own]
    fitting = exact or [node for node, own in names.items() if any(fnmatch.fnmatchcase(name, wanted) for name in own)]
    if len(fitting) != 1:
        several = ", ".join(node.name or node.op_type for node in fitting[:4])
        because = f"{len(fitting)} nodes fit: {several}" if fitting else "no node or output has that name"
        raise RecipeError("--why needs one node", where=wanted, because=because, hint="`shrinkc inspect MODEL` names nodes")
    return fitting[0]


def _axes(analysis: Analysis, node: ir.Node) -> Iterator[Axis]:
    for index, value in enumerate(node.inputs):
        if value is not None:
            yield from _value_axes(analysis, value, f"input {index} ({value.name})")
            yield from _stored_axes(analysis, node, index, value)
    for index, value in enumerate(node.outputs):
        yield from _value_axes(analysis, value, f"output {index} ({value.name})")


def _value_axes(analysis: Analysis, value: ir.Value, place: str) -> Iterator[Axis]:
    classes, shape = analysis.classes_of(value), analysis.shadow.shape(value)
    if classes is None or shape is None:
        return
    for axis in labelled_axes(classes) or range(min(1, classes.ndim)):
        others = tuple(other for other in range(classes.ndim) if other != axis)
        along = classes.transpose([axis, *others]).reshape(classes.shape[axis], -1)[:, 0]
        yield from _states(analysis, place, axis, shape[axis], along)


def _stored_axes(analysis: Analysis, node: ir.Node, index: int, value: ir.Value) -> Iterator[Axis]:
    for cut in analysis.cuts:
        if cut.reader is node and cut.use.input_index == index:
            place = f"input {index} ({cut.use.tensor.name})"
            yield from _states(analysis, place, cut.axis, len(cut.classes), cut.classes)


def _states(analysis: Analysis, place: str, axis: int, size: int, classes: Labels) -> Iterator[Axis]:
    owner = {int(index): group for group in analysis.groups for index in group.classes}
    counts: Counter[tuple[str, str]] = Counter()
    for index in np.asarray(classes).tolist():
        group = owner.get(index)
        if group is not None:
            counts[(f"prunable in {group.name} ({group.kind.value})", "")] += 1
            continue
        blocker = analysis.frozen.get(index, NO_PRODUCER)
        where = f", at {blocker.op_type} {blocker.node}" if blocker.node else ""
        counts[(f"stays: {blocker.reason}{where}", remedy(blocker))] += 1
    for (state, advice), channels in counts.most_common():
        yield Axis(place, axis, size, state, channels, advice)
