"""The steps of a transformer layer that torch does slowly on a CPU: dropout, short-sequence attention, some products.

Drawing a dropout mask the usual way takes a hundred times longer on a CPU than the multiplication it is for; here one draw
of 64 bits decides four entries. Attention with dropout is written out here for the same reason. Linear layers take oneDNN's
matrix products where torch would take MKL's, which are slower on AMD's processors.
Elsewhere than on a CPU in float32, torch's own functions are used.

Legend: B batch, L keys, Q queries (Q = L but in a last layer that is asked for some rows only), D width, H heads.
"""

from __future__ import annotations

import functools
import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

LEVELS = 2**16
NARROWEST = 512  # side of a linear layer's weight; below, oneDNN's products are no faster
ONEDNN_LINEAR = getattr(torch.ops.mkldnn, "_linear_pointwise", None)  # None in a torch without oneDNN


def is_plain_cpu(*tensors: Tensor) -> bool:
    """True where this module's own functions pay: float32 on a CPU, and nobody traces."""
    return not torch.compiler.is_compiling() and all(
        t.device.type == "cpu" and t.dtype == torch.float32 and type(t) in (Tensor, nn.Parameter) for t in tensors
    )


def draw_bits(shape: torch.Size) -> Tensor:
    """int16 random numbers of a shape, from torch's default generator."""
    count = math.prod(shape)
    return torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count].view(shape)


def scaled_keep(bits: Tensor, dropout: float) -> Tensor:
    """1 / (1 - p) where an entry stays and 0 where it is dropped; p is `dropout` to the nearest 1 / 65,536."""
    dropped = round(dropout * LEVELS)
    keep = torch.empty(bits.shape)
    torch.ge(bits, dropped - LEVELS // 2, out=keep)
    return keep.mul_(LEVELS / (LEVELS - dropped))


class _AddDropped(Function):
    @staticmethod
    def forward(ctx, residual: Tensor, rows: Tensor, dropout: float) -> Tensor:
        bits = draw_bits(rows.shape)
        ctx.save_for_backward(bits)
        ctx.dropout = dropout
        return torch.addcmul(residual, rows, scaled_keep(bits, dropout))

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        (bits,) = ctx.saved_tensors
        return grad, scaled_keep(bits, ctx.dropout).mul_(grad), None


def add_dropped(residual: Tensor, rows: Tensor, dropout: float) -> Tensor:
    """residual + dropout(rows)."""
    if 0.0 < dropout < 1.0 and is_plain_cpu(residual, rows):
        return _AddDropped.apply(residual, rows, dropout)
    return residual + F.dropout(rows, dropout)


class _Dropped(Function):
    @staticmethod
    def forward(ctx, rows: Tensor, dropout: float) -> Tensor:
        bits = draw_bits(rows.shape)
        ctx.save_for_backward(bits)
        ctx.dropout = dropout
        return scaled_keep(bits, dropout).mul_(rows)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (bits,) = ctx.saved_tensors
        return scaled_keep(bits, ctx.dropout).mul_(grad), None


def dropped(rows: Tensor, dropout: float) -> Tensor:
    """dropout(rows)."""
    if 0.0 < dropout < 1.0 and is_plain_cpu(rows):
        return _Dropped.apply(rows, dropout)
    return F.dropout(rows, dropout)


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int, key_mask: Tensor | None, dropout: float) -> Tensor:
    """Scaled dot-product attention of all heads.

    Args:
        query: (B, Q, D); key, value: (B, L, D).
        heads: H.
        key_mask: (B, 1, 1, L) True = a key that counts; None where all do.
        dropout: of the attention weights; 0 outside training.

    Returns:
        (B, Q, D).
    """
    if 0.0 < dropout < 1.0 and is_plain_cpu(query, key, value):
        return _Attention.apply(query, key, value, heads, key_mask, dropout)
    split = [t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (query, key, value)]  # (B, H, L, D/H)
    mixed = F.scaled_dot_product_attention(*split, attn_mask=key_mask, dropout_p=dropout)
    return mixed.transpose(1, 2).flatten(2)


class _Attention(Function):
    @staticmethod
    def forward(ctx, query, key, value, heads, key_mask, dropout):
        query, key, value = (split_heads(t, heads) for t in (query, key, value))  # (B*H, L, D/H)
        query = query.mul_(query.shape[-1] ** -0.5)
        scores = torch.bmm(query, key.transpose(1, 2))  # (B*H, Q, L)
        if key_mask is not None:
            bias = torch.zeros(key_mask.shape).masked_fill_(~key_mask, float("-inf"))
            scores.view(-1, heads, *scores.shape[1:]).add_(bias)
        weights = torch.softmax(scores, dim=-1)
        bits = draw_bits(weights.shape)
        mixed = torch.bmm(scaled_keep(bits, dropout).mul_(weights), value)
        ctx.save_for_backward(query, key, value, weights, bits)
        ctx.heads, ctx.dropout = heads, dropout
        return join_heads(mixed, heads)

    @staticmethod
    def backward(ctx, grad):
        query, key, value, weights, bits = ctx.saved_tensors
        grad = split_heads(grad, ctx.heads)
        keep = scaled_keep(bits, ctx.dropout)
        grad_weights = torch.bmm(grad, value.transpose(1, 2)).mul_(keep)
        grad_value = torch.bmm(keep.mul_(weights).transpose(1, 2), grad)
        grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        grad_query = torch.bmm(grad_scores, key).mul_(query.shape[-1] ** -0.5)
        grad_key = torch.bmm(grad_scores.transpose(1, 2), query)
        return *(join_heads(t, ctx.heads) for t in (grad_query, grad_key, grad_value)), None, None, None


def split_heads(padded: Tensor, heads: int) -> Tensor:
    """(B, L, D) -> (B*H, L, D/H), a copy."""
    batch, length, width = padded.shape
    split = padded.view(batch, length, heads, width // heads).transpose(1, 2)
    return split.clone(memory_format=torch.contiguous_format).view(batch * heads, length, -1)


def join_heads(split: Tensor, heads: int) -> Tensor:
    """(B*H, L, D/H) -> (B, L, D)."""
    return split.unflatten(0, (-1, heads)).transpose(1, 2).flatten(2)


def linear(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(N, I), (O, I), (O,) -> (N, O): `F.linear`."""
    is_wide = min(weight.shape) >= NARROWEST and len(rows) > 0 and not torch.is_autocast_enabled("cpu")
    if is_wide and is_plain_cpu(rows, weight, bias) and prefers_onednn():
        return _Linear.apply(rows, weight, bias)
    return F.linear(rows, weight, bias)


@functools.cache
def prefers_onednn() -> bool:
    """True on AMD's processors with AVX-512.

    Measured on one core of such an EPYC, 1,792 rows and widths of 768 to 3,072: oneDNN 101 to 106 GFLOP/s, MKL 84 to 97.
    """
    processors = Path("/proc/cpuinfo")
    is_amd = processors.is_file() and "AuthenticAMD" in processors.read_text()
    has_both = ONEDNN_LINEAR is not None and torch.backends.mkl.is_available()
    return is_amd and has_both and torch.backends.cpu.get_cpu_capability() == "AVX512"


def onednn_product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """rows @ weight.T + bias."""
    return ONEDNN_LINEAR(rows, weight, bias, "none", [], "")


class _Linear(Function):
    @staticmethod
    def forward(ctx, rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weight)
        return onednn_product(rows, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        rows, weight = ctx.saved_tensors
        for_rows, for_weight, for_bias = ctx.needs_input_grad
        return (
            onednn_product(grad, weight.t()) if for_rows else None,
            weight_gradient(grad, rows) if for_weight else None,
            grad.sum(dim=0) if for_bias else None,
        )


def weight_gradient(grad: Tensor, rows: Tensor) -> Tensor:
    """(N, O), (N, I) -> (O, I) grad.T @ rows. oneDNN is quicker (by a tenth) only where O < I.

    Where O > I it would be, asked for the transposed gradient; but torch then copies that into the weight's own layout.
    """
    if grad.shape[1] < rows.shape[1]:
        return onednn_product(grad.t(), rows.t())
    return grad.t() @ rows
