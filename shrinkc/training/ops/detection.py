"""Boxes: which to keep of those that overlap."""

from __future__ import annotations

import torch
from torch import Tensor

from shrinkc.training.ops.call import Call, Function, Table

op = Table()
OPS = op.ops


@op("NonMaxSuppression")
def non_max_suppression(call: Call) -> Function:
    """For every sample and class, the best boxes that overlap no better one too much."""
    is_centred = bool(call.integer("center_point_box"))

    def run(
        boxes: Tensor, scores: Tensor, most: Tensor | None = None, overlap: Tensor | None = None, least: Tensor | None = None
    ) -> Tensor:
        limit = 0 if most is None else int(most)
        allowed = 0.0 if overlap is None else float(overlap)
        lowest = -torch.inf if least is None else float(least)
        found = []
        for batch in range(scores.shape[0]):
            corners = _corners(boxes[batch].detach().cpu(), is_centred)
            for label in range(scores.shape[1]):
                for index in _kept(corners, scores[batch, label].detach().cpu(), limit, allowed, lowest):
                    found.append([batch, label, index])
        return torch.tensor(found, dtype=torch.int64, device=boxes.device).reshape(-1, 3)

    return run


def _corners(boxes: Tensor, is_centred: bool) -> Tensor:
    """Boxes as (low y, low x, high y, high x)."""
    if is_centred:
        x, y, w, h = boxes.unbind(-1)
        return torch.stack([y - h / 2, x - w / 2, y + h / 2, x + w / 2], -1)
    return torch.cat([torch.minimum(boxes[:, :2], boxes[:, 2:]), torch.maximum(boxes[:, :2], boxes[:, 2:])], -1)


def _kept(corners: Tensor, scores: Tensor, limit: int, allowed: float, lowest: float) -> list[int]:
    order = torch.argsort(scores, descending=True, stable=True)
    order = order[scores[order] > lowest]
    kept: list[int] = []
    while len(order) and len(kept) < limit:
        best = int(order[0])
        kept.append(best)
        order = order[1:]
        order = order[_overlap(corners[best], corners[order]) <= allowed]
    return kept


def _overlap(box: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of a box with others."""
    sides = (torch.minimum(box[2:], others[:, 2:]) - torch.maximum(box[:2], others[:, :2])).clamp(min=0)
    common = sides.prod(-1)
    area = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(-1)
    union = area - common
    return torch.where(union > 0, common / union, torch.zeros_like(union))
