"""Our dropout and attention on a CPU against torch's own and against plain arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from cmal.model.cpu import kernels
from cmal.model.cpu.kernels import (
    NARROWEST,
    ONEDNN_LINEAR,
    attention,
    draw_bits,
    dropout,
    dropout_add,
    kept,
    linear,
    lookup,
)
from cmal.runs.dry_run import count_flops


def test_a_tenth_is_dropped_and_the_rest_scaled_so_that_the_mean_stays():
    torch.manual_seed(0)
    out = dropout(torch.ones(400, 1000), 0.1)
    values = out.unique()
    assert len(values) == 2 and values[0] == 0 and values[1] == pytest.approx(1 / 0.9, rel=1e-4)
    assert float((out == 0).float().mean()) == pytest.approx(0.1, abs=0.002)
    assert float(out.mean()) == pytest.approx(1, abs=0.002)


def test_neighbouring_entries_are_dropped_independently():
    torch.manual_seed(0)
    gone = (dropout(torch.ones(400_000), 0.5) == 0).float()
    for distance in (1, 2, 3, 4, 8):
        both = float((gone[:-distance] * gone[distance:]).mean())
        assert both == pytest.approx(0.25, abs=0.005)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 31])
def test_bits_are_drawn_for_every_shape_from_torchs_generator(count):
    torch.manual_seed(1)
    one = draw_bits(torch.Size((count,)))
    torch.manual_seed(1)
    assert one.shape == (count,) and one.dtype == torch.int16 and one.equal(draw_bits(torch.Size((count,))))


def test_the_residual_stays_and_the_gradient_is_dropped_where_the_value_was():
    residual, rows = torch.randn(50, 8, requires_grad=True), torch.randn(50, 8, requires_grad=True)
    out = dropout_add(residual, rows, 0.3)
    keep = (out - residual).detach() / rows.detach()
    out.backward(torch.full((50, 8), 2.0))
    assert residual.grad.equal(torch.full((50, 8), 2.0))
    torch.testing.assert_close(rows.grad, 2 * keep, rtol=1e-3, atol=1e-5)
    assert dropout_add(residual, rows, 0.0).equal(residual + rows)


def made(queries: int | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Queries, keys and values side by side; or keys and values, and other queries."""
    generator = torch.Generator().manual_seed(3)
    projected = torch.randn(2, 5, 36 if queries is None else 24, generator=generator, requires_grad=True)
    return projected, None if queries is None else torch.randn(2, queries, 12, generator=generator, requires_grad=True)


MASK = torch.tensor([[True] * 5, [True, True, False, True, False]])[:, None, None, :]
BY_QUERY = MASK & (torch.arange(5)[:, None] != torch.tensor([4, 3, 9, 9, 0]))  # not every query sees the same keys


@pytest.mark.parametrize("queries", [None, 2])
@pytest.mark.parametrize("mask", [None, MASK, BY_QUERY])
def test_attention_with_dropout_is_softmax_times_the_very_mask_and_so_are_its_gradients(queries, mask):
    projected, query = made(queries)
    inputs = [t for t in (projected, query) if t is not None]
    mask = mask if mask is None or query is None else mask[:, :, :queries]
    torch.manual_seed(5)
    out = attention(projected, 3, mask, 0.4, query)
    grads = torch.autograd.grad(out, inputs, torch.arange(out.numel()).view_as(out) / 10)
    torch.manual_seed(5)
    shape = torch.Size((6, queries or 5, 5))
    keep = kept(torch.ones(shape), draw_bits(shape), 0.4).view(2, 3, -1, 5)
    thirds = projected.split(12, dim=-1) if query is None else (query, *projected.split(12, dim=-1))
    q, k, v = (t.reshape(2, -1, 3, 4).transpose(1, 2) for t in thirds)
    scores = q @ k.transpose(2, 3) / math.sqrt(4)
    scores = scores if mask is None else scores.masked_fill(~mask, float("-inf"))
    wanted = ((scores.softmax(-1) * keep) @ v).transpose(1, 2).reshape(2, -1, 12)
    torch.testing.assert_close(out, wanted)
    wanted_grads = torch.autograd.grad(wanted, inputs, torch.arange(out.numel()).view_as(out) / 10)
    for grad, right in zip(grads, wanted_grads):
        torch.testing.assert_close(grad, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("queries", [None, 2])
def test_without_dropout_and_off_the_cpu_torchs_attention_is_used(monkeypatch, queries):
    projected, query = made(queries)
    called = []
    own = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *a, **k: called.append(k["dropout_p"]) or own(*a, **k)
    )
    attention(projected, 3, MASK, 0.0, query)
    attention(projected.bfloat16(), 3, MASK, 0.4, None if query is None else query.bfloat16())
    monkeypatch.setattr(kernels, "is_used", lambda *tensors: False)
    attention(projected, 3, MASK, 0.4, query)
    assert called == [0.0, 0.4, 0.4]


onednn = pytest.mark.skipif(ONEDNN_LINEAR is None, reason="this torch has no oneDNN")


@pytest.fixture(params=["MKL", pytest.param("oneDNN", marks=onednn)])
def products(request, monkeypatch):
    monkeypatch.setattr(kernels, "prefers_onednn", lambda: request.param == "oneDNN")


def wide_layer(rows: int = 7, ins: int = NARROWEST, outs: int = NARROWEST + 40) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (rows, ins), (outs, ins), (outs,)
    inputs, weight, bias = (torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes)
    return [inputs, torch.nn.Parameter(weight.detach()), bias]


@pytest.mark.parametrize("shape", [(7,), (1,), (0,), (7, NARROWEST + 8, NARROWEST), (7, NARROWEST, NARROWEST)])
def test_wide_products_give_what_f_linear_gives_and_so_do_their_gradients(products, shape):
    inputs = wide_layer(*shape)
    out = linear(*inputs)
    assert ("_Linear" in type(out.grad_fn).__name__) == (len(out) > 0)
    sharpness = torch.linspace(-1, 1, out.shape[1]).expand_as(out)
    wanted = F.linear(*inputs)
    torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-4)
    for grad, right in zip(torch.autograd.grad(out, inputs, sharpness), torch.autograd.grad(wanted, inputs, sharpness)):
        torch.testing.assert_close(grad, right, rtol=1e-5, atol=1e-3)


def test_a_gradient_that_nobody_wants_is_not_computed(products):
    rows, weight, bias = wide_layer()
    with count_flops() as counter:
        linear(rows.detach(), weight, bias).sum().backward()
    assert rows.grad is None and counter.get_total_flops() == 2 * 2 * rows.shape[0] * weight.numel()


def test_narrow_layers_autocast_and_other_devices_keep_torchs_layer(products, monkeypatch):
    def kind(*inputs):
        return type(linear(*inputs).grad_fn).__name__

    rows, weight, bias = wide_layer()
    assert "_Linear" not in kind(rows[:, :-1], weight[:, :-1][: NARROWEST - 1], bias[: NARROWEST - 1])
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(rows[:1], weight, bias).dtype == torch.bfloat16
    assert "_Linear" in kind(rows, weight, bias)
    monkeypatch.setattr(kernels, "is_used", lambda *tensors: False)
    assert "_Linear" not in kind(rows, weight, bias)


@pytest.mark.parametrize("uses", ["rows", "weight", "both", "both twice"])
def test_a_tied_embedding_gets_the_gradient_of_torchs_own_lookup_and_of_its_head(uses):
    generator = torch.Generator().manual_seed(8)
    weight = torch.randn(5, 4, generator=generator, requires_grad=True)
    ids = torch.tensor([[0, 3, 3], [3, 1, 0]])  # repeated, and 2 and 4 never
    scale, hidden = torch.randn(2, 3, 4, generator=generator), torch.randn(7, 4, generator=generator)

    def loss(look):
        rows, tied = look(weight, ids)
        parts = [(rows * scale).sum() if uses != "weight" else 0, (hidden @ tied.t()).square().sum()]
        return sum(parts[: 1 if uses == "rows" else 2])

    times = 2 if uses == "both twice" else 1
    (wanted,) = torch.autograd.grad(times * loss(lambda w, i: (F.embedding(i, w), w)), weight)
    (got,) = torch.autograd.grad(sum(loss(lookup) for _ in range(times)), weight)
    torch.testing.assert_close(got, wanted)


class Made(TorchDispatchMode):
    """The operations whose result is a new tensor of so many numbers."""

    def __init__(self, numbers: int):
        super().__init__()
        self.numbers, self.names = numbers, []

    def __torch_dispatch__(self, operation, types, arguments=(), settings=None):
        out = operation(*arguments, **(settings or {}))
        is_new = not operation.is_view and all(out is not argument for argument in arguments)
        if is_new and isinstance(out, torch.Tensor) and out.numel() == self.numbers:
            self.names.append(str(operation))
        return out


def test_a_tied_embeddings_gradient_is_made_once():
    weight = torch.randn(50, 4, requires_grad=True)
    with Made(weight.numel()) as made:
        rows, tied = lookup(weight, torch.tensor([[4, 5]]))
        (rows.sum() + (torch.ones(3, 4) @ tied.t()).sum()).backward()
    assert made.names == ["aten.mm.default"]


def test_a_tied_embedding_takes_a_gradient_that_is_no_memory_of_its_own():
    weight = torch.randn(5, 4, requires_grad=True)
    rows, tied = lookup(weight, torch.tensor([[1, 1]]))
    (rows.sum() + tied.sum()).backward()  # a sum's gradient is one number, expanded
    assert weight.grad[:, 0].tolist() == [1, 3, 1, 1, 1]
