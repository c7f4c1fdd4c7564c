"""A BERT checkpoint's tensors go where they belong, and whatever does not fit is named."""

from __future__ import annotations

import pytest
import torch
from toys import toy_cmal

from cmal.errors import CheckpointError
from cmal.model.text_weights import load_bert, read_bert

WIDTH, INNER, LAYERS = 8, 16, 2


def bert_tensors(layers: int = LAYERS, positions: int = 20, vocabulary: int = 0) -> dict[str, torch.Tensor]:
    """The state of a BertModel of width 8, random, as `transformers` names it."""
    shapes = {
        "embeddings.word_embeddings.weight": (vocabulary or toy_cmal().textual.tokens.num_embeddings, WIDTH),
        "embeddings.position_embeddings.weight": (positions, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
        "embeddings.LayerNorm.weight": (WIDTH,),
        "embeddings.LayerNorm.bias": (WIDTH,),
        "pooler.dense.weight": (WIDTH, WIDTH),
    }
    linear = {f"attention.self.{name}": (WIDTH, WIDTH) for name in ("query", "key", "value")}
    linear |= {"attention.output.dense": (WIDTH, WIDTH), "attention.output.LayerNorm": (WIDTH,)}
    linear |= {"intermediate.dense": (INNER, WIDTH), "output.dense": (WIDTH, INNER), "output.LayerNorm": (WIDTH,)}
    for layer in range(layers):
        for name, shape in linear.items():
            shapes[f"encoder.layer.{layer}.{name}.weight"] = shape
            shapes[f"encoder.layer.{layer}.{name}.bias"] = shape[:1]
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}


def test_the_text_encoder_takes_the_first_layers_and_the_unified_encoder_those_after():
    cmal, bert = toy_cmal(), bert_tensors()
    report = load_bert(cmal, bert, "toy")
    first, second = cmal.textual.stack.layers[0], cmal.unified.stack.layers[0]
    assert torch.equal(first.expand.weight, bert["encoder.layer.0.intermediate.dense.weight"])
    assert torch.equal(second.expand.weight, bert["encoder.layer.1.intermediate.dense.weight"])
    assert torch.equal(cmal.textual.tokens.weight, bert["embeddings.word_embeddings.weight"])
    assert torch.equal(cmal.unified.positions.weight, bert["embeddings.position_embeddings.weight"])
    assert len(report.used) == 5 + 2 * 16 and report.left == ("pooler.dense.weight",)


def test_query_key_and_value_are_stacked_in_this_order():
    cmal, bert = toy_cmal(), bert_tensors()
    load_bert(cmal, bert, "toy")
    parts = cmal.textual.stack.layers[0].qkv.weight.split(WIDTH)
    for part, name in zip(parts, ("query", "key", "value")):
        assert torch.equal(part, bert[f"encoder.layer.0.attention.self.{name}.weight"])


def test_layers_beyond_those_needed_and_buffers_are_left_and_told():
    bert = bert_tensors(layers=3) | {"embeddings.position_ids": torch.arange(20)[None]}
    report = load_bert(toy_cmal(), bert, "toy")
    assert len(report.left) == 1 + 16 and all("layer.2" in name or "pooler" in name for name in report.left)


def test_names_may_carry_the_prefix_of_a_bert_with_heads():
    cmal, bert = toy_cmal(), bert_tensors()
    load_bert(cmal, {f"bert.{name}": tensor for name, tensor in bert.items()}, "toy")
    assert torch.equal(cmal.textual.norm.bias, bert["embeddings.LayerNorm.bias"])


def test_longer_positions_are_cut_and_shorter_ones_refused():
    cmal, bert = toy_cmal(), bert_tensors(positions=512)
    load_bert(cmal, bert, "toy")
    assert torch.equal(cmal.textual.positions.weight, bert["embeddings.position_embeddings.weight"][:20])
    with pytest.raises(CheckpointError, match=r"position_embeddings.weight: \(10, 8\) in the file, \(20, 8\) here"):
        load_bert(toy_cmal(), bert_tensors(positions=10), "toy")


def test_everything_that_does_not_fit_is_named_and_nothing_is_loaded():
    bert, cmal = bert_tensors(layers=1, vocabulary=7), toy_cmal()
    before = {name: tensor.clone() for name, tensor in cmal.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_bert(cmal, bert, "runs/toy")
    assert caught.value.what == "cannot start the text encoder from runs/toy"
    assert "missing encoder.layer.1.attention.self.query.weight" in caught.value.found
    assert caught.value.found.endswith("; and 11 more"), "16 tensors of a layer and the words' shape; six are shown"
    assert "model.text_layers" in caught.value.hint
    assert all(torch.equal(before[name], tensor) for name, tensor in cmal.state_dict().items())


def test_a_tensor_that_no_bert_has_is_refused():
    bert = bert_tensors() | {"adapter.down.weight": torch.zeros(2, WIDTH)}
    with pytest.raises(CheckpointError, match=r"unexpected adapter\.down\.weight"):
        load_bert(toy_cmal(), bert, "toy")
    heads = {"cls.predictions.bias": torch.zeros(3), "embeddings.token_type_ids": torch.zeros(1, 20)}
    report = load_bert(toy_cmal(), bert_tensors() | heads, "toy")
    assert report.left == ("pooler.dense.weight", "cls.predictions.bias")
    assert report.as_json()["source"] == "toy" and len(report.as_json()["used"]) == 5 + 32


def test_the_visual_encoder_and_the_masks_stay_as_they_were():
    cmal = toy_cmal()
    before = {name: tensor.clone() for name, tensor in cmal.state_dict().items()}
    load_bert(cmal, bert_tensors(), "toy")
    same = {name for name, tensor in cmal.state_dict().items() if torch.equal(before[name], tensor)}
    assert {name for name in before if name.startswith(("visual.", "prompt."))} <= same
    assert not any(name.startswith("textual.") for name in same)


def test_a_checkpoint_that_is_not_there_is_a_message(tmp_path):
    with pytest.raises(CheckpointError, match="cannot read the text checkpoint"):
        read_bert(str(tmp_path / "nowhere"))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="give a folder with a BERT"):
        read_bert(str(tmp_path))
