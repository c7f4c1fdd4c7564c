"""Operations that torch does slowly on a CPU: dropout, attention over short sequences, some products, tied embeddings.

- Torch takes a hundred times longer to draw a dropout mask on a CPU than to multiply by it. Here one draw of 64 bits decides
  four entries. Attention with dropout is written out here for the same reason.
- Linear layers use oneDNN's matrix products on AMD processors with AVX-512, where MKL's are slower, and compute the bias
  gradient as a product.

Where `is_used` is False, the functions here call torch's own.

Legend: B batch, L keys, Q queries (Q < L where a last layer computes some rows only), D width, H heads, N rows.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

ENABLED = True  # False: the plain path of torch everywhere, for comparison
LEVELS = 2**16
NARROWEST = 512  # side of a linear layer's weight; below, oneDNN's products are no faster
ONEDNN_LINEAR = getattr(torch.ops.mkldnn, "_linear_pointwise", None)  # None in a torch without oneDNN


def is_used(*tensors: Tensor) -> bool:
    """True where the CPU path is taken: all tensors are float32 on a CPU, and torch.compile is not tracing."""
    return (
        ENABLED
        and not torch.compiler.is_compiling()
        and all(
            t.device.type == "cpu" and t.dtype == torch.float32 and type(t) in (Tensor, nn.Parameter) for t in tensors
        )
    )


def draw_bits(shape: torch.Size) -> Tensor:
    """int16 random numbers of this shape, from NumPy's SFC64 (twice as fast as torch), seeded by torch's generator."""
    count = math.prod(shape)
    seed = int(torch.empty((), dtype=torch.int64).random_())
    words = np.random.SFC64(seed).random_raw(-(-count // 4))
    return torch.from_numpy(words.view(np.int16)[:count]).view(shape)


def add_kept(residual: Tensor, rows: Tensor, bits: Tensor, dropout: float) -> Tensor:
    """residual + rows / (1 - p) where an entry stays, residual where it is dropped; p: `dropout` to 1 / 65,536."""
    dropped = round(dropout * LEVELS)
    keep = torch.empty(bits.shape)
    torch.ge(bits, dropped - LEVELS // 2, out=keep)
    return torch.addcmul(residual, rows, keep, value=LEVELS / (LEVELS - dropped))


def kept(rows: Tensor, bits: Tensor, dropout: float) -> Tensor:
    """rows / (1 - p) where an entry stays, 0 where it is dropped."""
    return add_kept(torch.zeros(()), rows, bits, dropout)


class _DropoutAdd(Function):
    @staticmethod
    def forward(ctx, residual: Tensor, rows: Tensor, dropout: float) -> Tensor:
        bits = draw_bits(rows.shape)
        ctx.save_for_backward(bits)
        ctx.dropout = dropout
        return add_kept(residual, rows, bits, dropout)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        (bits,) = ctx.saved_tensors
        return grad, kept(grad, bits, ctx.dropout), None


def dropout_add(residual: Tensor, rows: Tensor, dropout: float) -> Tensor:
    """residual + dropout(rows), in one pass over memory."""
    if 0.0 < dropout < 1.0 and is_used(residual, rows):
        return _DropoutAdd.apply(residual, rows, dropout)
    return residual + F.dropout(rows, dropout)


class _Dropout(Function):
    @staticmethod
    def forward(ctx, rows: Tensor, dropout: float) -> Tensor:
        bits = draw_bits(rows.shape)
        ctx.save_for_backward(bits)
        ctx.dropout = dropout
        return kept(rows, bits, dropout)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (bits,) = ctx.saved_tensors
        return kept(grad, bits, ctx.dropout), None


def dropout(rows: Tensor, probability: float) -> Tensor:
    """Dropout with this probability, applied whatever the mode: pass 0 outside training."""
    if 0.0 < probability < 1.0 and is_used(rows):
        return _Dropout.apply(rows, probability)
    return F.dropout(rows, probability)


def attention(
    projected: Tensor, heads: int, key_mask: Tensor | None, dropout: float, query: Tensor | None = None
) -> Tensor:
    """Scaled dot-product attention of all heads.

    Args:
        projected: (B, L, 3D) queries, keys and values side by side; (B, L, 2D) keys and values where `query` is given.
        heads: H.
        key_mask: (B, 1, 1, L), or (B, 1, Q, L) where it differs by query; True = may be attended to. None: all may.
        dropout: of the attention weights; 0 outside training.
        query: (B, Q, D).

    Returns:
        (B, L, D), or (B, Q, D).
    """
    if 0.0 < dropout < 1.0 and is_used(projected):
        return _Attention.apply(projected, query, heads, key_mask, dropout)
    parts = projected.chunk(3, dim=-1) if query is None else (query, *projected.chunk(2, dim=-1))
    queries, keys, values = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)  # (B, H, L, D/H)
    mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=key_mask, dropout_p=dropout)
    return mixed.transpose(1, 2).flatten(2)


class _Attention(Function):
    @staticmethod
    def forward(ctx, projected, query, heads, key_mask, dropout):
        width = projected.shape[-1] // 3 if query is None else query.shape[-1]
        parts = split_heads(projected, width, heads)  # 3 or 2 of (B*H, L, D/H)
        query, key, value = parts if query is None else (*split_heads(query, width, heads), *parts)
        query = query.mul_(query.shape[-1] ** -0.5)
        scores = torch.bmm(query, key.transpose(1, 2))  # (B*H, Q, L)
        if key_mask is not None:
            bias = torch.zeros(key_mask.shape).masked_fill_(~key_mask, float("-inf"))
            scores.view(-1, heads, *scores.shape[1:]).add_(bias)
        weights = torch.softmax(scores, dim=-1)
        bits = draw_bits(weights.shape)
        mixed = torch.bmm(kept(weights, bits, dropout), value)
        ctx.save_for_backward(query, key, value, weights, bits)
        ctx.heads, ctx.dropout, ctx.parts = heads, dropout, len(parts)
        return join_heads([mixed], heads)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        query, key, value, weights, bits = ctx.saved_tensors
        (grad,) = split_heads(grad, grad.shape[-1], ctx.heads)
        grad_weights = kept(torch.bmm(grad, value.transpose(1, 2)), bits, ctx.dropout)
        grad_value = torch.bmm(kept(weights, bits, ctx.dropout).transpose(1, 2), grad)
        grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        grad_query = torch.bmm(grad_scores, key).mul_(query.shape[-1] ** -0.5)
        grad_key = torch.bmm(grad_scores.transpose(1, 2), query)
        if ctx.parts == 3:
            return join_heads([grad_query, grad_key, grad_value], ctx.heads), None, None, None, None
        return join_heads([grad_key, grad_value], ctx.heads), join_heads([grad_query], ctx.heads), None, None, None


def split_heads(padded: Tensor, width: int, heads: int) -> tuple[Tensor, ...]:
    """(B, L, P*D) -> P of (B*H, L, D/H), in one copy."""
    batch, length, columns = padded.shape
    split = padded.view(batch, length, columns // width, heads, width // heads).permute(2, 0, 3, 1, 4)
    return split.clone(memory_format=torch.contiguous_format).view(-1, batch * heads, length, width // heads).unbind()


def join_heads(parts: Sequence[Tensor], heads: int) -> Tensor:
    """P of (B*H, L, D/H) -> (B, L, P*D)."""
    rows, length, columns = parts[0].shape
    joined = parts[0].new_empty(rows // heads, length, len(parts), heads, columns)
    for target, part in zip(joined.permute(2, 0, 3, 1, 4), parts):
        target.copy_(part.view(target.shape))
    return joined.flatten(2)


def lookup(weight: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """`F.embedding`, and the weight again for a head that is tied to it.

    Both share one gradient buffer: the embedding's gradient is added in place to the one that comes back through the head.
    Separate gradients would be two tensors as large as the weight, one of them nearly all zeros, and their sum a third.
    The second output is for a head that multiplies by the weight; nothing else may hold its gradient.

    Args:
        weight: (V, D).
        ids: (B, T) int64.

    Returns:
        (B, T, D) and (V, D).
    """
    if is_used(weight):
        return _Lookup.apply(weight, ids)
    return F.embedding(ids, weight), weight


class _Lookup(Function):
    @staticmethod
    def forward(ctx, weight: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(ids)
        ctx.set_materialize_grads(False)
        ctx.shape = weight.shape
        return F.embedding(ids, weight), weight.view_as(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_rows: Tensor | None, grad_weight: Tensor | None) -> tuple[Tensor | None, None]:
        (ids,) = ctx.saved_tensors
        if grad_rows is None:
            return grad_weight, None
        if grad_weight is None:
            grad_weight = grad_rows.new_zeros(ctx.shape)
        return grad_weight.contiguous().index_add_(0, ids.flatten(), grad_rows.flatten(0, -2)), None


def linear(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(N, I), (O, I), (O,) -> (N, O): `F.linear`."""
    is_wide = min(weight.shape) >= NARROWEST and len(rows) > 0 and not torch.is_autocast_enabled("cpu")
    if is_wide and is_used(rows, weight, bias):
        return _Linear.apply(rows, weight, bias)
    return F.linear(rows, weight, bias)


@functools.cache
def prefers_onednn() -> bool:
    """True on AMD processors with AVX-512.

    Measured on one core of such an EPYC, 1,792 rows and widths of 768 to 3,072: oneDNN 101 to 106 GFLOP/s, MKL 84 to 97.
    """
    cpuinfo = Path("/proc/cpuinfo")
    is_amd = cpuinfo.is_file() and "AuthenticAMD" in cpuinfo.read_text()
    has_both = ONEDNN_LINEAR is not None and torch.backends.mkl.is_available()
    return is_amd and has_both and torch.backends.cpu.get_cpu_capability() == "AVX512"


def onednn_product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """rows @ weight.T + bias."""
    assert ONEDNN_LINEAR is not None, "see prefers_onednn"
    return ONEDNN_LINEAR(rows, weight, bias, "none", [], "")


class _Linear(Function):
    @staticmethod
    def forward(ctx, rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weight)
        return onednn_product(rows, weight, bias) if prefers_onednn() else F.linear(rows, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        rows, weight = ctx.saved_tensors
        needs_rows, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            rows_gradient(grad, weight) if needs_rows else None,
            weight_gradient(grad, rows) if needs_weight else None,
            grad.t() @ grad.new_ones(len(grad)) if needs_bias else None,  # a sum over rows has half the speed
        )


def rows_gradient(grad: Tensor, weight: Tensor) -> Tensor:
    """(N, O), (O, I) -> (N, I) grad @ weight."""
    return onednn_product(grad, weight.t()) if prefers_onednn() else grad @ weight


def weight_gradient(grad: Tensor, rows: Tensor) -> Tensor:
    """(N, O), (N, I) -> (O, I) grad.T @ rows. oneDNN is faster (by a tenth) only where O < I.

    Where O > I its transposed product is faster too, but torch then copies the result into the weight's own layout.
    """
    if prefers_onednn() and grad.shape[1] < rows.shape[1]:
        return onednn_product(grad.t(), rows.t())
    return grad.t() @ rows
