"""Operators of onnxruntime's own domain that exporters and graph optimizers write."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from shrinkc.training.ops.attention import merge_heads, split_heads
from shrinkc.training.ops.call import Call, Function, Table
from shrinkc.training.ops.convolution import conv
from shrinkc.training.ops.products import gemm

op = Table("com.microsoft")
standard = Table()
op.plain(Gelu=F.gelu, Inverse=lambda x: torch.linalg.inv(x), BiasGelu=lambda x, bias: F.gelu(x + bias))


@op("FastGelu")
def fast_gelu(call: Call) -> Function:
    """The tanh formula, after a bias if there is one."""
    return lambda x, bias=None: F.gelu(x if bias is None else x + bias, approximate="tanh")


@op("QuickGelu")
def quick_gelu(call: Call) -> Function:
    """The product x sigmoid(alpha x)."""
    alpha = call.number("alpha", 1.702)
    return lambda x: x * torch.sigmoid(alpha * x)


@op("FusedMatMul")
def fused_matmul(call: Call) -> Function:
    """Matrix product, either side transposed first, times a factor."""
    alpha, flip_a, flip_b = call.number("alpha", 1.0), call.integer("transA"), call.integer("transB")
    batch_a, batch_b = call.integer("transBatchA"), call.integer("transBatchB")

    def run(a: Tensor, b: Tensor) -> Tensor:
        a = _laid_out(a, batch_a, flip_a)
        b = _laid_out(b, batch_b, flip_b)
        return torch.matmul(a, b) if alpha == 1 else alpha * torch.matmul(a, b)

    return run


def _laid_out(x: Tensor, is_batch_last: int, is_flipped: int) -> Tensor:
    """Batch axes first (they may lie between rows and columns), rows and columns in order."""
    x = x.movedim(0, -2) if is_batch_last else x
    return x.transpose(-1, -2) if is_flipped and x.dim() > 1 else x


ACTIVATIONS: dict[str, Function] = {"Relu": torch.relu, "Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "": lambda x: x}


def _activation(call: Call) -> Function:
    name = call.text("activation")
    numbers = call.numbers("activation_params") or []
    if name == "LeakyRelu":
        slope = numbers[0] if numbers else call.number("activation_alpha", 0.01)
        return lambda x: F.leaky_relu(x, slope)
    if name == "Clip":
        return lambda x: torch.clamp(x, numbers[0], numbers[1])
    if name == "HardSigmoid":
        return lambda x: torch.clamp(numbers[0] * x + numbers[1], 0, 1)
    return ACTIVATIONS[name]


@op("FusedConv")
def fused_conv(call: Call) -> Function:
    """Convolution, a sum, an activation."""
    convolve, activate = conv(call), _activation(call)

    def run(x: Tensor, w: Tensor, b: Tensor | None = None, z: Tensor | None = None) -> Tensor:
        y = convolve(x, w, b)
        result: Tensor = activate(y if z is None else y + z)
        return result

    return run


@op("FusedGemm")
def fused_gemm(call: Call) -> Function:
    """Gemm and an activation."""
    multiply, activate = gemm(call), _activation(call)
    return lambda a, b, c=None: activate(multiply(a, b, c))


@standard("SimplifiedLayerNormalization")
def simplified_layer_norm(call: Call) -> Function:
    """By the root of the mean square; onnxruntime's, in the standard domain."""
    axis, epsilon = call.integer("axis", -1), call.number("epsilon", 1e-5)
    return lambda x, scale: F.rms_norm(x, x.shape[axis:], scale, epsilon)


@op("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
def skip_layer_norm(call: Call) -> Function:
    """Normalised sum of the input, the shortcut and a bias; the sum itself is the fourth output."""
    epsilon, is_simple, wants_sum = call.number("epsilon", 1e-12), "Simplified" in call.node.op_type, call.n_outputs > 1

    def run(
        x: Tensor, skip: Tensor, gamma: Tensor, beta: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor | tuple[Tensor | None, ...]:
        if is_simple:  # it has no beta: the bias is the fourth input
            beta, bias = None, beta
        total = x + skip if bias is None else x + skip + bias
        shape = total.shape[-1:]
        y = F.rms_norm(total, shape, gamma, epsilon) if is_simple else F.layer_norm(total, shape, gamma, beta, epsilon)
        return (y, None, None, total) if wants_sum else y

    return run


@op("EmbedLayerNormalization")
def embed_layer_norm(call: Call) -> Function:
    """Embeddings of words, positions and segments, summed and normalised; lengths of the mask as second output."""
    epsilon = call.number("epsilon", 1e-12)

    def run(
        ids: Tensor, segments: Tensor | None, words: Tensor, positions: Tensor, kinds: Tensor | None, gamma: Tensor,
        beta: Tensor, mask: Tensor | None = None, places: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        at = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape) if places is None else places.long()
        total = F.embedding(ids.long(), words) + F.embedding(at, positions)
        if segments is not None and kinds is not None:
            total = total + F.embedding(segments.long(), kinds)
        y = F.layer_norm(total, total.shape[-1:], gamma, beta, epsilon)
        lengths = ids.new_zeros(ids.shape[0]) if mask is None else mask.sum(1)
        return y, lengths.to(torch.int32), total

    return run


@op("MultiHeadAttention")
def multi_head_attention(call: Call) -> Function:
    """Attention over projected inputs of three axes; packed projections and keys of four axes too."""
    heads, is_causal = call.integer("num_heads"), bool(call.integer("unidirectional"))
    scale = call.number("scale") if call.number("scale") else None
    wants_cache = call.n_outputs > 1

    def run(
        q: Tensor, k: Tensor | None = None, v: Tensor | None = None, bias: Tensor | None = None, padding: Tensor | None = None,
        scores: Tensor | None = None, past_k: Tensor | None = None, past_v: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, ...]:  # fmt: skip
        q, k, v = _projected(q, k, v, bias, heads)
        if past_k is not None and past_v is not None:
            k, v = torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)
        y = merge_heads(_attended(q, k, v, padding, scores, is_causal, scale))
        return (y, k, v) if wants_cache else y

    return run


def _projected(q: Tensor, k: Tensor | None, v: Tensor | None, bias: Tensor | None, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values by heads, from any of the forms the operator takes."""
    if k is None:  # (N, length, heads, 3, size)
        q, k, v = (part.squeeze(3).flatten(2) for part in torch.split(q, 1, 3))
    elif v is None:  # keys and values packed: (N, length, heads, 2, size)
        k, v = (part.squeeze(3).flatten(2) for part in torch.split(k, 1, 3))
    if bias is not None and v is not None:
        widths = [q.shape[-1], q.shape[-1], bias.shape[0] - 2 * q.shape[-1]]
        bq, bk, bv = torch.split(bias, widths)
        q = q + bq
        k, v = (k + bk, v + bv) if k.dim() == 3 else (k, v)
    assert v is not None
    return split_heads(q, heads), split_heads(k, heads), split_heads(v, heads)


def _attended(
    q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None, scores: Tensor | None, is_causal: bool, scale: float | None
) -> Tensor:
    mask = scores
    if padding is not None:
        allowed = _allowed_keys(padding, k.shape[2])
        mask = torch.zeros((), dtype=q.dtype, device=q.device) if mask is None else mask
        mask = torch.where(allowed, mask, torch.full_like(mask, torch.finfo(q.dtype).min))
    if is_causal:
        earlier = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(k.shape[2] - q.shape[2])
        mask = torch.zeros((), dtype=q.dtype, device=q.device) if mask is None else mask
        mask = torch.where(earlier, mask, torch.full_like(mask, -torch.inf))
    return F.scaled_dot_product_attention(q, k, v, mask, scale=scale)


def _allowed_keys(padding: Tensor, keys: int) -> Tensor:
    """Which keys count, from lengths (N), a mask of keys (N, keys), or of queries and keys (N, queries, keys)."""
    if padding.dim() == 1:
        return torch.arange(keys, device=padding.device) < padding.reshape(-1, 1, 1, 1)
    return (padding[:, None, None, :] if padding.dim() == 2 else padding[:, None]) != 0


@op("GroupQueryAttention")
def group_query_attention(call: Call) -> Function:
    """Causal attention of queries whose heads share keys, with a cache; positions that are turned inside are not supported."""
    heads, key_heads = call.integer("num_heads"), call.integer("kv_num_heads")
    scale = call.number("scale") if call.number("scale") else None

    def run(
        q: Tensor, k: Tensor | None, v: Tensor | None, past_k: Tensor | None, past_v: Tensor | None, last: Tensor,
        total: Tensor, *rotary: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        if k is None or v is None or call.integer("do_rotary"):
            raise NotImplementedError("GroupQueryAttention with packed inputs or rotary positions")
        queries, keys, values = split_heads(q, heads), split_heads(k, key_heads), split_heads(v, key_heads)
        if past_k is not None and past_v is not None:
            keys, values = torch.cat([past_k, keys], 2), torch.cat([past_v, values], 2)
        repeat = heads // key_heads
        full = keys.repeat_interleave(repeat, 1), values.repeat_interleave(repeat, 1)
        y = _attended(queries, *full, None, None, True, scale)
        return merge_heads(y), keys, values

    return run


@op("Attention")
def attention(call: Call) -> Function:
    """Projection to queries, keys and values in one product, and attention."""
    heads, is_causal = call.integer("num_heads"), bool(call.integer("unidirectional"))
    scale = call.number("scale") if call.number("scale") else None
    widths = call.integers("qkv_hidden_sizes")

    def run(
        x: Tensor, w: Tensor, b: Tensor | None = None, padding: Tensor | None = None, past: Tensor | None = None,
        scores: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        if past is not None:
            raise NotImplementedError("Attention of com.microsoft with a cache")
        y = torch.matmul(x, w) if b is None else torch.matmul(x, w) + b
        q, k, v = (split_heads(part, heads) for part in torch.split(y, widths or [w.shape[1] // 3] * 3, -1))
        return merge_heads(_attended(q, k, v, padding, scores, is_causal, scale))

    return run


OPS = {**op.ops, **standard.ops}
