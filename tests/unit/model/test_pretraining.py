"""Which heads there are, what each is asked, and what one batch costs."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from toys import (
    CLASSES,
    IMAGES_OF_A_GROUP,
    PIECES,
    TEXTS_OF_A_GROUP,
    VOCAB,
    enlarge,
    random_caption,
    random_image,
    regions,
    toy_builder,
    toy_cmal,
)

from cmal.data.batch import make_pretraining_batch
from cmal.data.masking import MaskingConfig, mask_example, sample_matching
from cmal.model import losses as objectives
from cmal.model.inputs import Batch
from cmal.model.pretraining import CmalForPretraining, ContrastiveHead
from cmal.model.transformer import rows_at, trainable_parameters

ALL = {"mlm": 1.0, "mrm_class": 1.0, "mrm_feature": 1.0, "itm": 1.0, "amc": 1.0, "itc": 1.0}
RATES = MaskingConfig(anchor=1.0, word=0.4, region=0.5)
RATES_OF_SWAPS = dataclasses.replace(RATES, swap=1.0, mask=0.0, keep=0.0)


def build(
    weights: dict[str, float] | None = None, candidates: str = "batch", amc_at: str = "unified"
) -> CmalForPretraining:
    """In evaluation mode: no dropout, so that losses can be compared."""
    cmal = toy_cmal()
    model = CmalForPretraining(cmal, ALL if weights is None else weights, candidates, amc_at, len(CLASSES), 3)
    enlarge(model.heads)
    return model.eval()


def group(rates: MaskingConfig = RATES, texts=TEXTS_OF_A_GROUP, seed: int = 0, images=IMAGES_OF_A_GROUP) -> Batch:
    builder = toy_builder(images)
    examples = [builder.build(*text) for text in texts]
    generator = np.random.default_rng(seed)
    draws = [mask_example(e, rates, PIECES.mask_id, len(PIECES), generator) for e in examples]
    return make_pretraining_batch(examples, draws, *sample_matching([e.image_id for e in examples], generator))


@pytest.fixture
def calls(monkeypatch):
    """How often the encoders and the unified encoder were run, and how many rows each head was given."""
    seen: dict[str, list] = {"encode": [], "unify": []}

    def watch(model: CmalForPretraining) -> dict[str, list]:
        for name in ("encode", "unify"):
            original = getattr(model.cmal, name)

            def counted(*arguments, original=original, name=name, **named):
                seen[name].append(arguments)
                return original(*arguments, **named)

            monkeypatch.setattr(model.cmal, name, counted)
        for name, head in model.heads.items():
            hook = lambda module, inputs, name=name: seen.setdefault(name, []).append(inputs[0])  # noqa: E731
            head.register_forward_pre_hook(hook)
        return seen

    return watch


# weights


def test_the_loss_is_the_weighted_sum_of_its_parts():
    weights = {"mlm": 0.5, "mrm_class": 2.0, "mrm_feature": 0.25, "itm": 3.0, "amc": 1.5, "itc": 0.125}
    losses = build(weights)(group())
    assert set(losses.parts) == {*weights, "itm_accuracy", "association_t2v", "association_v2t"}
    wanted = sum(weight * losses.parts[name].item() for name, weight in weights.items())
    assert losses.total.item() == pytest.approx(wanted, rel=1e-6)
    assert all(losses.parts[name].item() > 0 for name in weights)


@pytest.mark.parametrize("name", ALL)
def test_weight_zero_costs_no_head_no_parameter_and_no_part(name):
    model = build(ALL | {name: 0.0})
    assert name not in model.heads and name not in model(group()).parts
    head = build().heads[name]
    assert trainable_parameters(model) == trainable_parameters(build()) - trainable_parameters(head)


def test_other_losses_are_the_same_without_it():
    """The rest of a batch does not change when the baseline's contrast is switched off."""
    batch, model = group(), build()
    with_it = model(batch).parts
    model.weights.pop("itc")
    without = model(batch).parts
    assert all(torch.equal(with_it[name], value) for name, value in without.items())


@torch.no_grad()
def test_partners_out_of_sight_are_so_in_the_masked_forward_alone(calls):
    """One unified layer: without its partner a swapped slot is what it is in an example that lacks the partner."""
    model, batch = build({"amc": 1.0, "itm": 1.0}), group(RATES_OF_SWAPS)
    in_sight = model(batch).parts
    model.attend_across_swap = False
    seen = calls(model)
    out_of_sight = model(batch).parts
    assert out_of_sight["amc"] != in_sight["amc"] and out_of_sight["itm"] == in_sight["itm"]
    states, plan = seen["unify"][0][:2]
    hidden = model.cmal.unify(states, plan, None, False)
    example, piece, region = plan.swapped_slot_pairs(states.tokens)
    for place in range(len(example)):
        one = example[place : place + 1]
        lacking = states.region_mask.index_put((one, region[place : place + 1] - states.tokens), torch.tensor(False))
        alone = model.cmal.unify(dataclasses.replace(states, region_mask=lacking), plan)
        torch.testing.assert_close(hidden[one, piece[place]], alone[one, piece[place]])


def test_masked_objectives_share_one_forward_and_matching_is_the_second(calls):
    model = build(ALL)
    seen = calls(model)
    model(group())
    assert len(seen["encode"]) == len(seen["unify"]) == 2


def test_masked_objectives_alone_cost_one_forward(calls):
    model = build({"mlm": 1.0, "amc": 1.0, "itm": 0.0})
    seen = calls(model)
    model(group())
    assert len(seen["encode"]) == len(seen["unify"]) == 1


def test_contrast_alone_never_runs_the_unified_encoder(calls):
    model = build({"itc": 1.0})
    seen = calls(model)
    model(group())
    assert len(seen["encode"]) == 1 and seen["unify"] == []


def test_without_association_nothing_is_swapped(calls):
    model = build({"mlm": 1.0})
    seen = calls(model)
    model(group())
    assert seen["unify"][0][1] is None


# masked-only heads


def test_word_logits_are_computed_at_masked_words_alone(calls):
    model, batch = build(), group()
    seen = calls(model)
    model(batch)
    masked = batch.masked
    assert 0 < len(masked.word_labels) < int(batch.token_mask.sum())
    assert seen["mlm"][0].shape == (len(masked.word_labels), 8)
    assert seen["mrm_class"][0].shape == seen["mrm_feature"][0].shape == (len(masked.region_position), 8)


def test_heads_read_the_hidden_state_at_their_own_place(calls):
    model, batch = build(), group()
    seen = calls(model)
    model(batch)
    masked, tokens = batch.masked, batch.token_ids.shape[1]
    features = batch.features.masked_fill(masked.zeroed_region_mask[..., None], 0.0)
    rest = (batch.token_mask, features, batch.boxes_unit, batch.region_mask)
    hidden = model.cmal.unify(model.cmal.encode(masked.token_ids, *rest), masked.plan)
    words = rows_at(hidden, masked.word_example, masked.word_position)
    regions_ = rows_at(hidden, masked.region_example, masked.region_position + tokens)
    torch.testing.assert_close(seen["mlm"][0], words)
    torch.testing.assert_close(seen["mrm_feature"][0], regions_)
    logits = model.heads["mlm"](words, model.cmal.textual.tokens.weight)
    wanted = torch.nn.functional.cross_entropy(logits, masked.word_labels)
    torch.testing.assert_close(model(batch).parts["mlm"], wanted)


def test_word_logits_are_tied_to_the_word_embeddings():
    model = build({"mlm": 1.0})
    model(group()).total.backward()
    grad = model.cmal.textual.tokens.weight.grad
    unseen = VOCAB.index("colour")
    assert grad[unseen].ne(0).any(), "a word that never comes in is still an answer to tell apart"
    assert not any(p.shape == (len(VOCAB), 8) for p in model.heads["mlm"].parameters())


# masked regions


def test_masked_regions_come_in_as_zeros_and_are_asked_for_as_they_were(calls):
    model, batch = build({"mrm_feature": 1.0}), group()
    seen = calls(model)
    loss = model(batch).parts["mrm_feature"]
    features, zeroed = seen["encode"][0][2], batch.masked.zeroed_region_mask
    assert zeroed.any() and features[zeroed].eq(0).all() and torch.equal(features[~zeroed], batch.features[~zeroed])
    truth = batch.features[batch.masked.region_example, batch.masked.region_position]
    assert truth.ne(0).any()
    predicted = model.heads["mrm_feature"](seen["mrm_feature"][0])
    torch.testing.assert_close(loss, (predicted - truth).square().mean())


# matching and contrast


def test_matching_shows_each_image_the_caption_drawn_for_it():
    """The loss is that of running the crossed pairs from nothing."""
    model, batch = build({"itm": 1.0}), group(seed=3)
    assert not batch.is_match.all()
    crossed = dataclasses.replace(
        batch, token_ids=batch.token_ids[batch.text_of], token_mask=batch.token_mask[batch.text_of]
    )
    logits = model.heads["itm"](model.cmal.unify(model.cmal.encode(*crossed.inputs))[:, 0])
    with torch.no_grad():
        model.heads["itm"].score.bias -= logits.sort().values[0] / 2 + logits.sort().values[1] / 2  # one says no
    logits = model.heads["itm"](model.cmal.unify(model.cmal.encode(*crossed.inputs))[:, 0])
    assert (logits > 0).sum() == 3
    parts = model(batch).parts
    torch.testing.assert_close(parts["itm"], objectives.matching_loss(logits, batch.is_match))
    assert parts["itm_accuracy"].item() == pytest.approx(((logits > 0) == batch.is_match).float().mean().item())


def test_matching_sees_the_words_unmasked(calls):
    model, batch = build(), group()
    seen = calls(model)
    model(batch)
    assert torch.equal(seen["encode"][1][0], batch.token_ids) and torch.equal(seen["encode"][1][2], batch.features)
    assert not torch.equal(seen["encode"][0][0], batch.token_ids)


def test_contrast_takes_captions_of_one_image_for_partners():
    """Both pairs of a group show one image: nothing is to be told apart, whatever the vectors are."""
    texts = [("1", "toy:1", "a red dog"), ("2", "toy:1", "two cats")]
    assert build({"itc": 1.0})(group(texts=texts)).parts["itc"].item() == pytest.approx(0.0, abs=1e-6)
    assert build({"itc": 1.0})(group()).parts["itc"].item() > 0.1


def test_contrast_pools_real_regions_and_has_a_floor_for_its_temperature():
    head, states = ContrastiveHead(8), toy_cmal().encode(*group().inputs)
    text, visual = head(states)
    torch.testing.assert_close(text[1], torch.nn.functional.normalize(head.text(states.text[1, 0]), dim=-1))
    alone = states.visual[1, states.region_mask[1]].mean(0)
    wanted = torch.nn.functional.normalize(head.visual(alone), dim=-1)
    torch.testing.assert_close(visual[1], wanted)
    assert head.temperature.item() == pytest.approx(0.1)
    head.log_temperature.data.fill_(-9.0)
    assert head.temperature.item() == pytest.approx(0.01)


# association


@pytest.mark.parametrize("candidates", ["batch", "example", "both"])
def test_association_is_the_mean_of_its_two_directions(candidates):
    model, batch = build({"amc": 1.0}, candidates), group()
    masked = batch.masked
    hidden = model.cmal.unify(model.cmal.encode(masked.token_ids, *batch_zeroed(batch).inputs[1:]), masked.plan)
    head, tokens = model.heads["amc"], batch.token_ids.shape[1]
    if candidates == "batch":
        both = head.among_micro_batch(hidden, tokens, masked.plan)
    else:
        ask = head.within_example if candidates == "example" else head.among_both
        both = ask(hidden, batch.token_mask, batch.region_mask, masked.plan)
    wanted = sum(objectives.association_loss(a.logits, a.is_positive) for a in both) / 2
    parts = model(batch).parts
    torch.testing.assert_close(parts["amc"], wanted)
    shares = [objectives.association_accuracy(a) for a in both]
    assert [parts["association_t2v"], parts["association_v2t"]] == shares


def test_association_asked_in_both_places_is_the_sum():
    """At the uni-modal vectors the word that is asked is the one that was there before the swap."""
    model, batch = build({"amc": 1.0}, amc_at="both"), group()
    masked = batch.masked
    states = model.cmal.encode(masked.token_ids, *batch_zeroed(batch).inputs[1:])
    early = model.heads["amc_unimodal"](states.text, states.visual, masked.plan)
    late = model.heads["amc"].among_micro_batch(
        model.cmal.unify(states, masked.plan), batch.token_ids.shape[1], masked.plan
    )
    wanted = [sum(objectives.association_loss(a.logits, a.is_positive) for a in asked) / 2 for asked in (early, late)]
    losses = model(batch)
    torch.testing.assert_close(losses.parts["amc_unimodal"], wanted[0].detach())
    torch.testing.assert_close(losses.total, wanted[0] + wanted[1])
    assert "amc_unimodal" not in build({"mlm": 1.0}, amc_at="both").heads, "weight 0 switches both off"


def batch_zeroed(batch: Batch) -> Batch:
    return dataclasses.replace(
        batch, features=batch.features.masked_fill(batch.masked.zeroed_region_mask[..., None], 0.0)
    )


@pytest.mark.parametrize("candidates", ["batch", "example", "both"])
def test_a_group_without_anchors_costs_nothing_and_still_has_a_gradient(candidates):
    """No tag meets a word. The loss is zero, and backward gives every parameter of the head a gradient of zeros."""
    texts = [("1", "toy:1", "the tree"), ("2", "toy:2", "a fire")]
    images = {"toy:1": regions(["dog"]), "toy:2": regions(["cat"])}
    model = build({"amc": 1.0}, candidates)
    losses = model(group(texts=texts, images=images))
    assert losses.total.item() == 0
    losses.total.backward()
    assert all(p.grad is not None and p.grad.eq(0).all() for p in model.heads["amc"].text.parameters())


def test_groups_with_nothing_to_ask_cost_nothing():
    empty = {"toy:1": regions([]), "toy:2": regions([])}
    texts = [("1", "toy:1", ""), ("2", "toy:2", "")]
    losses = build()(group(texts=texts, images=empty))
    for name in ("mlm", "mrm_class", "mrm_feature", "amc"):
        assert losses.parts[name].item() == 0
    losses.total.backward()
    assert math.isfinite(losses.total.item())


def test_every_parameter_of_a_full_model_learns():
    model = build()
    model(group(dataclasses.replace(RATES, swap=0.4, mask=0.6, keep=0.0))).total.backward()
    unused = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.ne(0).any()}
    assert unused <= {"cmal.prompt.text_mask_embedding", "cmal.prompt.region_mask_embedding"}, unused
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_an_examples_losses_do_not_depend_on_padding():
    """Beside a longer caption and an image of more regions the short pair costs the same."""
    long = ("9", "toy:9", "a red dog and two cats is near the tree and the fire hydrant")
    images = IMAGES_OF_A_GROUP | {"toy:9": regions(["dog"] * 5)}
    alone, beside = (group(texts=[*TEXTS_OF_A_GROUP[:1], *more], images=images) for more in ([], [long]))
    model = build()
    first, second = (model.cmal.unify(model.cmal.encode(*b.inputs))[0] for b in (alone, beside))
    torch.testing.assert_close(first, second[torch.cat([beside.token_mask[0], beside.region_mask[0]])])


@pytest.mark.parametrize("candidates", ["batch", "example", "both"])
def test_any_group_gives_a_finite_loss_and_finite_gradients(candidates):
    """Twenty groups of random captions and images, some of them empty."""
    model = build(candidates=candidates)
    for seed in range(20):
        generator = np.random.default_rng(seed)
        images = {f"toy:{n}": random_image(generator) for n in range(3)}
        texts = [(str(n), f"toy:{generator.integers(3)}", random_caption(generator)) for n in range(4)]
        model.zero_grad()
        losses = model(group(texts=texts, images=images, seed=seed))
        losses.total.backward()
        assert all(part.isfinite() for part in losses.parts.values())
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
