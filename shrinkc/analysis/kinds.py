"""What kind of channels a group holds, and which kinds are removed unless the user says otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import numpy as np
import onnx_ir as ir

from shrinkc.analysis.flow import Flow, Heads
from shrinkc.analysis.labels import Labels
from shrinkc.analysis.oprules.elementwise import NARY
from shrinkc.errors import RecipeError


class Kind(Enum):
    """Kinds of channels that can be switched on and off.

    ``CONV`` and ``MLP`` are channels inside a network's blocks, made by a convolution or by anything else; ``HEADS`` are
    whole attention heads, ``HEAD_DIM`` the dims inside them; ``STREAM`` is what a normalisation over channels reads and
    several layers add to, the residual stream of a transformer.
    """

    CONV = "conv"
    MLP = "mlp"
    HEADS = "heads"
    HEAD_DIM = "head-dim"
    STREAM = "stream"


DEFAULT_KINDS = frozenset({Kind.CONV, Kind.MLP, Kind.HEADS})
"""A normalised stream is left whole by default: every layer reads it, and the normalisation sees what is missing."""

NORMALISATIONS = frozenset(
    {
        "LayerNormalization",
        "LpNormalization",
        "MeanVarianceNormalization",
        "RMSNormalization",
        "SimplifiedLayerNormalization",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
    }
)
ROOTS = frozenset({"Sqrt", "Reciprocal", "Pow", "ReduceL2"})
DEPTH = 4
"""How many nodes after a mean a written-out normalisation takes its root."""


def parse_kinds(text: str) -> frozenset[Kind]:
    """Kinds from a comma-separated list.

    Raises
    ------
    RecipeError
        A name is none of them.

    Examples
    --------
    >>> sorted(kind.value for kind in parse_kinds("heads,mlp"))
    ['heads', 'mlp']
    """
    known = [kind.value for kind in Kind]
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise RecipeError("no such kind of channels", where=f"--prune {name}", hint=f"known: {', '.join(known)}")
    if not names:
        raise RecipeError("no kind of channels is named", where="--prune", hint=f"known: {', '.join(known)}")
    return frozenset(Kind(name) for name in names)


def is_attention(flow: Flow, heads: Heads) -> bool:
    """Whether heads come from a product of two computed matrices."""
    computed = [value for value in heads.node.inputs if value is not None and not flow.is_constant(value)]
    return len(computed) > 1 and heads.node.op_type not in NARY


def attention_heads(flow: Flow) -> list[bool]:
    """Whether each of the flow's heads are heads of an attention: by themselves, or as they stand for the same rows."""
    classes = flow.space.classes()
    labels = [set(np.concatenate([classes[heads.heads], classes[heads.rows].ravel()]).tolist()) for heads in flow.heads]
    found = [is_attention(flow, heads) for heads in flow.heads]
    reached = set().union(*(own for own, is_found in zip(labels, found, strict=True) if is_found))
    for number, own in enumerate(labels):  # in the order of the graph: a norm per head comes before what it feeds
        found[number] = found[number] or not reached.isdisjoint(own)
    return found


def normalised_labels(flow: Flow) -> Labels:
    """Labels that a normalisation over channels reads, written as one node or spelt out."""
    found = [np.empty(0, np.int64)]
    for mixing in flow.mixings:
        value = mixing.node.inputs[mixing.input_index]
        if value is not None and _normalises_channels(flow, mixing.node):
            found.append(np.unique(flow.labels[value]))
    return np.concatenate(found)


def _normalises_channels(flow: Flow, node: ir.Node) -> bool:
    if node.op_type in ("InstanceNormalization", "GroupNormalization"):  # of one group, it is over all channels
        groups = node.attributes["num_groups"].as_int() if "num_groups" in node.attributes else flow.shape(node.inputs[0])[1]
        return groups == 1
    return node.op_type in NORMALISATIONS or is_spelt_out(node)


def is_spelt_out(node: ir.Node) -> bool:
    """Whether a reduction is the mean or the variance of a normalisation: a root of it is taken soon after."""
    if node.op_type in ("ReduceL2",):
        return True
    return node.op_type.startswith("Reduce") and _leads_to_root([node], DEPTH)


def _leads_to_root(nodes: Sequence[ir.Node], depth: int) -> bool:
    following = [user for node in nodes for output in node.outputs for user in output.consumers()]
    if any(user.op_type in ROOTS for user in following):
        return True
    return depth > 0 and bool(following) and _leads_to_root(following[:8], depth - 1)
