"""A few held-out blanks whose best guesses are noted at every evaluation, so that one can see a model learn."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import torch

from bertsmith.batch import Batch, pack
from bertsmith.model.heads import PretrainingModel
from bertsmith.text.tokenizer import Tokenizer
from bertsmith.training.device import autocast

_BLANKS = 4
_GUESSES = 3
# Tokens that are shown on either side.
_AROUND = 10


@torch.no_grad()
def filled_blanks(
    model: PretrainingModel, held_out: Batch, tokenizer: Tokenizer, device: torch.device, dtype: torch.dtype
) -> list[dict[str, Any]]:
    """Return the best guesses for one blank in each of four sequences of a batch of fixed masks.

    Which they are depends on the batch alone, so a run that goes on asks the same. Left to right a blank is the next
    token, and nothing stands after it.

    Returns:
        For each blank ``before`` and ``after`` (text as the model sees it), ``answer`` and ``guesses``: [token, share].
    """
    assert held_out.masked_positions is not None
    assert held_out.masked_labels is not None
    starts, positions = held_out.sequence_starts.tolist(), held_out.masked_positions.tolist()
    labels, ids = held_out.masked_labels.tolist(), held_out.token_ids.tolist()
    asked: list[tuple[int, int, int]] = []
    for number in range(0, len(starts) - 1, max(1, (len(starts) - 1) // _BLANKS)):
        own = [place for place, at in enumerate(positions) if starts[number] <= at < starts[number + 1]]
        if own and len(asked) < _BLANKS:
            middle = own[len(own) // 2]
            asked.append((number, positions[middle] - starts[number], labels[middle]))
    if not asked:
        return []
    sequences = [ids[starts[number] : starts[number + 1]] for number, _, _ in asked]
    segments = [held_out.segment_ids[starts[number] : starts[number + 1]].numpy() for number, _, _ in asked]
    batch = pack(sequences, segments)
    wanted = batch.sequence_starts[:-1] + torch.tensor([at for _, at, _ in asked])
    model.eval()
    with autocast(dtype, device):
        logits = model(replace(batch, masked_positions=wanted).to(device)).mlm_logits
    top = logits.float().softmax(1).topk(min(_GUESSES, logits.shape[1]), dim=1)
    found = []
    for (_, at, answer), sequence, shares, numbers in zip(
        asked, sequences, top.values.tolist(), top.indices.tolist(), strict=True
    ):
        seen = at + 1 if model.config.is_decoder else at
        guesses = [[tokenizer.tokens[n], round(share, 4)] for n, share in zip(numbers, shares, strict=True)]
        after = [] if model.config.is_decoder else sequence[at + 1 : at + 1 + _AROUND]
        before = _text(sequence[max(0, seen - _AROUND) : seen], tokenizer)
        found.append(
            {
                "before": before,
                "after": _text(after, tokenizer),
                "answer": tokenizer.tokens[answer],
                "guesses": guesses,
            }
        )
    return found


def _text(ids: list[int], tokenizer: Tokenizer) -> str:
    """Return tokens as text, the pieces of a word joined; a special token is no word."""
    joined = " ".join(tokenizer.tokens[number] for number in ids)
    return re.sub(r"(?<!\]) ##", "", joined)
