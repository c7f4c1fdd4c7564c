"""With a BERT's weights, our text encoder and the unified encoder's layers give `transformers` BertModel's hidden states."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from cmal.data.text import WordPieces
from cmal.model.cmal import Cmal, build_cmal
from cmal.model.text_weights import load_bert, read_bert
from cmal.model.transformer import to_sphere

WIDTH, TEXT_LAYERS, UNIFIED_LAYERS = 32, 3, 2


def cmal_like(bert: BertModel, text_layers: int, unified_layers: int) -> Cmal:
    """Our model of a BERT's sizes, with its weights."""
    config = bert.config
    cmal = build_cmal(
        vocabulary=config.vocab_size,
        max_tokens=min(64, config.max_position_embeddings),
        region_features=4,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        inner=config.intermediate_size,
        text_layers=text_layers,
        visual_layers=1,
        unified_layers=unified_layers,
        dropout=0.1,
    )
    load_bert(cmal, bert.state_dict(), "a BertModel")
    return cmal.eval()


@pytest.fixture(scope="module")
def bert() -> BertModel:
    """A random BERT, its weights large enough that a wrong place for any of them is seen."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=WIDTH,
        num_hidden_layers=TEXT_LAYERS + UNIFIED_LAYERS,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=24,
    )
    model = BertModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.2 if parameter.ndim > 1 else 0.5))
    return model


def padded_ids(lengths: list[int], vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(vocabulary, (len(lengths), max(lengths)), generator=generator)
    return ids, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, mask: torch.Tensor) -> None:
    torch.testing.assert_close(ours[mask], theirs[mask], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_text_encoder_gives_berts_hidden_states_with_padding(bert):
    ids, mask = padded_ids([9, 1, 16, 4], 50)
    theirs = bert(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    assert theirs[TEXT_LAYERS].std() > 0.3, "something is there to compare"
    for layers in (1, TEXT_LAYERS):
        cmal = cmal_like(bert, layers, UNIFIED_LAYERS)
        assert_same(cmal.textual.hidden(ids, mask), theirs[layers], mask)
        assert_same(cmal.textual(ids, mask), to_sphere(theirs[layers]), mask)


@torch.no_grad()
def test_the_unified_encoders_layers_go_on_where_the_text_encoder_ends(bert):
    ids, mask = padded_ids([9, 1, 16, 4], 50)
    theirs = bert(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    cmal = cmal_like(bert, TEXT_LAYERS, UNIFIED_LAYERS)
    assert_same(cmal.unified.stack(cmal.textual.hidden(ids, mask), mask), theirs[-1], mask)
    assert not torch.allclose(theirs[TEXT_LAYERS][mask], theirs[-1][mask], atol=0.1)


def test_gradients_agree_as_well(bert):
    ids, mask = padded_ids([7, 3], 50)
    cmal = cmal_like(bert, TEXT_LAYERS, UNIFIED_LAYERS)
    weight = torch.randn(2, 7, WIDTH, generator=torch.Generator().manual_seed(2)) * mask[..., None]
    (cmal.unified.stack(cmal.textual.hidden(ids, mask), mask) * weight).sum().backward()
    bert.zero_grad()
    (bert(ids, attention_mask=mask).last_hidden_state * weight).sum().backward()
    theirs = bert.embeddings.word_embeddings.weight.grad
    torch.testing.assert_close(cmal.textual.tokens.weight.grad, theirs, rtol=1e-4, atol=1e-4)
    value = bert.encoder.layer[TEXT_LAYERS].attention.self.value.weight.grad
    ours = cmal.unified.stack.layers[0].qkv.weight.grad[2 * WIDTH :]
    torch.testing.assert_close(ours, value, rtol=1e-4, atol=1e-4)


def test_a_saved_checkpoint_is_read_from_its_folder(bert, tmp_path):
    bert.save_pretrained(tmp_path)
    tensors = read_bert(str(tmp_path))
    assert torch.equal(tensors["encoder.layer.4.output.dense.bias"], bert.encoder.layer[4].output.dense.bias)


@torch.no_grad()
def test_weights_that_were_really_pre_trained_give_the_same_states_on_real_words(bert_folder: Path):
    """all-MiniLM-L6-v2: 6 layers of width 384. Three of them are our text encoder, three the unified encoder's."""
    theirs = BertModel.from_pretrained(bert_folder, attn_implementation="eager").eval()
    cmal = cmal_like(theirs, 3, 3)
    pieces = WordPieces.from_pretrained(bert_folder)
    texts = ("Two dogs run after a surfboard.", "a cat", "")
    encoded = [pieces.encode(text, 60).token_ids for text in texts]
    ids = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(e) for e in encoded], batch_first=True)
    mask = torch.arange(ids.shape[1]) < torch.tensor([len(e) for e in encoded])[:, None]
    states = theirs(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    assert_same(cmal.textual.hidden(ids, mask), states[3], mask)
    assert_same(cmal.unified.stack(cmal.textual.hidden(ids, mask), mask), states[6], mask)
