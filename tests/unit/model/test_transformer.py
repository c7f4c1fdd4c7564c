"""The one transformer layer: what it computes, and that padding never matters."""

from __future__ import annotations

import math

import pytest
import torch
from toys import enlarge

from cmal.model import cpu
from cmal.model.cpu import kernels, unpadding
from cmal.model.cpu.unpadding import TILES, TiledLayout
from cmal.model.transformer import (
    Transform,
    TransformerStack,
    initialise,
    no_rows,
    rows_at,
    to_sphere,
    trainable_parameters,
)


def stack(layers: int = 2, dropout: float = 0.0) -> TransformerStack:
    torch.manual_seed(0)
    return enlarge(TransformerStack(8, layers, 2, 16, dropout))


def test_the_sphere_has_radius_root_of_the_width():
    assert to_sphere(torch.tensor([3.0, 4.0])).tolist() == pytest.approx([0.6 * 2**0.5, 0.8 * 2**0.5])
    on = to_sphere(torch.randn(5, 7, 16))
    torch.testing.assert_close(on.norm(dim=-1), torch.full((5, 7), 4.0))
    assert to_sphere(torch.zeros(2, 3)).tolist() == [[0, 0, 0], [0, 0, 0]], "padding stays padding"


def test_a_layer_without_weights_is_its_two_layer_norms():
    layer = TransformerStack(2, 1, 1, 4, 0.0)
    for name, parameter in layer.named_parameters():
        if "norm" not in name:
            torch.nn.init.zeros_(parameter)
    out = layer(torch.tensor([[[1.0, 3.0], [5.0, -5.0]]]), torch.tensor([[True, True]]))
    torch.testing.assert_close(out, torch.tensor([[[-1.0, 1.0], [1.0, -1.0]]]))


def test_attention_weighs_values_by_the_scaled_dot_product():
    """Two rows, keys (0, 0) and (ln 3 * sqrt 2, 0), query (1, 0): weights 1/4 and 3/4 of the values."""
    layer = TransformerStack(2, 1, 1, 4, 0.0).layers[0]
    torch.nn.init.zeros_(layer.qkv.weight)
    layer.qkv.bias.data[:2] = torch.tensor([1.0, 0.0])  # every query
    layer.qkv.weight.data[2, 0] = math.log(3) * 2**0.5  # key from the first number of a row
    layer.qkv.bias.data[2:] = 0.0
    layer.qkv.weight.data[4, 1] = 1.0  # value from the second
    rows = torch.tensor([[0.0, 8.0], [1.0, 4.0]])
    mixed = kernels.attention(layer.qkv(rows)[None], layer.heads, key_mask=None, dropout=0.0)
    torch.testing.assert_close(mixed[0, :, 0], torch.full((2,), 8 / 4 + 4 * 3 / 4))


@pytest.mark.parametrize("garbage", [0.0, 1e6, float("nan")])
def test_padding_changes_nothing_whatever_it_holds(garbage):
    model, short, long = stack(), torch.randn(3, 8), torch.randn(5, 8)
    padded = torch.full((2, 5, 8), garbage)
    padded[0, :3], padded[1] = short, long
    mask = torch.tensor([[True, True, True, False, False], [True] * 5])
    out = model(padded, mask)
    torch.testing.assert_close(out[0, :3], model(short[None], mask[:1, :3])[0])
    torch.testing.assert_close(out[1], model(long[None], mask[1:])[0])
    assert out[0, 3:].eq(0).all(), "zeros at padding"


def test_real_rows_may_stand_anywhere():
    """Text and regions are joined, each with its own padding: the mask has holes."""
    model, rows = stack(), torch.randn(1, 3, 8)
    holes = torch.randn(1, 5, 8)
    places = torch.tensor([0, 3, 4])
    holes[0, places] = rows[0]
    mask = torch.tensor([[True, False, False, True, True]])
    torch.testing.assert_close(model(holes, mask)[0, places], model(rows, mask[:, places])[0])


def uneven(sequences: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and a mask with holes; sequences of 1 to 40 real rows, in no order of length."""
    generator = torch.Generator().manual_seed(2)
    share = torch.rand(sequences, 1, generator=generator)
    mask = torch.rand(sequences, 40, generator=generator) < share
    mask[:, 0] = True
    return torch.randn(sequences, 40, 8, generator=generator), mask


@pytest.mark.parametrize("asks", [False, True])
def test_tiles_of_similar_length_change_no_number(monkeypatch, asks):
    model, (rows, mask) = stack(), uneven()
    needed = torch.rand(mask.shape) < 0.3 if asks else None
    needed = needed if needed is None else needed.index_fill(0, torch.tensor([5]), False)  # of one nobody reads a row
    found = []
    for least, tiles in ((10**9, 1), (0, TILES)):
        monkeypatch.setattr(unpadding, "MIN_SAVED", least)
        assert len(TiledLayout.of_mask(mask, 2).tiles) == tiles
        out = model(rows, mask, needed)
        assert out.ne(0).any(dim=-1).equal(mask if needed is None else mask & needed)
        found.append([out, *torch.autograd.grad(out.square().sum(), model.parameters())])
    for one, other in zip(*found):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    alone = model(rows[3:4], mask[3:4], needed if needed is None else needed[3:4])
    torch.testing.assert_close(out[3:4], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("least", [10**9, 0])
def test_blocked_pairs_do_not_attend_to_each_other_and_all_others_do(monkeypatch, least, asks):
    """One layer; of the longest and the fullest but one sequence, the first real row and the last are apart."""
    monkeypatch.setattr(unpadding, "MIN_SAVED", least)
    model, (rows, mask) = stack(layers=1), uneven()
    example = mask.sum(dim=1).argsort()[[-1, -2]]
    one, other = torch.zeros(2, dtype=torch.int64), torch.stack([mask[e].nonzero()[-1, 0] for e in example])
    needed = torch.ones_like(mask) if asks else None
    needed = needed if needed is None else needed.index_fill(1, torch.tensor([1, 2, 3]), False)
    out = model(rows, mask, needed, torch.stack([example, one, other]))
    for place, partner in ((one, other), (other, one)):
        changed = rows.index_put((example, partner), torch.tensor(9.0))
        moved = model(changed, mask, needed, torch.stack([example, one, other])).ne(out).any(dim=-1)
        assert not moved[example, place].any(), "to the bit"
        sees = mask if needed is None else mask & needed
        sees = sees.index_put((example, place), torch.tensor(False))[example]
        assert moved[example].equal(sees) and moved.sum() == sees.sum()


def test_nobody_apart_is_everybody_in_sight():
    model, (rows, mask) = stack(), uneven()
    nobody = torch.zeros(3, 0, dtype=torch.int64)
    assert torch.equal(model(rows, mask, None, nobody), model(rows, mask))


def test_tiles_are_made_where_lengths_differ_and_it_pays():
    _, mask = uneven(64)
    layout = TiledLayout.of_mask(mask, heads=12)
    counts = mask.sum(dim=1).sort().values
    assert [tile.length for tile in layout.tiles] == counts.view(TILES, 16).amax(dim=1).tolist()
    assert len(TiledLayout.of_mask(mask[:8], heads=2).tiles) == 1, "too little to save"
    assert len(TiledLayout.of_mask(torch.ones(64, 40, dtype=torch.bool), heads=12).tiles) == 1
    (tile,) = TiledLayout.of_mask(mask[:1], heads=12).tiles
    assert tile.length == int(mask[0].sum()) < 40, "holes are closed"


def test_examples_of_a_batch_do_not_see_each_other():
    model, mask = stack(), torch.ones(2, 4, dtype=torch.bool)
    rows = torch.randn(2, 4, 8)
    other = rows.clone()
    other[1] = torch.randn(4, 8)
    assert torch.equal(model(rows, mask)[0], model(other, mask)[0])


def test_an_example_without_a_real_row_gives_zeros_and_harms_nobody():
    model, rows = stack(), torch.randn(2, 3, 8, requires_grad=True)
    mask = torch.tensor([[False] * 3, [True] * 3])
    out = model(rows, mask)
    assert out[0].eq(0).all()
    torch.testing.assert_close(out[1], model(rows[1:], mask[1:])[0])
    out.square().sum().backward()
    assert rows.grad.isfinite().all() and all(p.grad.isfinite().all() for p in model.parameters())


def test_no_row_at_all_is_fine():
    assert stack()(torch.zeros(2, 0, 8), torch.zeros(2, 0, dtype=torch.bool)).shape == (2, 0, 8)


def test_dropout_is_for_training_alone():
    model, mask = stack(dropout=0.5), torch.ones(1, 4, dtype=torch.bool)
    rows = torch.randn(1, 4, 8)
    assert not torch.equal(model(rows, mask), model(rows, mask))
    model.eval()
    assert torch.equal(model(rows, mask), model(rows, mask))


def test_activation_checkpointing_changes_memory_and_no_number():
    model, rows = stack(dropout=0.2), torch.randn(2, 4, 8)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    gradients = []
    for checkpointed in (False, True):
        model.checkpoint_activations = checkpointed
        model.zero_grad()
        torch.manual_seed(3)
        model(rows, mask).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients))


def test_rows_are_taken_by_example_and_position():
    padded = torch.arange(12.0).view(2, 3, 2)
    taken = rows_at(padded, torch.tensor([1, 0, 1]), torch.tensor([2, 1, 2]))
    assert taken.tolist() == [[10, 11], [2, 3], [10, 11]]


@pytest.mark.parametrize("rows", [0, 3])
def test_no_rows_is_a_zero_that_still_hangs_on_the_graph(rows):
    weight = torch.ones(2, 2, requires_grad=True)
    loss = no_rows(torch.ones(rows, 2) @ weight)
    loss.backward()
    assert loss.item() == 0 and weight.grad.tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("width, std", [(768, 0.02), (192, 0.04)])
def test_the_start_is_berts_with_the_scale_kept_at_other_widths(width, std):
    torch.manual_seed(0)
    head = Transform(64)
    for parameter in (head[0].bias, head[2].weight, head[2].bias):
        torch.nn.init.constant_(parameter, 5.0)
    initialise(head, width)
    assert head[0].weight.std().item() == pytest.approx(std, rel=0.05)
    assert head[0].bias.eq(0).all() and head[2].weight.eq(1).all() and head[2].bias.eq(0).all()


def test_frozen_parameters_are_not_counted():
    head = Transform(4)
    assert trainable_parameters(head) == 4 * 4 + 4 + 4 + 4
    head[0].weight.requires_grad_(False)
    assert trainable_parameters(head) == 12


def test_a_last_layer_asked_for_some_rows_gives_those_rows_and_their_gradients():
    torch.manual_seed(0)
    stack = TransformerStack(8, 2, 2, 16, 0.0).double()  # so that sums in another order agree to many places
    mask = torch.tensor([[True] * 5, [True, True, True, False, False], [True] * 2 + [False] * 3])
    needed = torch.tensor([[True, False, False, True, True], [False] * 5, [True, False, False, True, False]])
    read = needed & mask
    whole, some = torch.randn(3, 5, 8, dtype=torch.float64), None
    grads = []
    for asked in (None, needed):
        padded = whole.clone().requires_grad_()
        some = stack(padded, mask, asked)
        stack.zero_grad()
        (some[read] * torch.arange(4.0)[:, None]).square().sum().backward()
        grads.append([padded.grad, *(p.grad.clone() for p in stack.parameters())])
        if asked is None:
            full = some.detach()
    torch.testing.assert_close(some[read], full[read])
    assert not some[~read].any() and full[~needed & mask].abs().min() > 0
    for one, other in zip(*grads):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("has_needed", [False, True])
@pytest.mark.parametrize("has_blocked", [False, True])
def test_the_plain_path_and_the_cpu_path_agree_in_values_and_gradients(monkeypatch, has_needed, has_blocked):
    model, (rows, mask) = stack(), uneven()
    needed = torch.rand(mask.shape) < 0.5 if has_needed else None
    first = mask.float().argmax(dim=1)
    last = mask.shape[1] - 1 - mask.flip(1).float().argmax(dim=1)
    blocked = torch.stack([torch.arange(len(mask)), first, last])[:, first != last] if has_blocked else None
    found = []
    for is_enabled in (True, False):
        monkeypatch.setattr(kernels, "ENABLED", is_enabled)
        assert cpu.is_used(rows) == is_enabled
        out = model(rows, mask, needed, blocked)
        found.append([out, *torch.autograd.grad(out.square().sum(), model.parameters())])
    for fast, plain in zip(*found):
        torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-5)
