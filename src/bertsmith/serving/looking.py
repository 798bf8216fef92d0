"""A look at what a pre-trained model learned: filled blanks, next sentences, and how it sees a text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from bertsmith.batch import Batch, pack
from bertsmith.errors import InputError
from bertsmith.model.heads import PretrainingModel
from bertsmith.model.weights import load_pretraining_model, model_directory
from bertsmith.text.tokenizer import Encoding, Tokenizer


@dataclass(frozen=True)
class TokenRow:
    """A token as the encoder gets it.

    Attributes:
        token: the piece.
        token_id: its id.
        word: the number of its word in its text, None for special tokens.
        segment: 0 or 1.
        position: from 0.
        span: (start, end) in its text, None for special tokens.
        characters: what stands there in the original text.
    """

    token: str
    token_id: int
    word: int | None
    segment: int
    position: int
    span: tuple[int, int] | None
    characters: str


@torch.inference_mode()
def fill(model: Path | str, text: str, top_k: int = 5) -> list[list[tuple[str, float]]]:
    """Return for every ``[MASK]`` in a text the ``top_k`` likeliest tokens with their probabilities.

    Raises:
        InputError: the text has no ``[MASK]``, is too long, or the model has no language-model head or predicts only
            what comes next.
    """
    network, tokenizer = _load(Path(model), "mlm.")
    if network.config.is_decoder:
        raise InputError("was trained left to right: it predicts what comes next and fills no blanks", path=Path(model))
    return likeliest(tokenizer, network(batch_with_blanks(tokenizer, text)).mlm_logits, top_k)


@torch.inference_mode()
def next_sentence(model: Path | str, text_a: str, text_b: str) -> float:
    """Return the probability that ``text_b`` is the next sentence after ``text_a``."""
    network, tokenizer = _load(Path(model), "nsp.")
    limit = network.config.max_position_embeddings
    return share_of_next(network(batch_of_pair(tokenizer, text_a, text_b, limit)).nsp_logits)


def batch_with_blanks(tokenizer: Tokenizer, text: str) -> Batch:
    """Return a text as a batch whose masked positions are its ``[MASK]``.

    Raises:
        InputError: it has none.
    """
    encoding = tokenizer.encode(text, allow_special=True)
    positions = [place for place, number in enumerate(encoding.ids) if number == tokenizer.mask_id]
    if not positions:
        raise InputError(f"no [MASK] in {text!r}; write it where a word is to be filled in")
    return replace(_batch(encoding), masked_positions=torch.tensor(positions))


def likeliest(tokenizer: Tokenizer, logits: Tensor, top_k: int) -> list[list[tuple[str, float]]]:
    """Return for each of M blanks, of logits (M, V), the ``top_k`` likeliest tokens with their probabilities."""
    top = logits.softmax(1).topk(min(top_k, tokenizer.vocab_size), dim=1)
    return [
        [(tokenizer.tokens[number], share) for number, share in zip(numbers, values, strict=True)]
        for numbers, values in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    ]


def batch_of_pair(tokenizer: Tokenizer, text_a: str, text_b: str, limit: int) -> Batch:
    """Return two sentences as a batch of one sequence of at most ``limit`` tokens.

    Raises:
        InputError: one of them is empty.
    """
    for text in (text_a, text_b):
        if not text.strip():
            raise InputError("an empty sentence; expected two sentences")
    return _batch(tokenizer.encode(text_a, text_b, limit))


def share_of_next(logits: Tensor) -> float:
    """Return the probability that the pair whose logits (1, 2) these are follow each other."""
    return float(logits.softmax(1)[0, 0])


def show(directory: Path | str, text: str, text_b: str | None = None) -> list[TokenRow]:
    """Return the tokens of a text or pair; ``directory`` may be a model, a run or a vocabulary."""
    directory = Path(directory)
    if not (directory / "tokenizer.json").exists() and not (directory / "vocab.txt").exists():
        directory = model_directory(directory)
    return token_rows(Tokenizer.load(directory), text, text_b)


def token_rows(tokenizer: Tokenizer, text: str, text_b: str | None = None) -> list[TokenRow]:
    """Return the tokens of a text or pair, special tokens in it taken as such."""
    encoding = tokenizer.encode(text, text_b, allow_special=True)
    texts = (text, text_b or "")
    rows = []
    for position, (token, number) in enumerate(zip(encoding.tokens, encoding.ids, strict=True)):
        span, segment = encoding.char_spans[position], encoding.segment_ids[position]
        characters = "" if span is None else texts[segment][span[0] : span[1]]
        rows.append(TokenRow(token, number, encoding.word_ids[position], segment, position, span, characters))
    return rows


def _batch(encoding: Encoding) -> Batch:
    return pack([encoding.ids], [encoding.segment_ids])


def _load(model: Path, head: str) -> tuple[PretrainingModel, Tokenizer]:
    directory = model_directory(model)
    return load_pretraining_model(directory, (head,)), Tokenizer.load(directory)
