"""Our dropout and attention on a CPU against torch's own and against plain arithmetic."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from cmal.model import kernels
from cmal.model.kernels import NARROWEST, ONEDNN_LINEAR, add_dropped, attention, draw_bits, dropped, linear, scaled_keep
from cmal.runs.dry_run import count_flops


def test_a_tenth_is_dropped_and_the_rest_scaled_so_that_the_mean_stays():
    torch.manual_seed(0)
    out = dropped(torch.ones(400, 1000), 0.1)
    values = out.unique()
    assert len(values) == 2 and values[0] == 0 and values[1] == pytest.approx(1 / 0.9, rel=1e-4)
    assert float((out == 0).float().mean()) == pytest.approx(0.1, abs=0.002)
    assert float(out.mean()) == pytest.approx(1, abs=0.002)


def test_neighbouring_entries_are_dropped_independently():
    torch.manual_seed(0)
    gone = (dropped(torch.ones(400_000), 0.5) == 0).float()
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
    out = add_dropped(residual, rows, 0.3)
    keep = (out - residual).detach() / rows.detach()
    out.backward(torch.full((50, 8), 2.0))
    assert residual.grad.equal(torch.full((50, 8), 2.0))
    torch.testing.assert_close(rows.grad, 2 * keep, rtol=1e-3, atol=1e-5)
    assert add_dropped(residual, rows, 0.0).equal(residual + rows)


def made(queries: int = 5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(2, length, 12, generator=generator, requires_grad=True) for length in (queries, 5, 5)]


MASK = torch.tensor([[True] * 5, [True, True, False, True, False]])[:, None, None, :]


@pytest.mark.parametrize("queries", [5, 2])
@pytest.mark.parametrize("mask", [None, MASK])
def test_attention_with_dropout_is_softmax_times_the_very_mask_and_so_are_its_gradients(queries, mask):
    query, key, value = made(queries)
    torch.manual_seed(5)
    out = attention(query, key, value, 3, mask, 0.4)
    grads = torch.autograd.grad(out, (query, key, value), torch.arange(out.numel()).view_as(out) / 10)
    torch.manual_seed(5)
    keep = scaled_keep(draw_bits(torch.Size((6, queries, 5))), 0.4).view(2, 3, queries, 5)
    q, k, v = (t.view(2, -1, 3, 4).transpose(1, 2) for t in (query, key, value))
    scores = q @ k.transpose(2, 3) / math.sqrt(4)
    scores = scores if mask is None else scores.masked_fill(~mask, float("-inf"))
    wanted = ((scores.softmax(-1) * keep) @ v).transpose(1, 2).reshape(2, queries, 12)
    torch.testing.assert_close(out, wanted)
    wanted_grads = torch.autograd.grad(wanted, (query, key, value), torch.arange(out.numel()).view_as(out) / 10)
    for grad, right in zip(grads, wanted_grads):
        torch.testing.assert_close(grad, right, rtol=1e-4, atol=1e-5)


def test_without_dropout_and_off_the_cpu_torchs_attention_is_used(monkeypatch):
    query, key, value = made()
    called = []
    own = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *a, **k: called.append(k["dropout_p"]) or own(*a, **k)
    )
    attention(query, key, value, 3, MASK, 0.0)
    attention(query.bfloat16(), key.bfloat16(), value.bfloat16(), 3, MASK, 0.4)
    monkeypatch.setattr(kernels, "is_plain_cpu", lambda *tensors: False)
    attention(query, key, value, 3, MASK, 0.4)
    assert called == [0.0, 0.4, 0.4]


onednn = pytest.mark.skipif(ONEDNN_LINEAR is None, reason="this torch has no oneDNN")


@pytest.fixture
def on_amd(monkeypatch):
    monkeypatch.setattr(kernels, "prefers_onednn", lambda: True)


def wide_layer(rows: int = 7, ins: int = NARROWEST, outs: int = NARROWEST + 40) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (rows, ins), (outs, ins), (outs,)
    inputs, weight, bias = (torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes)
    return [inputs, torch.nn.Parameter(weight.detach()), bias]


@onednn
@pytest.mark.parametrize("shape", [(7,), (1,), (0,), (7, NARROWEST + 8, NARROWEST), (7, NARROWEST, NARROWEST)])
def test_onednns_products_give_what_f_linear_gives_and_so_do_their_gradients(on_amd, shape):
    inputs = wide_layer(*shape)
    out = linear(*inputs)
    assert ("_Linear" in type(out.grad_fn).__name__) == (len(out) > 0)
    sharpness = torch.linspace(-1, 1, out.shape[1]).expand_as(out)
    wanted = F.linear(*inputs)
    torch.testing.assert_close(out, wanted, rtol=1e-5, atol=1e-4)
    for grad, right in zip(torch.autograd.grad(out, inputs, sharpness), torch.autograd.grad(wanted, inputs, sharpness)):
        torch.testing.assert_close(grad, right, rtol=1e-5, atol=1e-3)


@onednn
def test_a_gradient_that_nobody_wants_is_not_computed(on_amd):
    rows, weight, bias = wide_layer()
    with count_flops() as counter:
        linear(rows.detach(), weight, bias).sum().backward()
    assert rows.grad is None and counter.get_total_flops() == 2 * 2 * rows.shape[0] * weight.numel()


def test_narrow_layers_autocast_and_other_processors_keep_torchs_product(on_amd, monkeypatch):
    def kind(*inputs):
        return type(linear(*inputs).grad_fn).__name__

    rows, weight, bias = wide_layer()
    assert "_Linear" not in kind(rows[:, :-1], weight[:, :-1][: NARROWEST - 1], bias[: NARROWEST - 1])
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(rows[:1], weight, bias).dtype == torch.bfloat16
    monkeypatch.setattr(kernels, "prefers_onednn", lambda: False)
    assert "_Linear" not in kind(rows, weight, bias)
