"""Widths that a paper published for one model, looked up in a file of ``presets/``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import onnx_ir as ir

from shrinkc.api import Group, Problem, Role
from shrinkc.errors import RecipeError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = files("shrinkc.passes.allocators.presets")


@dataclass(frozen=True)
class Published:
    """One published list of widths.

    Attributes
    ----------
    model : str
        Which it is for.
    counts : str
        Which convolutions the lists count, in graph order: ``spatial``, those with kernels larger than 1x1; ``inner``, those
        that alone make the channels of a group (no shortcut ties theirs to another's).
    dense, kept : tuple of int
        Channels of every counted convolution, before and after.
    """

    model: str
    counts: str
    dense: tuple[int, ...]
    kept: tuple[int, ...]


class Preset:
    """Gives every convolution the width a paper gave it; all else stays whole.

    Parameters
    ----------
    name : str
        Of the list, ``li-resnet56-b`` say.

    Raises
    ------
    RecipeError
        There is none of that name.
    """

    name = "preset"
    needs_evidence = False
    is_prescription = True

    def __init__(self, name: str) -> None:
        self.preset, self.published = name, published(name)

    def widths(self, problem: Problem, pressure: float) -> dict[str, float]:
        """The published widths, whatever the pressure.

        Raises
        ------
        RecipeError
            The model is not the one they were published for.
        """
        own = _own_groups(problem.groups)
        counted = COUNTS[self.published.counts](problem.groups, own)
        self._check(counted)
        wanted = dict(zip(counted, zip(self.published.dense, self.published.kept, strict=True), strict=True))
        widths = {group.name: float(group.width) for group in problem.groups}
        for number, (node, (dense, kept)) in enumerate(wanted.items(), 1):
            if kept < dense:
                widths[self._group(own, node, number, dense).name] = float(kept)
        return widths

    def _check(self, counted: Sequence[ir.Node]) -> None:
        found = [_outputs(node) for node in counted]
        expected = list(self.published.dense)
        if len(found) != len(expected):
            raise self._misfit(f"{len(expected)} {DESCRIBED[self.published.counts]}", f"{len(found)}")
        for number, (want, have) in enumerate(zip(expected, found, strict=True), 1):
            if want != have:
                raise self._misfit(f"{want} channels in convolution {number}", f"{have} ({counted[number - 1].name})")

    def _group(self, own: dict[ir.Node, Group], node: ir.Node, number: int, dense: int) -> Group:
        group = own.get(node)
        if group is None or group.width != dense:
            raise self._misfit(
                f"{dense} channels that can go one by one in convolution {number}",
                "some are tied to other layers' or stay whole" if group is None else f"{group.width} ({node.name})",
            )
        return group

    def _misfit(self, expected: str, found: str) -> RecipeError:
        return RecipeError(
            f"the preset is for another model: {self.published.model}",
            where=f"preset:{self.preset}",
            because=f"it expects {expected}; found: {found}",
            hint="--allocator uniform with --prune-ratio or a budget fits any model",
        )


def names() -> list[str]:
    """Names of the presets."""
    return sorted(file.name.removesuffix(".toml") for file in FOLDER.iterdir() if file.name.endswith(".toml"))


def published(name: str) -> Published:
    """Widths by name; raises RecipeError where there are none."""
    if name not in names():
        raise RecipeError("no preset of that name", where=f"preset:{name}", hint=f"known: {', '.join(names())}")
    data = tomllib.loads(FOLDER.joinpath(f"{name}.toml").read_text(encoding="utf-8"))
    return Published(data["model"], data["counts"], tuple(data["dense"]), tuple(data["kept"]))


def _own_groups(groups: Iterable[Group]) -> dict[ir.Node, Group]:
    """Groups whose channels a single convolution makes, by that convolution."""
    found = {}
    for group in groups:
        makers = {member.use.node for member in group.members if member.role is Role.PRODUCES}
        if len(makers) == 1 and (maker := makers.pop()).op_type == "Conv":
            found[maker] = group
    return found


def _spatial(groups: Sequence[Group], own: dict[ir.Node, Group]) -> list[ir.Node]:
    """Convolutions of the graph with kernels larger than 1x1."""
    nodes = _graph_nodes(groups)
    return [node for node in nodes if node.op_type == "Conv" and int(np.prod(_weight_shape(node)[2:])) > 1]


def _inner(groups: Sequence[Group], own: dict[ir.Node, Group]) -> list[ir.Node]:
    """Convolutions that alone make the channels of a group."""
    return [node for node in _graph_nodes(groups) if node in own]


COUNTS: dict[str, Callable[[Sequence[Group], dict[ir.Node, Group]], list[ir.Node]]] = {"spatial": _spatial, "inner": _inner}

DESCRIBED = {
    "spatial": "convolutions with kernels larger than 1x1",
    "inner": "convolutions whose channels are not tied to another's",
}


def _graph_nodes(groups: Sequence[Group]) -> list[ir.Node]:
    """Nodes of the graph in order."""
    graph = groups[0].members[0].use.node.graph if groups else None
    return [] if graph is None else list(graph)


def _outputs(node: ir.Node) -> int:
    return _weight_shape(node)[0]


def _weight_shape(node: ir.Node) -> tuple[int, ...]:
    """Shape of a convolution's weight; zeros where the graph does not say."""
    weight = node.inputs[1]
    stored = None if weight is None else weight.const_value
    shape = stored.shape if stored is not None else None if weight is None else weight.shape
    return (0, 0, 0) if shape is None else tuple(size if isinstance(size, int) else 0 for size in shape)
