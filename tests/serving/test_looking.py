"""Filled blanks, next sentences, and how a text is seen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from bertsmith.errors import InputError
from bertsmith.serving.looking import fill, next_sentence, show
from bertsmith.text.store import TokenStore


def test_fill_gives_probabilities_for_every_blank(run: Path) -> None:
    blanks = fill(run, "the [MASK] sees [MASK].", top_k=4)
    assert len(blanks) == 2
    for blank in blanks:
        shares = [share for _, share in blank]
        assert len(shares) == 4
        assert shares == sorted(shares, reverse=True)
        assert 0 < sum(shares) <= 1 + 1e-6
    everything = fill(run, "the [MASK]", top_k=10_000)[0]
    assert sum(share for _, share in everything) == pytest.approx(1.0, abs=1e-4)


def test_next_sentence_is_a_probability(run: Path) -> None:
    assert 0 < next_sentence(run, "the cat sees the river.", "나는 어제 밥을 먹었다.") < 1


def test_show_points_into_the_original(run: Path, vocabulary: Path) -> None:
    text = "The cat 밥을!"
    for place in (run, vocabulary):
        rows = show(place, text, "a dog")
        assert [r.position for r in rows] == list(range(len(rows)))
        assert rows[0].token == "[CLS]"
        assert rows[0].span is None
        assert "".join(r.characters for r in rows if r.segment == 0) == "Thecat밥을!"
        assert "".join(r.characters for r in rows if r.segment == 1) == "adog"


def test_refusals(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no \[MASK\]"):
        fill(run, "nothing to fill")
    with pytest.raises(InputError, match="positions"):
        fill(run, "[MASK] " + "the cat " * 60)
    with pytest.raises(InputError, match="empty sentence"):
        next_sentence(run, "the cat", " ")
    with pytest.raises(InputError, match="holds no model"):
        show(tmp_path, "text")


def test_published_models_with_one_of_the_heads(tmp_path: Path, store: TokenStore) -> None:
    numbers = {"num_hidden_layers": 1, "hidden_size": 12, "num_attention_heads": 2, "intermediate_size": 17}
    config = transformers.BertConfig(vocab_size=store.vocab_size, **numbers)
    tokenizer = store.tokenizer
    for kind in ("BertForMaskedLM", "BertForNextSentencePrediction"):
        torch.manual_seed(2)
        theirs = getattr(transformers, kind)(config).eval()
        theirs.save_pretrained(tmp_path / kind)
        tokenizer.save(tmp_path / kind)
        if kind == "BertForMaskedLM":
            encoding = tokenizer.encode("the [MASK] sees", allow_special=True)
            with torch.no_grad():
                logits = theirs(input_ids=torch.tensor([encoding.ids])).logits[0, encoding.ids.index(tokenizer.mask_id)]
            assert fill(tmp_path / kind, "the [MASK] sees", 1)[0][0] == (
                tokenizer.tokens[int(logits.argmax())],
                pytest.approx(float(logits.softmax(0).max()), rel=1e-4),
            )
            with pytest.raises(InputError, match="no next-sentence head"):
                next_sentence(tmp_path / kind, "the cat", "a dog")
        else:
            encoding = tokenizer.encode("the cat", "a dog")
            with torch.no_grad():
                given = {"input_ids": encoding.ids, "token_type_ids": encoding.segment_ids}
                logits = theirs(**{name: torch.tensor([ids]) for name, ids in given.items()}).logits[0]
            assert next_sentence(tmp_path / kind, "the cat", "a dog") == pytest.approx(
                float(logits.softmax(0)[0]), rel=1e-4
            )
            with pytest.raises(InputError, match="no masked-language-model head"):
                fill(tmp_path / kind, "the [MASK] sees")
