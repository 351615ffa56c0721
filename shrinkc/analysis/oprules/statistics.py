"""Outputs of a normalisation besides what it normalised."""

from __future__ import annotations

import onnx_ir as ir

from shrinkc.analysis.flow import Flow
from shrinkc.analysis.labels import Labels, labelled_axes


def assign_with_statistics(flow: Flow, node: ir.Node, labels: Labels, axes: list[int]) -> None:
    """Label the normalised output, the sum that was normalised, and mean and deviation over ``axes``.

    Over channels the latter two have none of their own.
    """
    mixes = any(axis in axes for axis in labelled_axes(labels))
    for place, output in enumerate(node.outputs):
        is_statistic = place in (1, 2) and mixes
        flow.assign(output, flow.opaque(labels.ndim, node, "it is a statistic over channels") if is_statistic else labels)
