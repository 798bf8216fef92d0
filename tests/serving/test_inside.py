"""What is shown of a model's inside: attention as transformers gives it, embeddings, masks of a training instance."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from bertsmith.batch import pack
from bertsmith.errors import InputError
from bertsmith.model.bert import Bert
from bertsmith.serving.inside import MOST_TOKENS, attention_probabilities, look_inside, masked_instance
from bertsmith.text.tokenizer import Tokenizer
from tests.conftest import made_up_text
from tests.features import small

TEXT, TEXT_B = "abc 좋아 [MASK].", "a bcd"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.save(tmp_path_factory.mktemp("inside") / "model")


def theirs(directory: Path, ids: list[int], segments: list[int]) -> torch.Tensor:
    bert = transformers.AutoModel.from_pretrained(directory, attn_implementation="eager").eval()
    with torch.no_grad():
        given = {"input_ids": torch.tensor([ids]), "token_type_ids": torch.tensor([segments])}
        return torch.cat(bert(**given, output_attentions=True).attentions)


def check_attention(directory: Path, text: str) -> None:
    bert, tokenizer = Bert.load(directory), Tokenizer.load(directory)
    encoding = tokenizer.encode(text, TEXT_B, allow_special=True)
    expected = theirs(directory, encoding.ids, encoding.segment_ids)
    layers = list(range(1, bert.config.num_hidden_layers + 1))
    with torch.inference_mode():
        ours = attention_probabilities(bert, pack([encoding.ids], [encoding.segment_ids]), layers)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    shown = look_inside(bert, tokenizer, text, TEXT_B)
    assert np.abs(np.array(shown["attention"]) - expected.numpy()).max() < 6e-5  # four decimals
    assert shown["layers"] == layers
    assert [token["token"] for token in shown["tokens"]] == encoding.tokens
    assert shown["segments"] == encoding.segment_ids


def test_attention_is_that_of_transformers(model: Path) -> None:
    check_attention(model, TEXT)


def test_attention_of_real_weights_is_that_of_transformers(sentence_model: Path) -> None:
    check_attention(sentence_model, "The river rose, and nobody slept in the valley.")


def test_one_layer_is_the_same_as_among_all(model: Path) -> None:
    bert, tokenizer = Bert.load(model), Tokenizer.load(model)
    whole = look_inside(bert, tokenizer, TEXT)
    some = look_inside(bert, tokenizer, TEXT, layers=[4, 2])
    assert some["layers"] == [2, 4]
    assert some["attention"] == [whole["attention"][1], whole["attention"][3]]
    assert json.loads(json.dumps(whole)) == whole
    assert np.array(whole["attention"]).sum(-1) == pytest.approx(1, abs=1e-3)


def test_left_to_right_attends_to_nothing_that_comes_after(model: Path) -> None:
    bert, tokenizer = Bert.load(model), Tokenizer.load(model)
    bert.config = bert.config.model_copy(update={"is_decoder": True})
    found = np.array(look_inside(bert, tokenizer, TEXT, TEXT_B)["attention"])
    assert np.triu(found, 1).max() == 0
    assert found.sum(-1) == pytest.approx(1, abs=1e-3)


def test_embeddings_by_their_lengths(model: Path) -> None:
    bert, tokenizer = Bert.load(model), Tokenizer.load(model)
    shown = look_inside(bert, tokenizer, TEXT, TEXT_B, [1])
    own, ids = bert.embeddings, [token["id"] for token in shown["tokens"]]
    for place in (0, 3, len(ids) - 1):
        vectors = own.token.weight[ids[place]], own.segment.weight[shown["segments"][place]], own.position.weight[place]
        lengths = [float(vector.detach().norm()) for vector in (*vectors, sum(vectors))]
        rows = (shown["lengths"][name][place] for name in ("token", "segment", "position", "sum"))
        assert list(rows) == pytest.approx(lengths, abs=1e-4)


def test_refusals(model: Path) -> None:
    bert, tokenizer = Bert.load(model), Tokenizer.load(model)
    for text, text_b in ((" ", None), ("abc", "\n")):
        with pytest.raises(InputError, match="empty text"):
            look_inside(bert, tokenizer, text, text_b)
        with pytest.raises(InputError, match="empty text"):
            masked_instance(tokenizer, text, text_b)
    with pytest.raises(InputError, match="layer 6; this model has layers 1 to 5"):
        look_inside(bert, tokenizer, "abc", layers=[1, 6])
    with pytest.raises(InputError, match=r"43 tokens .* at most 41"):
        look_inside(bert, tokenizer, "a " * 41)
    with pytest.raises(InputError, match="seed -1"):
        masked_instance(tokenizer, "abc", seed=-1)


def test_nobody_looks_at_more_tokens_than_can_be_seen(sentence_model: Path) -> None:
    bert, tokenizer = Bert.load(sentence_model), Tokenizer.load(sentence_model)
    assert len(look_inside(bert, tokenizer, "river " * (MOST_TOKENS - 2), layers=[1])["tokens"]) == MOST_TOKENS
    with pytest.raises(InputError, match=f"{MOST_TOKENS + 1} tokens"):
        look_inside(bert, tokenizer, "river " * (MOST_TOKENS - 1))


def test_masks_of_a_training_instance(vocabulary: Path) -> None:
    tokenizer = Tokenizer.load(vocabulary)
    text, text_b = made_up_text(5).replace("\n", " "), "나는 어제 밥을 먹었다. [MASK]"
    encoding = tokenizer.encode(text, text_b)
    kinds: dict[str | None, int] = {}
    for seed in range(30):
        found = masked_instance(tokenizer, text, text_b, seed)
        assert found == masked_instance(tokenizer, text, text_b, seed)
        assert [token["original"] for token in found] == encoding.tokens
        chosen = [token for token in found if token["chosen"]]
        assert len(chosen) == round(0.15 * len(found))
        for token in found:
            assert (token["kind"] is not None) == token["chosen"]
            if token["kind"] == "mask":
                assert token["token"] == "[MASK]"
            else:
                assert (token["token"] == token["original"]) == (token["kind"] != "random")
            kinds[token["kind"]] = kinds.get(token["kind"], 0) + 1
        assert not {"[CLS]", "[SEP]"} & {token["original"] for token in chosen}
    count = sum(number for kind, number in kinds.items() if kind is not None)
    shares = [kinds[kind] / count for kind in ("mask", "random", "kept")]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.04)
    assert masked_instance(tokenizer, text, text_b, 1) != masked_instance(tokenizer, text, text_b, 2)
