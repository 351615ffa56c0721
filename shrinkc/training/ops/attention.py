"""Attention and rotary positions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from shrinkc.training.ops.call import Call, Function, Table

op = Table()
OPS = op.ops


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(N, length, heads * size) as (N, heads, length, size); four axes stay as they are."""
    return x if x.dim() == 4 else x.reshape(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(N, heads, length, size) as (N, length, heads * size)."""
    return x.transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class Settings:
    """Attributes of an Attention node."""

    query_heads: int
    key_heads: int
    scale: float | None
    softcap: float
    is_causal: bool
    left: int
    right: int
    output_mode: int
    precision: torch.dtype | None

    @classmethod
    def of(cls, call: Call) -> Settings:
        """Attributes of a node."""
        return cls(
            call.integer("q_num_heads"),
            call.integer("kv_num_heads"),
            call.number("scale") if call.has("scale") else None,
            call.number("softcap"),
            bool(call.integer("is_causal")),
            call.integer("left_window_size", -1),
            call.integer("right_window_size", -1),
            call.integer("qk_matmul_output_mode"),
            call.dtype("softmax_precision"),
        )

    @property
    def is_usual(self) -> bool:
        """Whether torch's own attention does the same."""
        return not (self.softcap or self.precision) and self.left < 0 and self.right < 0


@op("Attention")
def attention(call: Call) -> Function:
    """Scaled dot products, with caches, masks, windows and grouped heads."""
    settings, wants_scores = Settings.of(call), call.has_output(3)
    wants_cache = call.has_output(1) or call.has_output(2)

    def run(
        q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, past_k: Tensor | None = None,
        past_v: Tensor | None = None, lengths: Tensor | None = None,
    ) -> Tensor | tuple[Tensor | None, ...]:  # fmt: skip
        is_flat = q.dim() == 3
        q, k, v = split_heads(q, settings.query_heads), split_heads(k, settings.key_heads), split_heads(v, settings.key_heads)
        offset: int | Tensor = 0
        if past_k is not None and past_v is not None:
            offset = past_k.shape[2]
            k, v = torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)
        elif lengths is not None:
            offset = lengths.reshape(-1, 1, 1, 1) - q.shape[2]
        full_k, full_v = _grouped(k, q), _grouped(v, q)
        if settings.is_usual and not wants_scores:
            allowed = _allowed(q, k, settings, offset, lengths)
            y = F.scaled_dot_product_attention(q, full_k, full_v, _joined(mask, allowed, q, k), scale=settings.scale)
            scores = None
        else:
            y, scores = _by_hand(q, full_k, full_v, mask, _allowed(q, k, settings, offset, lengths), settings)
        y = merge_heads(y) if is_flat else y
        return (y, k, v, scores) if wants_cache or wants_scores else y

    return run


def _grouped(x: Tensor, q: Tensor) -> Tensor:
    repeat = q.shape[1] // x.shape[1]
    return x if repeat == 1 else x.repeat_interleave(repeat, 1)


def _allowed(q: Tensor, k: Tensor, settings: Settings, offset: int | Tensor, lengths: Tensor | None) -> Tensor | None:
    """Keys every query may look at, by cause, window and length; None for all."""
    keys = torch.arange(k.shape[2], device=q.device)
    at = torch.arange(q.shape[2], device=q.device)[:, None] + offset
    rules = []
    if settings.is_causal:
        rules.append(keys <= at)
    if settings.left >= 0:
        rules.append(keys >= at - settings.left)
    if settings.right >= 0:
        rules.append(keys <= at + settings.right)
    if lengths is not None:
        rules.append((keys < lengths.reshape(-1, 1, 1, 1)).expand(-1, 1, q.shape[2], -1))
    if not rules:
        return None
    result = rules[0]
    for rule in rules[1:]:
        result = result & rule
    return result


def _joined(mask: Tensor | None, allowed: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
    """Mask of both; a mask that is shorter than the keys forbids the rest."""
    if mask is None:
        return allowed
    missing = k.shape[2] - mask.shape[-1]
    if missing > 0 and mask.dtype == torch.bool:
        mask = F.pad(mask, (0, missing), value=0)
    elif missing > 0:
        mask = F.pad(mask, (0, missing), value=-torch.inf)
    if allowed is None:
        return mask if mask.dtype == torch.bool else mask.to(q.dtype)
    return mask & allowed if mask.dtype == torch.bool else mask.to(q.dtype).masked_fill(~allowed, -torch.inf)


def _by_hand(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, allowed: Tensor | None, settings: Settings
) -> tuple[Tensor, Tensor]:
    """The same step by step, for what torch's attention does not do or show."""
    scale = math.sqrt(settings.scale if settings.scale is not None else 1 / math.sqrt(q.shape[-1]))
    raw = torch.matmul(q * scale, k.transpose(-1, -2) * scale)
    capped = settings.softcap * torch.tanh(raw / settings.softcap) if settings.softcap else raw
    joined = _joined(mask, allowed, q, k)
    if joined is None:
        masked = capped
    elif joined.dtype == torch.bool:
        masked = capped.masked_fill(~joined, -torch.inf)
    else:
        masked = capped + joined
    weights = torch.softmax(masked, -1, dtype=settings.precision).to(q.dtype)
    weights = torch.where((masked == -torch.inf).all(-1, keepdim=True), torch.zeros_like(weights), weights)
    return torch.matmul(weights, v), (raw, capped, masked, weights)[settings.output_mode]


@op("RotaryEmbedding")
def rotary_embedding(call: Call) -> Function:
    """Pairs of entries turned by an angle that grows with the position."""
    heads, width = call.integer("num_heads"), call.integer("rotary_embedding_dim")
    is_interleaved = bool(call.integer("interleaved"))

    def run(x: Tensor, cos: Tensor, sin: Tensor, places: Tensor | None = None) -> Tensor:
        y = split_heads(x, heads)
        if places is not None:
            cos, sin = F.embedding(places.long(), cos), F.embedding(places.long(), sin)
        turned = rotated(y, cos[:, None], sin[:, None], width, is_interleaved)
        return turned if x.dim() == 4 else merge_heads(turned)

    return run


def rotated(x: Tensor, cos: Tensor, sin: Tensor, width: int, is_interleaved: bool) -> Tensor:
    """The first ``width`` entries (all, if zero) of ``x`` turned; the others stay."""
    head, rest = (x, None) if not width else (x[..., :width], x[..., width:])
    cos, sin = cos[..., : head.shape[-1] // 2], sin[..., : head.shape[-1] // 2]
    a, b = (head[..., 0::2], head[..., 1::2]) if is_interleaved else head.chunk(2, -1)
    parts = (a * cos - b * sin, b * cos + a * sin)
    turned = torch.stack(parts, -1).flatten(-2) if is_interleaved else torch.cat(parts, -1)
    return turned if rest is None else torch.cat([turned, rest], -1)
